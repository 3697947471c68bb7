"""The map between image pixels and crop pixels: one object for training, evaluation and prediction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from distilpose.types import FloatArray

CROP_PADDING = 1.25  # DistilPose and the COCO top-down baselines


@dataclass(frozen=True)
class CropTransform:
    """A box of the image, turned, perhaps mirrored, and scaled onto a crop of ``size_hw`` pixels.

    A point moves to the box's center, is mirrored, turned, scaled by ``W / box_wh[0]`` along both axes,
    and moves to (W / 2, H / 2): the affine map of the COCO top-down baselines. With ``udp`` it is the "unbiased" one,
    which has W - 1 and H - 1 in the place of W and H: the box's edges lie in the middle of the outermost pixels.

    Attributes:
        center_xy: box center in image pixels.
        box_wh: width and height of the padded box in image pixels, in the crop's aspect ratio.
        size_hw: (H, W) of the crop in pixels.
        rotation_deg: turn of the crop window; positive turns its content counter-clockwise.
        flip: mirror left and right.
        udp: count pixels from center to center, for networks trained with "unbiased data processing"
            (arXiv:1911.07524); ``box_wh`` stays as it is.
    """

    center_xy: tuple[float, float]
    box_wh: tuple[float, float]
    size_hw: tuple[int, int]
    rotation_deg: float = 0.0
    flip: bool = False
    udp: bool = False

    @classmethod
    def from_box(
        cls, box_xyxy: ArrayLike, size_hw: tuple[int, int], padding: float = CROP_PADDING, *, udp: bool = False
    ) -> CropTransform:
        """The crop of a person box, grown to the crop's aspect ratio, then padded.

        Args:
            box_xyxy: (4,) image pixels with x1 < x2, y1 < y2.
            size_hw: (H, W) of the crop.
            padding: factor on both sides of the box.
            udp: see the class.
        """
        x1, y1, x2, y2 = (float(value) for value in np.asarray(box_xyxy, dtype=np.float64))
        aspect = size_hw[1] / size_hw[0]
        width, height = x2 - x1, y2 - y1
        if width > aspect * height:
            height = width / aspect
        else:
            width = height * aspect
        return cls(((x1 + x2) / 2, (y1 + y2) / 2), (width * padding, height * padding), size_hw, udp=udp)

    @property
    def scale(self) -> float:
        """Crop pixels per image pixel, along x."""
        return float(self._size_wh[0] / self.box_wh[0])

    @property
    def matrix(self) -> FloatArray:
        """(2, 3) affine matrix, image pixels -> crop pixels."""
        angle = np.deg2rad(self.rotation_deg)
        cos, sin = self.scale * np.cos(angle), self.scale * np.sin(angle)
        linear = np.array([[cos, sin], [-sin, cos]])
        if self.udp:  # W - 1 and H - 1 have not quite the box's aspect ratio
            linear[1] *= self._size_wh[1] / self.box_wh[1] / self.scale
        if self.flip:
            linear[:, 0] *= -1
        offset = self._size_wh / 2 - linear @ np.array(self.center_xy)
        return np.concatenate([linear, offset[:, None]], axis=1)

    @property
    def inverse_matrix(self) -> FloatArray:
        """(2, 3) affine matrix, crop pixels -> image pixels."""
        matrix = self.matrix
        linear = np.linalg.inv(matrix[:, :2])
        return np.concatenate([linear, -linear @ matrix[:, 2:]], axis=1)

    def to_crop(self, xy_img: ArrayLike) -> FloatArray:
        """(..., 2) image pixels -> (..., 2) crop pixels."""
        return _apply(self.matrix, xy_img)

    def to_img(self, xy_crop: ArrayLike) -> FloatArray:
        """(..., 2) crop pixels -> (..., 2) image pixels."""
        return _apply(self.inverse_matrix, xy_crop)

    def to_norm(self, xy_img: ArrayLike) -> FloatArray:
        """(..., 2) image pixels -> (..., 2) fractions of the crop: of W and H, with ``udp`` of W - 1 and H - 1."""
        return self.to_crop(xy_img) / self._size_wh

    def norm_to_img(self, xy_norm: ArrayLike) -> FloatArray:
        """(..., 2) fractions of the crop -> (..., 2) image pixels."""
        return self.to_img(np.asarray(xy_norm, dtype=np.float64) * self._size_wh)

    @property
    def _size_wh(self) -> FloatArray:
        return np.array(self.size_hw[::-1], dtype=np.float64) - self.udp


def _apply(matrix: FloatArray, points: ArrayLike) -> FloatArray:
    return np.asarray(points, dtype=np.float64) @ matrix[:, :2].T + matrix[:, 2]


def crops_from_boxes(
    boxes_xyxy: ArrayLike, size_hw: tuple[int, int], padding: float = CROP_PADDING, *, udp: bool = False
) -> Sequence[CropTransform]:
    """One `CropTransform.from_box` per row of (N, 4) boxes."""
    return [CropTransform.from_box(box, size_hw, padding, udp=udp) for box in np.asarray(boxes_xyxy).reshape(-1, 4)]
