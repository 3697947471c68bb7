"""Person boxes as arrays (N, 4) in image pixels."""

from __future__ import annotations

import sys

import numpy as np
from numpy.typing import ArrayLike, NDArray

from distilpose.errors import InputError
from distilpose.types import FloatArray

_FARTHEST = 1e9  # pixels; products of farther ones leave the range of numbers
_SMALLEST = 1e-3  # pixels of a box's longer side; the crop of a smaller one has a scale out of range
# A box made of keypoints grows by this share of its longer side on each side.
BOX_GROWTH = 0.1
_SMALLEST_SIDE = 2.0  # pixels of a box made of keypoints: `clip_boxes_xyxy` takes one off


def check_array(values: ArrayLike, name: str, rows: int | None, inner: tuple[int, ...] = ()) -> FloatArray:
    """Return an array (rows, *inner) of people as floats; no people, perhaps a bare [], give (0, *inner).

    Args:
        values: finite numbers.
        name: of the array, for errors.
        rows: number of people; None: any.
        inner: shape of one person's numbers.

    Raises:
        InputError: it has another shape, or holds something else than finite numbers.
    """
    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"{name} must be an array of numbers, got {values!r}") from error
    if array.size == 0 and not rows:
        return np.zeros((0, *inner))
    if array.ndim != 1 + len(inner) or array.shape[1:] != inner or rows not in (None, len(array)):
        sides = ", ".join(map(str, ("N" if rows is None else rows, *inner)))
        raise InputError(f"{name} must have shape ({sides}), got {array.shape}")
    if not np.isfinite(array).all():
        raise InputError(f"{name} must be finite, got {array[~np.isfinite(array)][0]}")
    return array


def check_boxes_xyxy(boxes_xyxy: ArrayLike, image_hw: tuple[int, int] | None = None) -> FloatArray:
    """Return the boxes as a float array (N, 4); an empty input gives (0, 4).

    Raises:
        InputError: another shape, values not finite or beyond 1e9 pixels, no area, no side of 0.001 pixels, or no pixel
            inside of an image of (H, W) ``image_hw``.
    """
    try:
        boxes = np.asarray(boxes_xyxy, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"boxes_xyxy must be numbers of shape (N, 4), got {boxes_xyxy!r}") from error
    if boxes.size == 0:
        return np.zeros((0, 4))
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        hint = f": one box is [{boxes.tolist()}]" if boxes.shape == (4,) else ""
        raise InputError(f"boxes_xyxy must have shape (N, 4) as x1, y1, x2, y2, got {boxes.shape}{hint}")
    with np.errstate(invalid="ignore", over="ignore"):  # of infinite and of very large boxes
        sides = boxes[:, 2:] - boxes[:, :2]
    for good, rule in (
        (np.isfinite(boxes).all(1) & (sides > 0).all(1), "finite with x1 < x2 and y1 < y2"),
        (sides.max(1) >= _SMALLEST, f"{_SMALLEST:g} pixels large or more"),
        (np.abs(boxes).max(1) <= _FARTHEST, f"within {_FARTHEST:g} pixels"),
        (
            image_hw is None or overlaps_image(boxes, image_hw),
            "at least partly inside of the {1} x {0} pixels of the image",
        ),
    ):
        if not np.all(good):
            row = int(np.argmin(good))
            raise InputError(
                f"boxes_xyxy must be {rule.format(*image_hw or ())}, got {boxes[row].tolist()} (row {row})"
            )
    return boxes


def overlaps_image(boxes_xyxy: FloatArray, image_hw: tuple[int, int]) -> NDArray[np.bool_]:
    """(N,) whether a part of each box (N, 4) lies inside of an image of (H, W)."""
    return np.asarray((boxes_xyxy[:, 2:] > 0).all(1) & (boxes_xyxy[:, :2] < image_hw[::-1]).all(1))


def xywh_to_xyxy(boxes_xywh: ArrayLike) -> FloatArray:
    """(N, 4) left, top, width, height -> left, top, right, bottom."""
    boxes = np.asarray(boxes_xywh, dtype=np.float64).reshape(-1, 4)
    return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)


def xyxy_to_xywh(boxes_xyxy: ArrayLike) -> FloatArray:
    """(N, 4) left, top, right, bottom -> left, top, width, height."""
    boxes = np.asarray(boxes_xyxy, dtype=np.float64).reshape(-1, 4)
    return np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)


def clip_boxes_xyxy(boxes_xyxy: ArrayLike, image_hw: tuple[int, int]) -> FloatArray:
    """Clip ground-truth boxes (N, 4) in pixels to an image of (H, W), the way the COCO top-down baselines do.

    The right and bottom edges end on the last pixel index, and a width w spans w - 1 pixel steps, so an inner box
    shrinks by one pixel. One wholly outside the image has x2 <= x1 or y2 <= y1. Detected boxes are not treated so.
    """
    boxes = np.array(boxes_xyxy, dtype=np.float64).reshape(-1, 4)
    height, width = image_hw
    span = np.maximum(0.0, boxes[:, 2:] - boxes[:, :2] - 1)
    top_left = np.maximum(0.0, boxes[:, :2])
    bottom_right = np.minimum([width - 1, height - 1], top_left + span)
    return np.concatenate([top_left, bottom_right], axis=1)


def box_of_keypoints(values: object) -> list[float] | None:
    """The box (left, top, width, height) of the labeled keypoints of an annotation, grown by `BOX_GROWTH`.

    It is None where fewer than two keypoints in different places are labeled, or the list is broken.

    Args:
        values: COCO's flat list of K times x, y in image pixels and visibility, unchecked.
    """
    if not isinstance(values, list) or len(values) % 3:
        return None
    if not all(isinstance(value, int | float) and abs(value) <= sys.float_info.max for value in values):
        return None
    points = np.array(values, dtype=np.float64).reshape(-1, 3)
    shown = points[points[:, 2] > 0, :2]
    if len(np.unique(shown, axis=0)) < 2:
        return None
    low, high = shown.min(axis=0), shown.max(axis=0)
    side = np.maximum(high - low + 2 * BOX_GROWTH * (high - low).max(), _SMALLEST_SIDE)
    return [*((low + high - side) / 2).tolist(), *side.tolist()]


def box_iou_xyxy(boxes_a_xyxy: ArrayLike, boxes_b_xyxy: ArrayLike) -> FloatArray:
    """Intersection over union of every pair of (N, 4) and (M, 4) boxes of one frame: (N, M) in [0, 1].

    It is 0 where neither box has an area.
    """
    intersection, area_a, area_b = _intersection(boxes_a_xyxy, boxes_b_xyxy)
    return _share(intersection, area_a + area_b - intersection)


def box_share_xyxy(boxes_a_xyxy: ArrayLike, boxes_b_xyxy: ArrayLike) -> FloatArray:
    """How much of each of (N, 4) boxes lies inside each of (M, 4): (N, M) in [0, 1], 0 for a box without an area."""
    intersection, area_a, _ = _intersection(boxes_a_xyxy, boxes_b_xyxy)
    return _share(intersection, np.broadcast_to(area_a, intersection.shape))


def _intersection(boxes_a_xyxy: ArrayLike, boxes_b_xyxy: ArrayLike) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Areas of the (N, M) overlaps, and those of the boxes, (N, 1) and (1, M)."""
    a = np.asarray(boxes_a_xyxy, dtype=np.float64).reshape(-1, 1, 4)
    b = np.asarray(boxes_b_xyxy, dtype=np.float64).reshape(1, -1, 4)
    overlap_wh = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
    return np.maximum(overlap_wh, 0).prod(-1), (a[..., 2:] - a[..., :2]).prod(-1), (b[..., 2:] - b[..., :2]).prod(-1)


def _share(part: FloatArray, whole: FloatArray) -> FloatArray:
    share: FloatArray = np.divide(part, whole, out=np.zeros_like(part), where=whole > 0)
    return share
