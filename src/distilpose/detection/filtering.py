"""What every detector does with the boxes it found, whatever model they come from."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from distilpose.detection.nms import non_maximum_suppression
from distilpose.errors import ConfigError
from distilpose.formats.boxes import PersonBoxes


def keep_people(
    boxes_xyxy: ArrayLike, score: ArrayLike, image_hw: tuple[int, int], *, threshold: float, nms_iou: float
) -> PersonBoxes:
    """Clip the boxes to the image, drop unusable, weak and doubled ones, and sort the rest.

    Args:
        boxes_xyxy: (N, 4) image pixels, as a model gives them: they may be NaN, infinite, turned round or outside.
        score: (N,).
        image_hw: (H, W) of the image.
        threshold: least score of a box that stays.
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


def check_fraction(name: str, value: float) -> float:
    """Return ``value``, an option called ``name``.

    Raises:
        ConfigError: it is not a number in [0, 1].
    """
    if not (isinstance(value, int | float) and math.isfinite(value) and 0 <= value <= 1):
        raise ConfigError(f"{name} must be a number from 0 to 1, got {value!r}")
    return float(value)
