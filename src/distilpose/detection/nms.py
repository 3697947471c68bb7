"""Non-maximum suppression whose time and memory are bounded, however many boxes there are."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from distilpose.geometry import box_iou_xyxy
from distilpose.types import FloatArray

MAX_BOXES = 300
MAX_CANDIDATES = 30_000
_BLOCK = 256  # candidates compared with each other at once


def non_maximum_suppression(
    boxes_xyxy: ArrayLike,
    score: ArrayLike,
    iou_threshold: float,
    *,
    max_boxes: int = MAX_BOXES,
    max_candidates: int = MAX_CANDIDATES,
) -> NDArray[np.intp]:
    """Keep the best box, drop those that overlap it by more than the threshold, go on with the best of the rest.

    Blocks of candidates are compared with the boxes kept so far, then within themselves, until ``max_boxes`` are kept:
    at most ``max_candidates`` x (``max_boxes`` + 256) overlaps are computed.

    Args:
        boxes_xyxy: (N, 4), finite.
        score: (N,), finite; of equal scores the first in the list comes first.
        iou_threshold: in [0, 1]; 1 keeps every box.
        max_boxes: boxes kept at most.
        max_candidates: boxes looked at, those of the highest scores.

    Returns:
        (M,) indices of the boxes kept, best score first.
    """
    boxes = np.asarray(boxes_xyxy, dtype=np.float64).reshape(-1, 4)
    order = np.argsort(-np.asarray(score, dtype=np.float64), kind="stable")[:max_candidates]
    kept = order[:0]
    for start in range(0, len(order), _BLOCK):
        block = order[start : start + _BLOCK]
        block = block[(box_iou_xyxy(boxes[block], boxes[kept]) <= iou_threshold).all(1)]
        kept = np.concatenate([kept, block[_greedy(boxes[block], iou_threshold)]])
        if len(kept) >= max_boxes:
            break
    return kept[:max_boxes]


def _greedy(boxes_xyxy: FloatArray, iou_threshold: float) -> NDArray[np.bool_]:
    """(N,) True for the boxes that no earlier kept one overlaps by more than the threshold."""
    clear = box_iou_xyxy(boxes_xyxy, boxes_xyxy) <= iou_threshold
    keep = np.ones(len(boxes_xyxy), dtype=bool)
    for row in range(len(keep)):
        if keep[row]:
            keep[row + 1 :] &= clear[row, row + 1 :]
    return keep
