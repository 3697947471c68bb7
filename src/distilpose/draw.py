"""Poses on pictures: limbs coloured by body side, ellipses where the model is unsure."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from distilpose.skeleton import Side, Skeleton

Image = NDArray[np.uint8]
FloatArray = NDArray[np.float64]
Colour = tuple[int, int, int]

SIDE_COLOURS: dict[Side, Colour] = {"left": (0, 200, 255), "right": (255, 128, 20), "centre": (245, 245, 245)}
_INK = (16, 20, 28)  # the outline that keeps limbs legible on any background

# A limb is this share of the person's extent wide, within these bounds in pixels
_WIDTH_SHARE, _MIN_WIDTH, _MAX_WIDTH = 0.014, 0.8, 14.0
# Score at which a keypoint begins to show and from which it is drawn in full
_SCORE_RAMP = (0.05, 0.4)
# Sigma, as a share of the person's extent, at which its ellipse begins to show and from which it is drawn in full.
# A sure keypoint of a model trained on heatmaps of sigma 2 (of 64 cells, crop padded 1.25) lies at 0.04.
_SIGMA_RAMP = (0.03, 0.07)
_ELLIPSE_FILL, _ELLIPSE_EDGE = 0.22, 0.55

_SUBPIXEL_BITS = 4  # OpenCV draws at 1/16 pixel
_FAR = 1e5  # pixels; beyond this OpenCV's fixed-point coordinates overflow


class _Brush(NamedTuple):
    """How one person is drawn: line width in pixels (may be below 1) and (K,) opacity of the keypoints."""

    width: float
    opacity: FloatArray


def draw_poses(
    image: Image,
    xy: ArrayLike,
    skeleton: Skeleton,
    *,
    score: ArrayLike | None = None,
    sigma: ArrayLike | None = None,
) -> Image:
    """Draw people on a copy of a picture, the largest last.

    Lines grow with the person, so that distant people stay visible under them. Keypoints with a low score fade out.
    An ellipse of one standard deviation marks a keypoint whose sigma is large for the person's size.

    Args:
        image: (H, W, 3) uint8 RGB; it is not changed.
        xy: (N, K, 2) keypoints in image pixels; they may lie outside the image.
        skeleton: of the K keypoints.
        score: (N, K) in [0, 1]; None draws every keypoint in full.
        sigma: (N, K, 2) in image pixels along x and y; None draws no ellipse.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    canvas = image.copy()
    people = np.clip(np.asarray(xy, dtype=np.float64).reshape(-1, skeleton.num_keypoints, 2), -_FAR, _FAR)
    opacity = np.ones(people.shape[:2]) if score is None else _ramp(np.asarray(score, dtype=np.float64), _SCORE_RAMP)
    extents = [_extent(points, shown) for points, shown in zip(people, opacity, strict=True)]
    for person in np.argsort(extents, kind="stable"):
        width = float(np.clip(_WIDTH_SHARE * extents[person], _MIN_WIDTH, _MAX_WIDTH))
        brush = _Brush(width, opacity[person])
        if sigma is not None:
            spread = np.asarray(sigma, dtype=np.float64)[person]
            _draw_ellipses(canvas, people[person], spread, skeleton, brush, extents[person])
        _draw_limbs(canvas, people[person], skeleton, brush)
        _draw_joints(canvas, people[person], skeleton, brush)
    return canvas


def _extent(points: FloatArray, opacity: FloatArray) -> float:
    """Longer side of the box around the keypoints that are shown, in pixels."""
    shown = points[opacity > 0.5] if (opacity > 0.5).sum() >= 2 else points
    return float(np.ptp(shown, axis=0).max())


def _ramp(values: FloatArray, ends: tuple[float, float]) -> FloatArray:
    """0 below the first end, 1 above the second, straight between them."""
    return np.clip((values - ends[0]) / (ends[1] - ends[0]), 0, 1)


def _draw_limbs(canvas: Image, points: FloatArray, skeleton: Skeleton, brush: _Brush) -> None:
    for colour_of_edge in (None, skeleton.sides):  # outlines of all limbs first, so that none cuts another
        for a, b in skeleton.edges:
            opacity = min(brush.opacity[a], brush.opacity[b])
            if colour_of_edge is None:
                _line(canvas, points[a], points[b], _INK, brush.width + _outline(brush), 0.6 * opacity)
            else:
                colour = SIDE_COLOURS[_side(colour_of_edge[a], colour_of_edge[b])]
                _line(canvas, points[a], points[b], colour, brush.width, opacity)


def _side(a: Side, b: Side) -> Side:
    """Side of a limb: that of its ends; from side to side it is the centre's; from the centre outwards, the outer's."""
    if a == "centre" or b == "centre":
        return b if a == "centre" else a
    return a if a == b else "centre"


def _outline(brush: _Brush) -> float:
    return min(2.5, 0.8 * brush.width)


def _draw_joints(canvas: Image, points: FloatArray, skeleton: Skeleton, brush: _Brush) -> None:
    for point, side, opacity in zip(points, skeleton.sides, brush.opacity, strict=True):
        _dot(canvas, point, _INK, 0.95 * brush.width + _outline(brush) / 2, 0.6 * opacity)
        _dot(canvas, point, (255, 255, 255), 0.95 * brush.width, opacity)
        _dot(canvas, point, SIDE_COLOURS[side], 0.65 * brush.width, opacity)


def _draw_ellipses(
    canvas: Image, points: FloatArray, spread: FloatArray, skeleton: Skeleton, brush: _Brush, extent: float
) -> None:
    doubt = brush.opacity * _ramp(spread.max(-1) / max(extent, 1.0), _SIGMA_RAMP)
    for point, radii, side, strength in zip(points, spread, skeleton.sides, doubt, strict=True):
        _ellipse(canvas, point, radii, SIDE_COLOURS[side], strength, brush.width)


def _line(canvas: Image, a: FloatArray, b: FloatArray, colour: Colour, width: float, opacity: float) -> None:
    thickness = max(1, round(width))

    def stroke(mask: Image, origin: FloatArray) -> None:
        start, end = _fixed(a - origin), _fixed(b - origin)
        cv2.line(mask, start, end, 255, thickness, cv2.LINE_AA, _SUBPIXEL_BITS)

    _paint(canvas, np.stack([a, b]), thickness / 2 + 1, colour, opacity * min(1.0, width), stroke)


def _dot(canvas: Image, centre: FloatArray, colour: Colour, radius: float, opacity: float) -> None:
    def stroke(mask: Image, origin: FloatArray) -> None:
        fixed_radius = max(1, round(radius * 2**_SUBPIXEL_BITS))
        cv2.circle(mask, _fixed(centre - origin), fixed_radius, 255, cv2.FILLED, cv2.LINE_AA, _SUBPIXEL_BITS)

    _paint(canvas, centre[None], radius + 1, colour, opacity, stroke)


def _ellipse(
    canvas: Image, centre: FloatArray, radii: FloatArray, colour: Colour, strength: float, width: float
) -> None:
    radii = np.minimum(radii, _FAR)
    for thickness, opacity in ((cv2.FILLED, _ELLIPSE_FILL), (max(1, round(width / 3)), _ELLIPSE_EDGE)):

        def stroke(mask: Image, origin: FloatArray, thickness: int = thickness) -> None:
            at, axes = _fixed(centre - origin), _fixed(radii)
            cv2.ellipse(mask, at, axes, 0, 0, 360, 255, thickness, cv2.LINE_AA, _SUBPIXEL_BITS)

        _paint(canvas, np.stack([centre - radii, centre + radii]), width + 1, colour, opacity * strength, stroke)


def _fixed(point: FloatArray) -> tuple[int, int]:
    x, y = np.rint(point * 2**_SUBPIXEL_BITS).astype(int)
    return int(x), int(y)


def _paint(
    canvas: Image,
    corners: FloatArray,
    margin: float,
    colour: Colour,
    opacity: float,
    stroke: Callable[[Image, FloatArray], None],
) -> None:
    """Blend one shape into the canvas.

    Args:
        canvas: (H, W, 3), changed in place.
        corners: (M, 2) points whose bounding box, grown by ``margin`` pixels, holds the shape.
        margin: in pixels.
        colour: RGB.
        opacity: in [0, 1].
        stroke: draws the shape in 255 on a black mask whose pixel (0, 0) is the given pixel of the canvas.
    """
    size_wh = np.array(canvas.shape[1::-1])
    left, top = np.clip(np.floor(corners.min(0) - margin), 0, size_wh).astype(int)
    right, bottom = np.clip(np.ceil(corners.max(0) + margin) + 1, 0, size_wh).astype(int)
    if opacity <= 0 or left >= right or top >= bottom:
        return
    mask = np.zeros((bottom - top, right - left), dtype=np.uint8)
    stroke(mask, np.array([left, top], dtype=np.float64))
    alpha = mask[..., None] * np.float32(opacity / 255)
    region = canvas[top:bottom, left:right]
    region[:] = np.rint(region + alpha * (np.array(colour, dtype=np.float32) - region)).astype(np.uint8)
