"""What every detector does with the boxes it found, whatever model they come from."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from distilpose.formats.boxes import PersonBoxes
from distilpose.geometry import box_iou_xyxy
from distilpose.types import FloatArray

MAX_BOXES = 300
MAX_CANDIDATES = 30_000
_BLOCK = 256  # candidates compared with each other at once


def keep_people(
    boxes_xyxy: ArrayLike, score: ArrayLike, image_hw: tuple[int, int], *, threshold: float, nms_iou: float
) -> PersonBoxes:
    """Clip the boxes to the image, drop unusable, weak and doubled ones, and sort the rest.

    Args:
        boxes_xyxy: (N, 4) image pixels, as a model gives them: they may be NaN, infinite, turned round or outside.
        score: (N,); those of ``threshold`` and above stay.
        image_hw: (H, W) of the image.
        threshold: see ``score``.
        nms_iou: of two boxes that overlap by more, the weaker one goes.

    Returns:
        M >= 0 boxes with an area inside the image, best score first.
    """
    boxes = np.array(boxes_xyxy, dtype=np.float64).reshape(-1, 4)
    scores = np.asarray(score, dtype=np.float64).reshape(-1)
    usable = np.isfinite(boxes).all(1) & (scores >= threshold)  # a NaN score is not
    boxes = np.clip(boxes, 0, [image_hw[1], image_hw[0]] * 2)
    usable &= (boxes[:, :2] < boxes[:, 2:]).all(1)
    boxes, scores = boxes[usable], scores[usable]
    kept = non_maximum_suppression(boxes, scores, nms_iou)
    return PersonBoxes(boxes[kept], scores[kept])


def non_maximum_suppression(
    boxes_xyxy: FloatArray,
    score: FloatArray,
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
    order = np.argsort(-score, kind="stable")[:max_candidates]
    kept = order[:0]
    for start in range(0, len(order), _BLOCK):
        block = order[start : start + _BLOCK]
        block = block[(box_iou_xyxy(boxes_xyxy[block], boxes_xyxy[kept]) <= iou_threshold).all(1)]
        clear = box_iou_xyxy(boxes_xyxy[block], boxes_xyxy[block]) <= iou_threshold
        keep = np.ones(len(block), dtype=bool)
        for row in range(len(block)):
            if keep[row]:
                keep[row + 1 :] &= clear[row, row + 1 :]
        kept = np.concatenate([kept, block[keep]])
        if len(kept) >= max_boxes:
            break
    return kept[:max_boxes]
