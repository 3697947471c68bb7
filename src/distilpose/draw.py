"""Poses on pictures: limbs coloured by body side or person, ellipses where the model is unsure, boxes and labels."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import ceil, floor, hypot
from typing import Literal, NamedTuple, get_args

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import ImageFont

from distilpose.errors import ConfigError, InputError
from distilpose.images import check_image
from distilpose.skeleton import Side, Skeleton

Image = NDArray[np.uint8]
FloatArray = NDArray[np.float64]
Float32Array = NDArray[np.float32]
Window = tuple[slice, slice]
Colour = tuple[int, int, int]
Colours = Literal["side", "person"]
Background = Literal["picture", "plain"]

SIDE_COLOURS: dict[Side, Colour] = {"left": (0, 200, 255), "right": (255, 128, 20), "centre": (245, 245, 245)}
# Far apart to everyone, people with red-green deficiency included (tests/test_draw.py measures it); neighbours in the
# list, the likely ids of people seen together, are the farthest apart.
PERSON_COLOURS: tuple[Colour, ...] = (
    (70, 180, 255), (255, 140, 0), (0, 175, 120), (225, 70, 180), (245, 230, 60), (80, 100, 255), (215, 65, 45),
    (130, 240, 190),
)  # fmt: skip
PLAIN_COLOUR: Colour = (22, 25, 31)
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
# Height of a label's text: a share of the person's extent, not below so many pixels, not above a share of the picture
_TEXT_SHARE, _MIN_TEXT, _MAX_TEXT_SHARE, _LEAST_TEXT = 0.05, 12.0, 0.06, 6


@dataclass(frozen=True)
class DrawStyle:
    """How people are drawn; `STYLES` has named ones.

    Attributes:
        colours: "side": left, right and centre have a colour each. "person": each person has a hue, by track id or
            else by row; the left is lighter, the right darker.
        ellipses: mark keypoints with a large sigma.
        boxes: draw the person boxes.
        labels: write track id and pose score beside each person.
        line_width: factor on the width of the lines, > 0.
        background: the "picture", or "plain" dark.

    Raises:
        ConfigError: a value is none of these.
    """

    colours: Colours = "side"
    ellipses: bool = True
    boxes: bool = False
    labels: bool = False
    line_width: float = 1.0
    background: Background = "picture"

    def __post_init__(self) -> None:
        for name, value, known in (
            ("colours", self.colours, get_args(Colours)),
            ("background", self.background, get_args(Background)),
        ):
            if value not in known:
                raise ConfigError(f"{name} must be one of {', '.join(known)}, got {value!r}")
        if not 0 < self.line_width < 100:
            raise ConfigError(f"line_width must be a factor above 0 and below 100, got {self.line_width!r}")


STYLES: dict[str, DrawStyle] = {
    "sides": DrawStyle(),
    "people": DrawStyle(colours="person"),
    "labels": DrawStyle(colours="person", boxes=True, labels=True),
    "skeleton": DrawStyle(colours="person", ellipses=False, background="plain"),
    "minimal": DrawStyle(ellipses=False, line_width=0.6),
}


def style_named(style: str | DrawStyle) -> DrawStyle:
    """The style of a name in `STYLES`; a style is returned as it is.

    Raises:
        ConfigError: there is no such style.
    """
    if isinstance(style, DrawStyle):
        return style
    if style not in STYLES:
        raise ConfigError(f"style must be one of {', '.join(STYLES)} or a DrawStyle, got {style!r}")
    return STYLES[style]


def person_colour(number: int) -> Colour:
    """The RGB colour of a track id (or row): the same in every picture, repeated after `PERSON_COLOURS`."""
    return PERSON_COLOURS[number % len(PERSON_COLOURS)]


class People(NamedTuple):
    """Checked arrays of the N people of one picture; see `draw_poses`."""

    xy: FloatArray
    score: FloatArray | None
    sigma: FloatArray | None
    track_id: FloatArray | None
    box: FloatArray | None
    pose_score: FloatArray | None


def check_people(
    xy: ArrayLike,
    skeleton: Skeleton,
    score: ArrayLike | None = None,
    sigma: ArrayLike | None = None,
    track_id: ArrayLike | None = None,
    box: ArrayLike | None = None,
    pose_score: ArrayLike | None = None,
) -> People:
    """Read the arrays of one picture's people.

    Raises:
        InputError: they do not fit together or hold numbers that are not finite.
    """
    count = skeleton.num_keypoints
    points = _numbers(xy, "xy", None, (count, 2))
    people = len(points)
    optional = (
        ("score", score, (count,)),
        ("sigma", sigma, (count, 2)),
        ("track_id", track_id, ()),
        ("box", box, (4,)),
        ("pose_score", pose_score, ()),
    )
    rest = [None if values is None else _numbers(values, name, people, inner) for name, values, inner in optional]
    return People(points, *rest)


def _numbers(values: ArrayLike, name: str, people: int | None, inner: tuple[int, ...]) -> FloatArray:
    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"{name} must be an array of numbers, got {values!r}") from error
    if array.size == 0 and people in (None, 0):  # nobody, perhaps a bare []
        return np.zeros((0, *inner))
    rows = "N" if people is None else people
    if array.shape[1:] != inner or array.ndim == 0 or people not in (None, len(array)):
        raise InputError(f"{name} must have shape ({', '.join(map(str, (rows, *inner)))}), got {array.shape}")
    if not np.isfinite(array).all():
        raise InputError(f"{name} must be finite, got {array[~np.isfinite(array)][0]}")
    return array


class _Person(NamedTuple):
    """What is drawn of one person.

    Attributes:
        points: (K, 2) keypoints in image pixels.
        opacity: (K,) in [0, 1].
        extent: longer side of the box around the keypoints that show, in pixels.
        width: of a limb in pixels.
        colours: of the body sides.
    """

    points: FloatArray
    opacity: FloatArray
    extent: float
    width: float
    colours: dict[Side, Colour]

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
    style: str | DrawStyle = "sides",
    track_id: ArrayLike | None = None,
    box: ArrayLike | None = None,
    pose_score: ArrayLike | None = None,
) -> Image:
    """Draw people on a copy of a picture, the largest last, labels on top.

    Lines grow with the person, so that distant people stay visible under them. Keypoints with a low score fade out.
    An ellipse of one standard deviation marks a keypoint whose sigma is large for the person's size.

    Args:
        image: (H, W, 3) uint8 RGB; it is not changed.
        xy: (N, K, 2) keypoints in image pixels; they may lie outside the image.
        skeleton: of the K keypoints.
        score: (N, K) in [0, 1]; None shows every keypoint in full.
        sigma: (N, K, 2) in image pixels along x and y; None draws no ellipse.
        style: name in `STYLES`, or a style.
        track_id: (N,) numbers that choose the colours of people and stand in labels; None: by row, no number.
        box: (N, 4) as x1, y1, x2, y2 in image pixels; None draws no box and puts labels beside the keypoints.
        pose_score: (N,) stands in labels.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        InputError: the image or an array is unusable.
        ConfigError: there is no such style.
    """
    check_image(image)
    look = style_named(style)
    given = check_people(xy, skeleton, score, sigma, track_id, box, pose_score)
    canvas = image.copy() if look.background == "picture" else np.full_like(image, PLAIN_COLOUR)
    opacity = np.ones(given.xy.shape[:2]) if given.score is None else _ramp(given.score, _SCORE_RAMP)
    numbers = np.arange(len(given.xy)) if given.track_id is None else given.track_id
    people = [_person(*row, look) for row in zip(given.xy, opacity, numbers, strict=True)]
    order = sorted(range(len(people)), key=lambda n: people[n].extent)
    for index in order:
        if look.boxes and given.box is not None:
            _draw_box(canvas, given.box[index], people[index])
        spread = given.sigma[index] if look.ellipses and given.sigma is not None else None
        _draw_person(canvas, people[index], spread, skeleton)
    for index in order if look.labels else ():
        _draw_label(canvas, _label_text(given, index), people[index], None if given.box is None else given.box[index])
    return canvas


def _person(points: FloatArray, opacity: FloatArray, number: float, look: DrawStyle) -> _Person:
    extent = _extent(points, opacity)
    width = look.line_width * min(max(_WIDTH_SHARE * extent, _MIN_WIDTH), _MAX_WIDTH)
    colours = SIDE_COLOURS if look.colours == "side" else _shades(person_colour(int(number)))
    return _Person(points, opacity, extent, width, colours)


def _shades(colour: Colour) -> dict[Side, Colour]:
    """A person's hue, lighter on the left and darker on the right."""
    red, green, blue = colour
    lighter = (red + (255 - red) // 2, green + (255 - green) // 2, blue + (255 - blue) // 2)
    return {"left": lighter, "right": (red * 3 // 4, green * 3 // 4, blue * 3 // 4), "centre": colour}


def _ramp(values: FloatArray, ends: tuple[float, float]) -> FloatArray:
    """0 below the first end, 1 above the second, straight between them."""
    return np.clip((values - ends[0]) / (ends[1] - ends[0]), 0, 1)


def _extent(points: FloatArray, opacity: FloatArray) -> float:
    shown = points[opacity > 0.5] if (opacity > 0.5).sum() >= 2 else points
    return float(np.ptp(shown, axis=0).max())


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

    def blend(self, window: Window, colour: Colour, alpha: Float32Array) -> None:
        planes = self.planes[:, window[0], window[1]]
        change = np.array(colour, dtype=np.float32)[:, None, None] - planes
        change *= alpha
        planes += change


def _draw_person(canvas: Image, person: _Person, sigma: FloatArray | None, skeleton: Skeleton) -> None:
    doubt = np.zeros(len(person.points))
    if sigma is not None:
        doubt = _ramp(sigma.max(-1) / max(person.extent, 1.0), _SIGMA_RAMP) * person.opacity
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
        _paint_ellipses(layer, person, sigma, doubt, skeleton)
    _paint_limbs(layer, person, skeleton)
    _paint_joints(layer, person, skeleton)
    region[:] = cv2.merge([cv2.convertScaleAbs(plane) for plane in planes])


def _paint_ellipses(layer: _Layer, person: _Person, sigma: FloatArray, doubt: FloatArray, skeleton: Skeleton) -> None:
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
        layer.blend(window, person.colours[skeleton.sides[index]], alpha)


def _paint_limbs(layer: _Layer, person: _Person, skeleton: Skeleton) -> None:
    sides, opacity = skeleton.sides, person.opacity.tolist()
    radius = person.width / 2
    limbs = []
    for a, b in skeleton.edges:
        strength = min(opacity[a], opacity[b])
        near = _distance_to_limb(layer, person.points[[a, b]], radius + person.outline + 1) if strength > 0 else None
        if near is not None:
            limbs.append((*near, strength, person.colours[_limb_side(sides[a], sides[b])]))
    for window, distance, strength, _ in limbs:  # all outlines come first, so that none cuts a limb
        layer.blend(window, _INK, _coverage(distance, radius + person.outline, _INK_OPACITY * strength))
    for window, distance, strength, colour in limbs:
        layer.blend(window, colour, _coverage(distance, radius, strength))


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
    """A limb has the side of its ends; one from side to side is in the centre, one from the centre out is outer."""
    if "centre" in (a, b):
        return b if a == "centre" else a
    return a if a == b else "centre"


def _paint_joints(layer: _Layer, person: _Person, skeleton: Skeleton) -> None:
    """Blend a dot on each keypoint: dark outline, white ring, coloured centre; all of a person computed at once."""
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
    inner = np.array([person.colours[skeleton.sides[k]] for k in index]).reshape(-1, 3)
    for colour, radius, opacity in (
        (np.array([_INK]), radii + person.outline / 2, _INK_OPACITY),
        (np.array([_WHITE]), radii, 1.0),
        (inner, 0.68 * radii, 1.0),
    ):
        column = (slice(None), None, None)
        alpha = _coverage(distance, radius[index][column], (opacity * person.opacity[index])[column])
        keep *= 1 - alpha
        paint += alpha[:, None] * (colour.astype(np.float32)[..., None, None] - paint)
    for k, (x, y) in enumerate(corner[index].astype(int).tolist()):
        rows, columns = slice(max(0, y), y + side + 1), slice(max(0, x), x + side + 1)
        part = (slice(max(0, -y), max(0, height - y)), slice(max(0, -x), max(0, width - x)))
        planes = layer.planes[:, rows, columns]
        planes *= keep[k][part]
        planes += paint[k][(slice(None), *part)]


def _joint_radii(person: _Person, skeleton: Skeleton) -> FloatArray:
    """(K,) a share of the joint's longest limb: dots on a face must not cover it."""
    reach = np.zeros(len(person.points))
    edges = np.array(skeleton.edges, dtype=np.intp).reshape(-1, 2)
    length = np.linalg.norm(person.points[edges[:, 0]] - person.points[edges[:, 1]], axis=-1)
    np.maximum.at(reach, edges, length[:, None])
    return np.clip(0.2 * reach, 0.6 * person.width, 0.95 * person.width)


def _coverage(distance: Float32Array, radius: float | FloatArray, opacity: float | FloatArray = 1.0) -> Float32Array:
    """``opacity`` times the share of each pixel that lies within ``radius``, from the distance of its centre."""
    alpha = np.asarray(radius + 0.5 - distance, dtype=np.float32)
    np.maximum(alpha, 0, out=alpha)
    np.minimum(alpha, 1, out=alpha)
    alpha *= opacity
    return alpha


def _draw_box(canvas: Image, box: FloatArray, person: _Person) -> None:
    """A frame with crisp edges, dark on either side."""
    height, width = canvas.shape[:2]
    thick = max(1, round(0.35 * person.width))
    room = 4 * thick + 4  # edges farther outside are as invisible
    low, high = np.full(4, -room), np.array([width, height, width, height]) + room
    left, top, right, bottom = np.rint(np.clip(box, low, high)).astype(int).tolist()
    for colour, margin, opacity in ((_INK, 1, 0.5 * _INK_OPACITY), (person.colours["centre"], 0, 1.0)):
        out, into = thick // 2 + margin, thick - thick // 2 + margin
        for x1, y1, x2, y2 in (
            (left - out, top - out, right + into, top + into),
            (left - out, bottom - out, right + into, bottom + into),
            (left - out, top - out, left + into, bottom + into),
            (right - out, top - out, right + into, bottom + into),
        ):
            region = canvas[max(0, y1) : max(0, y2), max(0, x1) : max(0, x2)]
            region[:] = region + opacity * (np.array(colour, dtype=np.float32) - region)


def _label_text(given: People, index: int) -> str:
    parts = [] if given.track_id is None else [f"#{int(given.track_id[index])}"]
    parts += [] if given.pose_score is None else [f"{given.pose_score[index]:.2f}"]
    return " ".join(parts)


def _draw_label(canvas: Image, text: str, person: _Person, box: FloatArray | None) -> None:
    """A plate with text above the person's left upper corner, moved into the picture; none for people outside it."""
    height, width = canvas.shape[:2]
    shown = person.points[person.opacity > 0] if (person.opacity > 0).any() else person.points
    left, top, right, bottom = np.concatenate([shown.min(0), shown.max(0)]) if box is None else box
    if not text or right < 0 or bottom < 0 or left > width - 1 or top > height - 1:
        return
    size = int(min(max(_TEXT_SHARE * person.extent, _MIN_TEXT), max(_MIN_TEXT, _MAX_TEXT_SHARE * max(height, width))))
    mask, pad = _text_mask(text, size), max(2, size // 4)
    while mask.shape[0] + 2 * pad > height or mask.shape[1] + 2 * pad > width:
        size = size * 3 // 4
        if size < _LEAST_TEXT:
            return
        mask, pad = _text_mask(text, size), max(2, size // 4)
    rows, columns = mask.shape[0] + 2 * pad, mask.shape[1] + 2 * pad
    x = min(max(0, round(left)), width - columns)
    y = min(max(0, round(top) - rows), height - rows)
    plate = person.colours["centre"]
    ink = _INK if np.dot(plate, (0.299, 0.587, 0.114)) > 110 else _WHITE
    region = canvas[y : y + rows, x : x + columns]
    region[:] = plate
    inside = region[pad:-pad, pad:-pad]
    inside[:] = inside + mask[..., None] * (np.array(ink, dtype=np.float32) - inside) + 0.5


@lru_cache(maxsize=256)
def _text_mask(text: str, size: int) -> Float32Array:
    """(h, w) in [0, 1]: a line of text ``size`` pixels high, tight around digits."""
    mask = _font(size).getmask(text, mode="L")
    width, height = mask.size
    return np.asarray(mask, dtype=np.float32).reshape(height, width) / np.float32(255)


@lru_cache(maxsize=32)
def _font(size: int) -> ImageFont.FreeTypeFont:
    font = ImageFont.load_default(size)
    assert isinstance(font, ImageFont.FreeTypeFont)  # Pillow's wheels bring FreeType and this font
    return font
