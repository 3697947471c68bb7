"""Where a training crop lies and how its colors shift: drawn per sample from a generator that the caller seeds."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated

import cv2
import numpy as np

from distilpose.data.coco import PersonSample
from distilpose.geometry import CropTransform
from distilpose.options import ClosedUnitInterval, NonNegativeFloat, NonNegativeInt, Range, check_options
from distilpose.skeletons import Skeleton
from distilpose.types import FloatArray, ImageArray

HALF_BODY_PADDING = 1.5  # the COCO top-down baselines
_BelowOne = Annotated[float, Range(0, 1, below_high=True)]
_LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601 gray of RGB


@dataclass(frozen=True)
class AugmentOptions:
    """How strongly training crops vary. The defaults are the paper's recipe for the student.

    Attributes:
        flip_prob: of mirroring left and right.
        half_body_prob: of cropping to the upper or lower body only.
        half_body_min_keypoints: half bodies are cut only when more than this many keypoints are labeled.
        rotation_deg: standard deviation of the turn, cut off at twice this value.
        rotation_prob: of turning at all.
        scale_std: standard deviation of the crop's size factor around 1, cut off at 1 +- this value.
        shift_prob: of moving the box.
        shift_fraction: largest move along each axis, as a fraction of the box's width and height.
        color_jitter: brightness, contrast and saturation factors are uniform in 1 +- this value; the recipe has
            0, small training sets gain from about 0.3.

    Raises:
        ConfigError: a value is out of range.
    """

    flip_prob: ClosedUnitInterval = 0.5
    half_body_prob: ClosedUnitInterval = 0.3
    half_body_min_keypoints: NonNegativeInt = 8
    rotation_deg: NonNegativeFloat = 45.0
    rotation_prob: ClosedUnitInterval = 0.6
    scale_std: _BelowOne = 0.35
    shift_prob: ClosedUnitInterval = 0.3
    shift_fraction: NonNegativeFloat = 0.2
    color_jitter: _BelowOne = 0.0

    def __post_init__(self) -> None:
        check_options(self)


def draw_crop_transform(
    sample: PersonSample,
    size_hw: tuple[int, int],
    skeleton: Skeleton,
    options: AugmentOptions,
    rng: np.random.Generator,
) -> CropTransform:
    """Draw one training crop (H, W) of a person: half body or shifted box, then mirror, turn and scale.

    How many draws are taken from ``rng`` depends on what is drawn.

    Source:
        The augmentation of DistilPose (arXiv:2303.02455) and the COCO top-down baselines. They move the box once,
        when the file is loaded; here it moves anew at each draw.
    """
    half = _draw_half_body(sample, skeleton, options, rng)
    if half is not None:
        crop = CropTransform.from_box(half, size_hw, HALF_BODY_PADDING)
    else:
        box, reach = sample.box_xyxy, options.shift_fraction * (sample.box_xyxy[2:] - sample.box_xyxy[:2])
        moved = rng.random() < options.shift_prob
        crop = CropTransform.from_box(box + np.tile(rng.uniform(-reach, reach), 2) if moved else box, size_hw)
    is_turned = rng.random() < options.rotation_prob
    turn = options.rotation_deg * float(np.clip(rng.standard_normal(), -2, 2)) if is_turned else 0.0
    grow = 1 + float(np.clip(options.scale_std * rng.standard_normal(), -options.scale_std, options.scale_std))
    return replace(
        crop,
        box_wh=(crop.box_wh[0] * grow, crop.box_wh[1] * grow),
        rotation_deg=turn,
        flip=bool(rng.random() < options.flip_prob),
    )


def _draw_half_body(
    sample: PersonSample, skeleton: Skeleton, options: AugmentOptions, rng: np.random.Generator
) -> FloatArray | None:
    """(4,) box around the labeled keypoints of one half of the body; None when no half is cut."""
    labeled = sample.visibility > 0
    if labeled.sum() <= options.half_body_min_keypoints or rng.random() >= options.half_body_prob:
        return None
    halves = [[index for index in half if labeled[index]] for half in (skeleton.upper_body, skeleton.lower_body)]
    usable = [half for half in halves if len(half) > 2]
    if not usable:
        return None
    points = sample.xy_img[usable[int(rng.integers(len(usable)))]]
    low, high = points.min(axis=0), points.max(axis=0)
    # Keypoints on one line span no area: a pixel on each side keeps the box a box.
    return np.concatenate([low, np.maximum(high, low + 1)])


def jitter_colors(crop: ImageArray, options: AugmentOptions, rng: np.random.Generator) -> ImageArray:
    """Shift saturation, contrast around the mean gray, and brightness of one (H, W, 3) uint8 RGB crop, in this order.

    ``options.color_jitter`` is the strength of all three; at 0 nothing is drawn and the crop itself comes back.
    """
    if options.color_jitter == 0:
        return crop
    saturation, contrast, brightness = rng.uniform(1 - options.color_jitter, 1 + options.color_jitter, 3)
    # All three are affine in the color, so one 3 x 4 matrix does them in one pass.
    mix = brightness * contrast * (saturation * np.eye(3) + (1 - saturation) * np.tile(_LUMA, (3, 1)))
    mean_gray = float(_LUMA @ np.array(cv2.mean(crop)[:3]))
    offset = np.full((3, 1), brightness * (1 - contrast) * mean_gray)
    return np.asarray(cv2.transform(crop, np.concatenate([mix, offset], axis=1)), dtype=np.uint8)
