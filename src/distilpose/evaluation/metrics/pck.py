"""PCK: the share of keypoints that lie close to their labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from distilpose.evaluation.ground_truth import LabeledPerson
from distilpose.skeletons import Skeleton
from distilpose.types import FloatArray

PCK_THRESHOLD = 0.2
ALL_JOINTS = "all"


class JointAccuracy(NamedTuple):
    """How well one keypoint, or all of them, was found.

    Attributes:
        pck: share of the labeled keypoints within the threshold; None when nothing is labeled.
        labeled: how many there are.
    """

    pck: float | None
    labeled: int


def pck(people: Sequence[LabeledPerson], xy_img: FloatArray, skeleton: Skeleton) -> dict[str, JointAccuracy]:
    """PCK@0.2: a keypoint is found when it lies within 0.2 x the longer side of the annotated person box.

    Args:
        people: P labeled people.
        xy_img: (P, K, 2) prediction for each in image pixels, NaN for a person without one: all missed.
        skeleton: names of the keypoints.

    Returns:
        Accuracy by keypoint name, in skeleton order, and last `ALL_JOINTS` over all labeled keypoints together.
    """
    boxes = np.stack([person.box_xyxy for person in people])
    reach = PCK_THRESHOLD * (boxes[:, 2:] - boxes[:, :2]).max(-1)
    return share_within(people, xy_img, reach, skeleton)


def share_within(
    people: Sequence[LabeledPerson],
    xy_img: FloatArray,
    reach: FloatArray,
    skeleton: Skeleton,
    *,
    not_in_all: Sequence[str] = (),
) -> dict[str, JointAccuracy]:
    """How many labeled keypoints lie within each person's own reach.

    Args:
        people: P labeled people; may be none.
        xy_img: (P, K, 2) prediction for each in image pixels, NaN for a person without one: all missed.
        reach: (P,) in image pixels.
        skeleton: names of the keypoints.
        not_in_all: names of keypoints that do not count in `ALL_JOINTS`.

    Returns:
        Accuracy by keypoint name, in skeleton order, and last `ALL_JOINTS` over all labeled keypoints together.
    """
    count = skeleton.num_keypoints
    labeled = np.array([person.labeled for person in people], dtype=bool).reshape(-1, count)
    true_xy_img = np.array([person.xy_img for person in people], dtype=np.float64).reshape(-1, count, 2)
    distance = np.linalg.norm(xy_img - true_xy_img, axis=-1)
    found = labeled & (distance <= reach[:, None])
    accuracy = {name: _share(found[:, k], labeled[:, k]) for k, name in enumerate(skeleton.keypoint_names)}
    counted = [k for k, name in enumerate(skeleton.keypoint_names) if name not in not_in_all]
    return {**accuracy, ALL_JOINTS: _share(found[:, counted], labeled[:, counted])}


def _share(found: NDArray[np.bool_], labeled: NDArray[np.bool_]) -> JointAccuracy:
    count = int(labeled.sum())
    return JointAccuracy(float(found.sum() / count) if count else None, count)
