"""Poses on pictures: limbs coloured by body side, ellipses where the model is unsure."""

from __future__ import annotations

from math import ceil, floor
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from distilpose.skeleton import Side, Skeleton

Image = NDArray[np.uint8]
FloatArray = NDArray[np.float64]
Float32Array = NDArray[np.float32]
Colour = tuple[int, int, int]

SIDE_COLOURS: dict[Side, Colour] = {"left": (0, 200, 255), "right": (255, 128, 20), "centre": (245, 245, 245)}
_INK, _WHITE = (16, 20, 28), (255, 255, 255)  # outlines, legible on any background

# A limb is this share of the person's extent wide, within these bounds in pixels
_WIDTH_SHARE, _MIN_WIDTH, _MAX_WIDTH = 0.017, 1.0, 16.0
# Score at which a keypoint begins to show, and from which on it shows in full
_SCORE_RAMP = (0.05, 0.4)
# Sigma, as a share of the person's extent, at which its ellipse begins to show, and from which on it shows in full.
# A keypoint as sharp as the heatmaps that teachers learn (2 of 64 cells, crop padded 1.25) is at 0.04, one twice as
# blurred at 0.08.
_SIGMA_RAMP = (0.045, 0.085)
_INK_OPACITY, _ELLIPSE_FILL, _ELLIPSE_EDGE = 0.6, 0.28, 0.75


class _Person(NamedTuple):
    """What is drawn of one person.

    Attributes:
        points: (K, 2) keypoints in image pixels.
        opacity: (K,) in [0, 1].
        extent: longer side of the box around the keypoints that show, in pixels.
    """

    points: FloatArray
    opacity: FloatArray
    extent: float

    @property
    def width(self) -> float:
        """Width of a limb in pixels."""
        return float(np.clip(_WIDTH_SHARE * self.extent, _MIN_WIDTH, _MAX_WIDTH))

    @property
    def outline(self) -> float:
        """Width of the dark outline on either side of a limb in pixels."""
        return min(1.25, 0.4 * self.width)


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
        score: (N, K) in [0, 1]; None shows every keypoint in full.
        sigma: (N, K, 2) in image pixels along x and y; None draws no ellipse.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    canvas = image.copy()
    points = np.asarray(xy, dtype=np.float64).reshape(-1, skeleton.num_keypoints, 2)
    opacity = np.ones(points.shape[:2]) if score is None else _ramp(np.asarray(score, dtype=np.float64), _SCORE_RAMP)
    people = [_Person(*rows, _extent(*rows)) for rows in zip(points, opacity, strict=True)]
    for index in sorted(range(len(people)), key=lambda n: people[n].extent):
        if sigma is not None:
            _draw_ellipses(canvas, people[index], np.asarray(sigma, dtype=np.float64)[index], skeleton)
        _draw_limbs(canvas, people[index], skeleton)
        _draw_joints(canvas, people[index], skeleton)
    return canvas


def _ramp(values: FloatArray, ends: tuple[float, float]) -> FloatArray:
    """0 below the first end, 1 above the second, straight between them."""
    return np.clip((values - ends[0]) / (ends[1] - ends[0]), 0, 1)


def _extent(points: FloatArray, opacity: FloatArray) -> float:
    shown = points[opacity > 0.5] if (opacity > 0.5).sum() >= 2 else points
    return float(np.ptp(shown, axis=0).max())


def _draw_ellipses(canvas: Image, person: _Person, sigma: FloatArray, skeleton: Skeleton) -> None:
    doubt = _ramp(sigma.max(-1) / max(person.extent, 1.0), _SIGMA_RAMP) * person.opacity
    for point, radii, side, opacity in zip(person.points, sigma, skeleton.sides, doubt, strict=True):
        _paint_ellipse(canvas, point, radii, person.width / 2.5, SIDE_COLOURS[side], opacity)


def _draw_limbs(canvas: Image, person: _Person, skeleton: Skeleton) -> None:
    sides = skeleton.sides
    limbs = [(person.points[list(edge)], float(person.opacity[list(edge)].min()), edge) for edge in skeleton.edges]
    for ends, opacity, _ in limbs:  # all outlines come first, so that none cuts a limb
        _paint_capsule(canvas, ends, person.width / 2 + person.outline, _INK, _INK_OPACITY * opacity)
    for ends, opacity, (a, b) in limbs:
        _paint_capsule(canvas, ends, person.width / 2, SIDE_COLOURS[_limb_side(sides[a], sides[b])], opacity)


def _limb_side(a: Side, b: Side) -> Side:
    """A limb has the side of its ends; one from side to side is in the centre, one from the centre out is outer."""
    if "centre" in (a, b):
        return b if a == "centre" else a
    return a if a == b else "centre"


def _draw_joints(canvas: Image, person: _Person, skeleton: Skeleton) -> None:
    reach = np.zeros(len(person.points))  # longest limb of each joint: dots on a face must not cover it
    for a, b in skeleton.edges:
        length = float(np.linalg.norm(person.points[a] - person.points[b]))
        reach[[a, b]] = np.maximum(reach[[a, b]], length)
    radii = np.clip(0.2 * reach, 0.6 * person.width, 0.95 * person.width)
    for point, radius, side, opacity in zip(person.points, radii, skeleton.sides, person.opacity, strict=True):
        spot = np.stack([point, point])
        _paint_capsule(canvas, spot, radius + person.outline / 2, _INK, _INK_OPACITY * opacity)
        _paint_capsule(canvas, spot, radius, _WHITE, opacity)
        _paint_capsule(canvas, spot, 0.68 * radius, SIDE_COLOURS[side], opacity)


def _paint_capsule(canvas: Image, ends: FloatArray, radius: float, colour: Colour, opacity: float) -> None:
    """Blend the points within ``radius`` of the segment between ``ends`` (2, 2) into the canvas; equal ends: a disc."""
    window = _window(canvas, ends, radius + 1, radius + 1)
    if opacity <= 0 or window is None:
        return
    x, y = _pixels(window, ends[0])
    step_x, step_y = (ends[1] - ends[0]).tolist()
    if step_x or step_y:
        squared_length = step_x**2 + step_y**2
        along = np.clip(x * (step_x / squared_length) + y * (step_y / squared_length), 0, 1)
        x, y = x - along * step_x, y - along * step_y
    _blend(canvas[window], colour, opacity * _coverage(np.sqrt(x * x + y * y) - radius))


def _paint_ellipse(
    canvas: Image, centre: FloatArray, radii: FloatArray, edge_width: float, colour: Colour, opacity: float
) -> None:
    """Blend an axis-aligned ellipse, pale inside, into the canvas."""
    radius_x, radius_y = np.maximum(radii, 0.5).tolist()
    window = _window(canvas, centre[None], radius_x + edge_width + 1, radius_y + edge_width + 1)
    if opacity <= 0 or window is None:
        return
    x, y = _pixels(window, centre)
    norm = np.hypot(x / radius_x, y / radius_y)
    slope = np.hypot(x / radius_x**2, y / radius_y**2)
    distance = (norm - 1) * norm / np.maximum(slope, 1e-6)  # to the edge, to first order
    fill, edge = _coverage(distance), _coverage(np.abs(distance) - edge_width / 2)
    _blend(canvas[window], colour, opacity * np.maximum(_ELLIPSE_FILL * fill, _ELLIPSE_EDGE * edge))


def _window(canvas: Image, points: FloatArray, margin_x: float, margin_y: float) -> tuple[slice, slice] | None:
    """Rows and columns of the canvas within a margin of (M, 2) points; None when there are none."""
    (low_x, low_y), (high_x, high_y) = points.min(0).tolist(), points.max(0).tolist()
    left, right = max(0, floor(low_x - margin_x)), min(canvas.shape[1], ceil(high_x + margin_x) + 1)
    top, bottom = max(0, floor(low_y - margin_y)), min(canvas.shape[0], ceil(high_y + margin_y) + 1)
    return None if left >= right or top >= bottom else (slice(top, bottom), slice(left, right))


def _pixels(window: tuple[slice, slice], origin: FloatArray) -> tuple[Float32Array, Float32Array]:
    """Columns (1, w) and rows (h, 1) of a window, counted from ``origin`` (x, y)."""
    rows, columns = window
    x = np.arange(columns.start, columns.stop) - origin[0]
    y = np.arange(rows.start, rows.stop) - origin[1]
    return x.astype(np.float32)[None], y.astype(np.float32)[:, None]


def _coverage(distance: NDArray[np.floating]) -> Float32Array:
    """Share of each pixel that a shape covers, from the pixel's distance to its edge (inside: negative)."""
    return np.asarray(np.clip(0.5 - distance, 0, 1), dtype=np.float32)


def _blend(region: Image, colour: Colour, alpha: Float32Array) -> None:
    for channel, value in enumerate(colour):
        plane = region[..., channel]
        plane[:] = plane + alpha * (value - plane.astype(np.float32)) + 0.5
