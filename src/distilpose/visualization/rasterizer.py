"""One person as pixels: limbs, joints and ellipses with soft edges."""

from __future__ import annotations

from math import ceil, floor, hypot
from typing import NamedTuple

import cv2
import numpy as np

from distilpose.skeletons import Side, Skeleton
from distilpose.types import Float32Array, FloatArray, ImageArray

Window = tuple[slice, slice]
Color = tuple[int, int, int]

INK, WHITE = (16, 20, 28), (255, 255, 255)  # outlines, legible on any background
INK_OPACITY = 0.6

# Sigma, as a share of the person's extent, at which its ellipse begins to show, and from which on it shows in full.
# A keypoint as sharp as the heatmaps that teachers learn (2 of 64 cells, crop padded 1.25) is at 0.04, one twice as
# blurred at 0.08.
_SIGMA_RAMP = (0.045, 0.085)
_ELLIPSE_FILL, _ELLIPSE_EDGE = 0.28, 0.75


class Person(NamedTuple):
    """What is drawn of one person.

    Attributes:
        points: (K, 2) keypoints in image pixels.
        opacity: (K,) in [0, 1].
        extent: longer side of the box around the keypoints that show, in pixels.
        width: of a limb in pixels.
        colors: of the body sides.
    """

    points: FloatArray
    opacity: FloatArray
    extent: float
    width: float
    colors: dict[Side, Color]

    @property
    def outline(self) -> float:
        """Width of the dark outline on either side of a limb in pixels."""
        return min(1.25, 0.4 * self.width)


def ramp(values: FloatArray, ends: tuple[float, float]) -> FloatArray:
    """0 below the first end, 1 above the second, straight between them."""
    return np.clip((values - ends[0]) / (ends[1] - ends[0]), 0, 1)


class _Layer(NamedTuple):
    """The part of the canvas around a person as floats: painted often, rounded once.

    Attributes:
        planes: (3, h, w) red, green and blue.
        left: column of the canvas at which it begins.
        top: row of the canvas at which it begins.
    """

    planes: Float32Array
    left: int
    top: int

    def window(self, low_x: float, low_y: float, high_x: float, high_y: float) -> Window | None:
        """Rows and columns of the layer between two points of the canvas; None when there are none."""
        _, height, width = self.planes.shape
        left, right = max(0, floor(low_x) - self.left), min(width, ceil(high_x) + 1 - self.left)
        top, bottom = max(0, floor(low_y) - self.top), min(height, ceil(high_y) + 1 - self.top)
        return None if left >= right or top >= bottom else (slice(top, bottom), slice(left, right))

    def pixels(self, window: Window, x: float, y: float) -> tuple[Float32Array, Float32Array]:
        """Columns (1, w) and rows (h, 1) of a window, counted from a point of the canvas."""
        rows, columns = window
        across = np.arange(columns.start, columns.stop) + (self.left - x)
        down = np.arange(rows.start, rows.stop) + (self.top - y)
        return across.astype(np.float32)[None], down.astype(np.float32)[:, None]

    def blend(self, window: Window, color: Color, alpha: Float32Array) -> None:
        planes = self.planes[:, window[0], window[1]]
        change = np.array(color, dtype=np.float32)[:, None, None] - planes
        change *= alpha
        planes += change


def rasterize_person(canvas: ImageArray, person: Person, sigma: FloatArray | None, skeleton: Skeleton) -> None:
    """Paint a person into the canvas.

    Args:
        canvas: (H, W, 3) uint8 RGB, changed.
        person: to be painted.
        sigma: (K, 2) in image pixels along x and y; None paints no ellipses.
        skeleton: of the K keypoints.
    """
    doubt = np.zeros(len(person.points))
    if sigma is not None:
        doubt = ramp(sigma.max(-1) / max(person.extent, 1.0), _SIGMA_RAMP) * person.opacity
    shown = person.opacity > 0
    if not shown.any():
        return
    reach = np.full((len(shown), 2), person.width + person.outline + 2)
    if sigma is not None:
        reach += np.where(doubt[:, None] > 0, np.maximum(sigma, 0.5), 0)
    (left, top), (right, bottom) = (person.points - reach)[shown].min(0), (person.points + reach)[shown].max(0)
    rows = slice(max(0, floor(top)), min(canvas.shape[0], ceil(bottom) + 1))
    columns = slice(max(0, floor(left)), min(canvas.shape[1], ceil(right) + 1))
    region = canvas[rows, columns]
    if rows.start >= rows.stop or columns.start >= columns.stop:
        return
    planes = np.empty((3, *region.shape[:2]), dtype=np.float32)
    planes[:] = region.transpose(2, 0, 1)
    layer = _Layer(planes, columns.start, rows.start)
    if sigma is not None:
        _rasterize_ellipses(layer, person, sigma, doubt, skeleton)
    _rasterize_limbs(layer, person, skeleton)
    _rasterize_joints(layer, person, skeleton)
    region[:] = cv2.merge([cv2.convertScaleAbs(plane) for plane in planes])


def _rasterize_ellipses(
    layer: _Layer, person: Person, sigma: FloatArray, doubt: FloatArray, skeleton: Skeleton
) -> None:
    """Blend an axis-aligned ellipse, pale inside, around each doubtful keypoint."""
    edge_width = person.width / 2.5
    for index in np.flatnonzero(doubt > 0):
        x, y = person.points[index].tolist()
        radius_x, radius_y = np.maximum(sigma[index], 0.5).tolist()
        room_x, room_y = radius_x + edge_width + 1, radius_y + edge_width + 1
        window = layer.window(x - room_x, y - room_y, x + room_x, y + room_y)
        if window is None:
            continue
        across, down = layer.pixels(window, x, y)
        square_x, square_y = (across / radius_x) ** 2, (down / radius_y) ** 2
        norm = np.sqrt(square_x + square_y)
        slope = np.sqrt(square_x / radius_x**2 + square_y / radius_y**2)
        distance = (norm - 1) * norm / np.maximum(slope, 1e-6)  # to the edge, to first order
        fill, edge = _coverage(distance, 0), _coverage(np.abs(distance), edge_width / 2)
        alpha = float(doubt[index]) * np.maximum(_ELLIPSE_FILL * fill, _ELLIPSE_EDGE * edge)
        layer.blend(window, person.colors[skeleton.sides[index]], alpha)


def _rasterize_limbs(layer: _Layer, person: Person, skeleton: Skeleton) -> None:
    sides, opacity = skeleton.sides, person.opacity.tolist()
    radius = person.width / 2
    limbs = []
    for a, b in skeleton.edges:
        strength = min(opacity[a], opacity[b])
        near = _distance_to_limb(layer, person.points[[a, b]], radius + person.outline + 1) if strength > 0 else None
        if near is not None:
            limbs.append((*near, strength, person.colors[_limb_side(sides[a], sides[b])]))
    for window, distance, strength, _ in limbs:  # all outlines come first, so that none cuts a limb
        layer.blend(window, INK, _coverage(distance, radius + person.outline, INK_OPACITY * strength))
    for window, distance, strength, color in limbs:
        layer.blend(window, color, _coverage(distance, radius, strength))


def _distance_to_limb(layer: _Layer, ends: FloatArray, reach: float) -> tuple[Window, Float32Array] | None:
    """Distance of the pixels of a window to the segment between ``ends`` (2, 2); None outside of the layer."""
    (ax, ay), (bx, by) = ends.tolist()
    window = layer.window(min(ax, bx) - reach, min(ay, by) - reach, max(ax, bx) + reach, max(ay, by) + reach)
    if window is None:
        return None
    x, y = layer.pixels(window, ax, ay)
    length = hypot(bx - ax, by - ay)
    cosine, sine = ((bx - ax) / length, (by - ay) / length) if length else (1.0, 0.0)
    along = x * cosine + y * sine
    beyond = np.maximum(along - length, -along)  # past one end or the other
    np.maximum(beyond, 0, out=beyond)
    return window, np.asarray(cv2.magnitude(beyond, x * sine - y * cosine), dtype=np.float32)


def _limb_side(a: Side, b: Side) -> Side:
    """A limb has the side of its ends; one from side to side is in the center, one from the center out is outer."""
    if "center" in (a, b):
        return b if a == "center" else a
    return a if a == b else "center"


def _rasterize_joints(layer: _Layer, person: Person, skeleton: Skeleton) -> None:
    """Blend a dot on each keypoint: dark outline, white ring, colored center; all of a person computed at once."""
    radii = _joint_radii(person, skeleton)
    reach = ceil(radii.max() + person.outline / 2 + 1)
    side = 2 * reach + 1
    _, height, width = layer.planes.shape
    corner = np.floor(person.points) - reach - [layer.left, layer.top]
    seen = (person.opacity > 0) & (corner > -side).all(-1) & (corner < [width, height]).all(-1)
    index = np.flatnonzero(seen)
    grid = np.arange(side + 1) - reach  # one more: the point lies between two pixels
    offset = (person.points - np.floor(person.points))[index, :, None]
    across, down = (grid - offset)[:, 0, None, :], (grid - offset)[:, 1, :, None]
    distance = np.sqrt(across**2 + down**2).astype(np.float32)
    keep = np.ones_like(distance)
    paint = np.zeros((len(index), 3, *distance.shape[1:]), dtype=np.float32)
    inner = np.array([person.colors[skeleton.sides[k]] for k in index]).reshape(-1, 3)
    for color, radius, opacity in (
        (np.array([INK]), radii + person.outline / 2, INK_OPACITY),
        (np.array([WHITE]), radii, 1.0),
        (inner, 0.68 * radii, 1.0),
    ):
        column = (slice(None), None, None)
        alpha = _coverage(distance, radius[index][column], (opacity * person.opacity[index])[column])
        keep *= 1 - alpha
        paint += alpha[:, None] * (color.astype(np.float32)[..., None, None] - paint)
    for k, (x, y) in enumerate(corner[index].astype(int).tolist()):
        rows, columns = slice(max(0, y), y + side + 1), slice(max(0, x), x + side + 1)
        part = (slice(max(0, -y), max(0, height - y)), slice(max(0, -x), max(0, width - x)))
        planes = layer.planes[:, rows, columns]
        planes *= keep[k][part]
        planes += paint[k][(slice(None), *part)]


def _joint_radii(person: Person, skeleton: Skeleton) -> FloatArray:
    """(K,) a share of the joint's longest limb: dots on a face must not cover it."""
    reach = np.zeros(len(person.points))
    edges = np.array(skeleton.edges, dtype=np.intp).reshape(-1, 2)
    length = np.linalg.norm(person.points[edges[:, 0]] - person.points[edges[:, 1]], axis=-1)
    np.maximum.at(reach, edges, length[:, None])
    return np.clip(0.2 * reach, 0.6 * person.width, 0.95 * person.width)


def _coverage(distance: Float32Array, radius: float | FloatArray, opacity: float | FloatArray = 1.0) -> Float32Array:
    """``opacity`` times the share of each pixel that lies within ``radius``, from the distance of its center."""
    alpha = np.asarray(radius + 0.5 - distance, dtype=np.float32)
    np.maximum(alpha, 0, out=alpha)
    np.minimum(alpha, 1, out=alpha)
    alpha *= opacity
    return alpha
