"""Person boxes as arrays (N, 4) in image pixels."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from distilpose.errors import InputError

FloatArray = NDArray[np.float64]


def check_boxes_xyxy(boxes_xyxy: ArrayLike) -> FloatArray:
    """Return the boxes as a float array (N, 4); an empty input gives (0, 4).

    Raises:
        InputError: the shape is not (N, 4), a value is not finite, or a box has no area.
    """
    try:
        boxes = np.asarray(boxes_xyxy, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"boxes_xyxy must be numbers of shape (N, 4), got {boxes_xyxy!r}") from error
    if boxes.size == 0:
        return np.zeros((0, 4))
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise InputError(f"boxes_xyxy must have shape (N, 4) as x1, y1, x2, y2, got {boxes.shape}")
    good = np.isfinite(boxes).all(1) & (boxes[:, 0] < boxes[:, 2]) & (boxes[:, 1] < boxes[:, 3])
    if not good.all():
        row = int(np.argmin(good))
        raise InputError(f"boxes_xyxy must be finite with x1 < x2 and y1 < y2, got {boxes[row].tolist()} (row {row})")
    return boxes


def xywh_to_xyxy(boxes_xywh: ArrayLike) -> FloatArray:
    """(N, 4) left, top, width, height -> left, top, right, bottom."""
    boxes = np.asarray(boxes_xywh, dtype=np.float64).reshape(-1, 4)
    return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)


def xyxy_to_xywh(boxes_xyxy: ArrayLike) -> FloatArray:
    """(N, 4) left, top, right, bottom -> left, top, width, height."""
    boxes = np.asarray(boxes_xyxy, dtype=np.float64).reshape(-1, 4)
    return np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)


def clip_boxes_xyxy(boxes_xyxy: ArrayLike, image_hw: tuple[int, int]) -> FloatArray:
    """Clip ground-truth boxes to the image the way the COCO top-down baselines do.

    The right and bottom edges end on the last pixel index, and a width w spans w - 1 pixel steps, so
    an inner box shrinks by one pixel. Detector boxes are not clipped.

    Args:
        boxes_xyxy: (N, 4) image pixels.
        image_hw: (H, W) of the image.

    Returns:
        (N, 4) clipped boxes; one wholly outside the image has x2 <= x1 or y2 <= y1.
    """
    boxes = np.array(boxes_xyxy, dtype=np.float64).reshape(-1, 4)
    height, width = image_hw
    span = np.maximum(0.0, boxes[:, 2:] - boxes[:, :2] - 1)
    top_left = np.maximum(0.0, boxes[:, :2])
    bottom_right = np.minimum([width - 1, height - 1], top_left + span)
    return np.concatenate([top_left, bottom_right], axis=1)
