"""One person as pixels: limbs, joints and ellipses with soft edges, drawn by OpenCV."""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np

from distilpose.skeletons import Side, Skeleton
from distilpose.types import FloatArray, ImageArray, Size

Color = tuple[int, int, int]

INK, WHITE = (16, 20, 28), (255, 255, 255)  # outlines, legible on any background

# Sigma, as a share of the person's extent, at which its ellipse begins to show, and from which on it shows in full.
# A keypoint as sharp as the heatmaps that teachers learn (2 of 64 cells, crop padded 1.25) is at 0.04, one twice as
# blurred at 0.08.
_SIGMA_RAMP = (0.045, 0.085)
_ELLIPSE_FILL, _ELLIPSE_EDGE = 0.28, 0.75
_FAR = 30_000.0  # pixels from the image's corner: what lies farther outside is not drawn
_BITS = 4  # of a pixel's fraction in OpenCV's drawing functions


class Person(NamedTuple):
    """What is drawn of one person."""

    points: FloatArray  # (K, 2) keypoints in image pixels
    opacity: FloatArray  # (K,) in [0, 1]
    extent: float  # longer side of the box around the keypoints that show, in pixels
    width: float  # of a limb in pixels
    colors: dict[Side, Color]  # of the body sides

    @property
    def outline(self) -> float:
        """Width of the dark outline on either side of a limb in pixels."""
        return min(1.25, 0.4 * self.width)


def ramp(values: FloatArray, ends: tuple[float, float]) -> FloatArray:
    """0 below the first end, 1 above the second, straight between them."""
    return np.clip((values - ends[0]) / (ends[1] - ends[0]), 0, 1)


def rasterize_person(canvas: ImageArray, person: Person, sigma: FloatArray | None, skeleton: Skeleton) -> None:
    """Paint a person into the canvas (H, W, 3); ellipses too, where sigma (K, 2) in image pixels is given."""
    near = np.asarray((np.abs(person.points) < _FAR).all(-1))
    person = person._replace(opacity=person.opacity * near, points=np.where(near[:, None], person.points, 0))
    shown = person.opacity > 0
    if not shown.any():
        return
    doubt, radii = np.zeros(len(shown)), np.zeros((len(shown), 2))
    if sigma is not None:
        doubt = ramp(sigma.max(-1) / max(person.extent, 1.0), _SIGMA_RAMP) * person.opacity
        radii = np.where(doubt[:, None] > 0, np.clip(sigma, 0.5, _FAR), 0)
    reach = radii + person.width + person.outline + 2
    low = np.maximum(np.floor((person.points - reach)[shown].min(0)), 0).astype(int)
    high = np.minimum(np.ceil((person.points + reach)[shown].max(0)) + 1, canvas.shape[1::-1]).astype(int)
    if (low >= high).any():
        return
    region = canvas[low[1] : high[1], low[0] : high[0]]
    local = person._replace(points=person.points - low)
    if doubt.any():
        _draw_ellipses(region, local, radii, doubt, skeleton)
    paint = region.copy()
    _draw_body(paint, local, skeleton)
    if (person.opacity[shown] == 1).all():
        region[:] = paint
    else:
        _blend(region, paint, _strength(region.shape[:2], local, skeleton))


def _blend(region: ImageArray, paint: ImageArray, mask: ImageArray) -> None:
    """Mix the painted region into the plain one, as much as the mask (H, W) uint8 says."""
    alpha = mask.astype(np.float32) / 255
    region[:] = cv2.blendLinear(paint, np.ascontiguousarray(region), alpha, 1 - alpha)


def _draw_ellipses(
    region: ImageArray, person: Person, radii: FloatArray, doubt: FloatArray, skeleton: Skeleton
) -> None:
    """An axis-aligned ellipse, pale inside, around each doubtful keypoint."""
    paint, mask = region.copy(), np.zeros(region.shape[:2], dtype=np.uint8)
    width = max(1, round(person.width / 3.5))
    for index in np.flatnonzero(doubt > 0):
        center, radius = _fixed(person.points[index]), radii[index]
        color = person.colors[skeleton.sides[index]]
        cv2.ellipse(paint, center, _fixed(radius + width + 1), 0, 0, 360, color, -1, cv2.LINE_8, _BITS)
        for share, thickness in ((_ELLIPSE_FILL, -1), (_ELLIPSE_EDGE, width)):
            value = round(255 * share * doubt[index])
            cv2.ellipse(mask, center, _fixed(radius), 0, 0, 360, value, thickness, cv2.LINE_AA, _BITS)
    _blend(region, paint, mask)


def _draw_body(paint: ImageArray, person: Person, skeleton: Skeleton) -> None:
    """Limbs, all outlines first, so that none cuts a limb; then a dot on each keypoint, ringed in white and dark."""
    thickness, outlined = max(1, round(person.width)), int(person.width + 2 * person.outline)
    limbs = [(*_fixed_pair(person, edge), edge) for edge in _limbs(person, skeleton)]
    for start, stop, _ in limbs if outlined > thickness else ():
        cv2.line(paint, start, stop, INK, outlined, cv2.LINE_AA, _BITS)
    for start, stop, (a, b) in limbs:
        color = person.colors[_limb_side(skeleton.sides[a], skeleton.sides[b])]
        cv2.line(paint, start, stop, color, thickness, cv2.LINE_AA, _BITS)
    radii = _joint_radii(person, skeleton)
    for index in np.flatnonzero(person.opacity > 0):
        center, radius, color = _fixed(person.points[index]), radii[index], person.colors[skeleton.sides[index]]
        for paint_color, size in ((INK, radius + person.outline / 2), (WHITE, radius), (color, 0.68 * radius)):
            cv2.circle(paint, center, round(size * 2**_BITS), paint_color, -1, cv2.LINE_AA, _BITS)


def _strength(size_hw: Size, person: Person, skeleton: Skeleton) -> ImageArray:
    """(H, W) how far each pixel of the drawn body shows, from 0 to 255; where shapes meet, the stronger counts."""
    mask = np.zeros(size_hw, dtype=np.uint8)
    room = round(2 * (person.width + person.outline)) + 4  # a dot is wider than a limb
    shapes = [(min(person.opacity[[a, b]]), *_fixed_pair(person, (a, b))) for a, b in _limbs(person, skeleton)]
    joints = [(person.opacity[k], *2 * (_fixed(person.points[k]),)) for k in np.flatnonzero(person.opacity > 0)]
    for opacity, start, stop in sorted([*shapes, *joints]):
        cv2.line(mask, start, stop, round(255 * opacity), room, cv2.LINE_8, _BITS)
    return mask


def _limbs(person: Person, skeleton: Skeleton) -> list[tuple[int, int]]:
    return [edge for edge in skeleton.edges if min(person.opacity[list(edge)]) > 0]


def _fixed_pair(person: Person, edge: tuple[int, int]) -> tuple[tuple[int, int], tuple[int, int]]:
    return _fixed(person.points[edge[0]]), _fixed(person.points[edge[1]])


def _fixed(values: FloatArray) -> tuple[int, int]:
    """A point or size in OpenCV's fractions of a pixel."""
    x, y = np.rint(values * 2**_BITS).astype(int).tolist()
    return x, y


def _limb_side(a: Side, b: Side) -> Side:
    """A limb has the side of its ends; one from side to side is in the center, one from the center out is outer."""
    if "center" in (a, b):
        return b if a == "center" else a
    return a if a == b else "center"


def _joint_radii(person: Person, skeleton: Skeleton) -> FloatArray:
    """(K,) a share of the joint's longest limb: dots on a face must not cover it."""
    reach = np.zeros(len(person.points))
    edges = np.array(skeleton.edges, dtype=np.intp).reshape(-1, 2)
    length = np.linalg.norm(person.points[edges[:, 0]] - person.points[edges[:, 1]], axis=-1)
    np.maximum.at(reach, edges, length[:, None])
    return np.clip(0.2 * reach, 0.6 * person.width, 0.95 * person.width)
