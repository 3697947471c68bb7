"""PCK: the share of keypoints that lie close to their labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from distilpose.evaluation.comparison import ComparedPeople
from distilpose.types import FloatArray

PCK_THRESHOLD = 0.2
ALL_JOINTS = "all"


class JointAccuracy(NamedTuple):
    """How well one keypoint, or all of them, was found."""

    pck: float | None  # share of the labeled keypoints within the threshold; None when nothing is labeled
    labeled: int  # how many there are


def pck(people: ComparedPeople) -> dict[str, JointAccuracy]:
    """PCK@0.2: a keypoint is found when it lies within 0.2 x the longer side of the annotated person box."""
    return share_within(people, PCK_THRESHOLD * (people.box_xyxy[:, 2:] - people.box_xyxy[:, :2]).max(-1))


def share_within(
    people: ComparedPeople, reach: FloatArray, *, not_in_all: Sequence[str] = ()
) -> dict[str, JointAccuracy]:
    """How many labeled keypoints lie within each person's own reach; those of a person without a prediction do not.

    Args:
        people: P people.
        reach: (P,) in image pixels.
        not_in_all: names of keypoints that do not count in `ALL_JOINTS`.

    Returns:
        Accuracy by keypoint name, in skeleton order, and last `ALL_JOINTS` over all labeled keypoints together.
    """
    labeled, names = people.labeled, people.skeleton.keypoint_names
    found = labeled & (np.linalg.norm(people.xy_img - people.true_xy_img, axis=-1) <= reach[:, None])
    accuracy = {name: _share(found[:, k], labeled[:, k]) for k, name in enumerate(names)}
    counted = ~np.isin(names, list(not_in_all))
    return {**accuracy, ALL_JOINTS: _share(found[:, counted], labeled[:, counted])}


def _share(found: NDArray[np.bool_], labeled: NDArray[np.bool_]) -> JointAccuracy:
    count = int(labeled.sum())
    return JointAccuracy(float(found.sum() / count) if count else None, count)
