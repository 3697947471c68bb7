"""PCK: the share of keypoints that lie close to their labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from distilpose.evaluation.ground_truth import LabelledPerson
from distilpose.oks import oks
from distilpose.skeleton import Skeleton

PCK_THRESHOLD = 0.2
ALL_JOINTS = "all"


class JointAccuracy(NamedTuple):
    """How well one keypoint, or all of them, was found.

    Attributes:
        pck: share of the labelled keypoints within the threshold; None when nothing is labelled.
        labelled: how many there are.
    """

    pck: float | None
    labelled: int


def pck(people: Sequence[LabelledPerson], xy_img: NDArray[np.float64], skeleton: Skeleton) -> dict[str, JointAccuracy]:
    """PCK@0.2: a keypoint is found when it lies within 0.2 x the longer side of the annotated person box.

    Args:
        people: P labelled people.
        xy_img: (P, K, 2) prediction for each in image pixels, NaN for a person without one: all missed.
        skeleton: names of the keypoints.

    Returns:
        Accuracy by keypoint name, in skeleton order, and last `ALL_JOINTS` over all labelled keypoints together.
    """
    labelled = np.stack([person.labelled for person in people])
    distance = np.linalg.norm(xy_img - np.stack([person.xy_img for person in people]), axis=-1)
    boxes = np.stack([person.box_xyxy for person in people])
    reach = PCK_THRESHOLD * (boxes[:, 2:] - boxes[:, :2]).max(-1)
    found = labelled & (distance <= reach[:, None])
    accuracy = {name: _share(found[:, k], labelled[:, k]) for k, name in enumerate(skeleton.keypoint_names)}
    return {**accuracy, ALL_JOINTS: _share(found, labelled)}


def match_people(
    people: Sequence[LabelledPerson], results: Sequence[Mapping[str, Any]], skeleton: Skeleton
) -> NDArray[np.float64]:
    """Give each labelled person at most one result of the same image, the most similar pairs (by OKS) first.

    Args:
        people: P labelled people.
        results: in COCO's results layout.
        skeleton: of both.

    Returns:
        (P, K, 2) keypoints in image pixels, NaN for people left without a result.
    """
    xy_img = np.full((len(people), skeleton.num_keypoints, 2), np.nan)
    people_of = _rows_by_image([person.image_id for person in people])
    results_of = _rows_by_image([result["image_id"] for result in results])
    for image_id in people_of.keys() & results_of.keys():
        rows, candidates = people_of[image_id], results_of[image_id]
        predicted = np.stack([_keypoints(results[row]) for row in candidates])
        similarity = oks(
            np.stack([people[row].xy_img for row in rows]),
            predicted,
            np.array([[people[row].area] for row in rows]),
            skeleton.oks_sigmas,
            np.stack([people[row].labelled for row in rows]),
        )
        for person, candidate in _greedy_pairs(similarity):
            xy_img[rows[person]] = predicted[candidate]
    return xy_img


def _greedy_pairs(similarity: NDArray[np.float64]) -> list[tuple[int, int]]:
    """(N, M) similarity -> pairs (row, column), each row and column at most once, most similar first."""
    remaining = similarity.copy()
    pairs = []
    for _ in range(min(remaining.shape)):
        row, column = np.unravel_index(remaining.argmax(), remaining.shape)
        pairs.append((int(row), int(column)))
        remaining[row], remaining[:, column] = -1, -1
    return pairs


def _rows_by_image(image_ids: Sequence[int]) -> dict[int, list[int]]:
    rows: dict[int, list[int]] = {}
    for row, image_id in enumerate(image_ids):
        rows.setdefault(image_id, []).append(row)
    return rows


def _keypoints(result: Mapping[str, Any]) -> NDArray[np.float64]:
    return np.array(result["keypoints"], dtype=np.float64).reshape(-1, 3)[:, :2]


def _share(found: NDArray[np.bool_], labelled: NDArray[np.bool_]) -> JointAccuracy:
    count = int(labelled.sum())
    return JointAccuracy(float(found.sum() / count) if count else None, count)
