"""Poses on images: limbs colored by body side or person, ellipses where the model is unsure, boxes and labels."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, Literal

import cv2
import numpy as np
from PIL import ImageFont

from distilpose.data.images import check_image
from distilpose.errors import ConfigError
from distilpose.options import Range, check_options
from distilpose.skeletons import Side
from distilpose.types import Float32Array, FloatArray, ImageArray
from distilpose.visualization.rasterizer import INK, WHITE, Color, Person, ramp, rasterize_person

if TYPE_CHECKING:
    from distilpose.inference.result import PoseResult

SIDE_COLORS: dict[Side, Color] = {"left": (0, 200, 255), "right": (255, 128, 20), "center": (245, 245, 245)}
# Far apart to everyone, people with red-green deficiency included (tests/visualization/test_draw.py measures it);
# neighbors in the list, the likely ids of people seen together, are the farthest apart.
PERSON_COLORS: tuple[Color, ...] = (
    (70, 180, 255), (255, 140, 0), (0, 175, 120), (225, 70, 180), (245, 230, 60), (80, 100, 255), (215, 65, 45),
    (130, 240, 190),
)  # fmt: skip
PLAIN_COLOR: Color = (22, 25, 31)

# A limb is this share of the person's extent wide, within these bounds in pixels
_WIDTH_SHARE, _MIN_WIDTH, _MAX_WIDTH = 0.017, 1.0, 16.0
# Score at which a keypoint begins to show, and from which on it shows in full
_SCORE_RAMP = (0.05, 0.4)
UNSURE_POSE_SCORE = 0.2  # whoever has a weaker pose is marked by a dashed box and a label
# Height of a label's text: a share of the person's extent, not below so many pixels, not above a share of the image
_TEXT_SHARE, _MIN_TEXT, _MAX_TEXT_SHARE, _LEAST_TEXT = 0.05, 12.0, 0.06, 6


@dataclass(frozen=True)
class DrawStyle:
    """How people are drawn; `STYLES` has named ones.

    Attributes:
        colors: "side": left, right and center have a color each. "person": each person has a hue, by track id or
            else by row; the left is lighter, the right darker.
        ellipses: mark keypoints with a large sigma.
        boxes: draw the person boxes.
        labels: write track id and pose score beside each person.
        line_width: factor on the width of the lines.
        background: the "image", or "plain" dark.

    Raises:
        ConfigError: a value is none of these.
    """

    colors: Literal["side", "person"] = "side"
    ellipses: bool = True
    boxes: bool = False
    labels: bool = False
    line_width: Annotated[float, Range(0, 100, above_low=True)] = 1.0
    background: Literal["image", "plain"] = "image"

    def __post_init__(self) -> None:
        check_options(self)


STYLES: dict[str, DrawStyle] = {
    "sides": DrawStyle(),
    "people": DrawStyle(colors="person"),
    "labels": DrawStyle(colors="person", boxes=True, labels=True),
    "skeleton": DrawStyle(colors="person", ellipses=False, background="plain"),
    "minimal": DrawStyle(ellipses=False, line_width=0.6),
}


def style_named(style: str | DrawStyle) -> DrawStyle:
    """The style of a name in `STYLES`, `ConfigError` if there is none; a style is returned as it is."""
    if isinstance(style, DrawStyle):
        return style
    if not isinstance(style, str) or style not in STYLES:
        raise ConfigError(f"style must be one of {', '.join(STYLES)} or a DrawStyle, got {style!r}")
    return STYLES[style]


def person_color(number: int) -> Color:
    """The RGB color of a track id (or row): the same in every image, repeated after `PERSON_COLORS`."""
    return PERSON_COLORS[number % len(PERSON_COLORS)]


def draw_poses(image: ImageArray, result: PoseResult, style: str | DrawStyle = "sides") -> ImageArray:
    """Draw people on a copy of an image (H, W, 3) uint8 RGB, the largest last, labels on top.

    Lines grow with the person, so that distant people stay visible under them. Keypoints with a low score fade out.
    An ellipse of one standard deviation marks a keypoint whose sigma is large for the person's size. A dashed box with
    the label "unsure" marks a person whose pose has a score below 0.2, in every style. Track ids, else rows, choose the
    colors of people and stand in labels.

    Raises:
        InputError: the image is none.
        ConfigError: ``style`` is neither a name in `STYLES` nor a style.
    """
    check_image(image)
    look = style_named(style)
    canvas = image.copy() if look.background == "image" else np.full_like(image, PLAIN_COLOR)
    opacity = np.ones(result.xy.shape[:2]) if result.score is None else ramp(result.score, _SCORE_RAMP)
    numbers = np.arange(len(result)) if result.track_id is None else result.track_id
    people = [_person(*row, look) for row in zip(result.xy, opacity, numbers, strict=True)]
    order = sorted(range(len(people)), key=lambda n: people[n].extent)
    unsure = result.pose_score < UNSURE_POSE_SCORE
    for index in order:
        if look.boxes or unsure[index]:
            _draw_box(canvas, result.box[index], people[index], dashed=bool(unsure[index]))
        spread = result.sigma[index] if look.ellipses and result.sigma is not None else None
        rasterize_person(canvas, people[index], spread, result.skeleton)
    for index in order:
        if look.labels or unsure[index]:
            parts = ["unsure"] if unsure[index] else []
            parts += [] if result.track_id is None else [f"#{result.track_id[index]}"]
            text = " ".join([*parts, f"{result.pose_score[index]:.2f}"])
            _draw_label(canvas, text, people[index], result.box[index])
    return canvas


def _person(points: FloatArray, opacity: FloatArray, number: float, look: DrawStyle) -> Person:
    shown = points[opacity > 0.5] if (opacity > 0.5).sum() >= 2 else points
    extent = float(np.ptp(shown, axis=0).max())
    width = look.line_width * min(max(_WIDTH_SHARE * extent, _MIN_WIDTH), _MAX_WIDTH)
    colors = SIDE_COLORS if look.colors == "side" else _shades(person_color(int(number)))
    return Person(points, opacity, extent, width, colors)


def _shades(color: Color) -> dict[Side, Color]:
    """A person's hue, lighter on the left and darker on the right."""
    red, green, blue = color
    lighter = (red + (255 - red) // 2, green + (255 - green) // 2, blue + (255 - blue) // 2)
    return {"left": lighter, "right": (red * 3 // 4, green * 3 // 4, blue * 3 // 4), "center": color}


def _draw_box(canvas: ImageArray, box: FloatArray, person: Person, *, dashed: bool) -> None:
    """A frame with crisp edges, dark on either side; dashed around an unsure pose."""
    height, width = canvas.shape[:2]
    thick = max(1, round(0.3 * person.width))
    room = 4 * thick + 4  # edges farther outside are as invisible
    left, top, right, bottom = np.rint(
        np.clip(box, -room, np.array([width, height, width, height]) + room)
    ).astype(int).tolist()  # fmt: skip
    dash = max(8, 4 * thick) if dashed else 2 * max(right - left, bottom - top, 1)
    corners = [(left, top), (right, top), (right, bottom), (left, bottom), (left, top)]
    for color, thickness in ((INK, thick + 2), (person.colors["center"], thick)):
        for (x1, y1), (x2, y2) in pairwise(corners):
            across, down = int(np.sign(x2 - x1)), int(np.sign(y2 - y1))
            length = max(abs(x2 - x1), abs(y2 - y1))
            for start in range(0, length, 2 * dash + thick + 2):  # the ends of a dash are round
                stop = min(start + dash, length)
                ends = [(x1 + across * at, y1 + down * at) for at in (start, stop)]
                cv2.line(canvas, ends[0], ends[1], color, thickness, cv2.LINE_8)


def _draw_label(canvas: ImageArray, text: str, person: Person, box: FloatArray) -> None:
    """A plate with text above the person's left upper corner, moved into the image; none for people outside it."""
    height, width = canvas.shape[:2]
    left, top, right, bottom = box
    if right < 0 or bottom < 0 or left > width - 1 or top > height - 1:
        return
    size = int(min(max(_TEXT_SHARE * person.extent, _MIN_TEXT), max(_MIN_TEXT, _MAX_TEXT_SHARE * max(height, width))))
    rows = columns = max(height, width) + 1
    while rows > height or columns > width:
        if size < _LEAST_TEXT:
            return
        mask, pad = _text_mask(text, size), max(2, size // 4)
        rows, columns = mask.shape[0] + 2 * pad, mask.shape[1] + 2 * pad
        size = size * 3 // 4
    x = min(max(0, round(left)), width - columns)
    y = min(max(0, round(top) - rows), height - rows)
    plate = person.colors["center"]
    ink = INK if np.dot(plate, (0.299, 0.587, 0.114)) > 110 else WHITE
    region = canvas[y : y + rows, x : x + columns]
    region[:] = plate
    inside = region[pad:-pad, pad:-pad]
    inside[:] = inside + mask[..., None] * (np.array(ink, dtype=np.float32) - inside) + 0.5


_font = lru_cache(maxsize=32)(ImageFont.load_default)


@lru_cache(maxsize=256)
def _text_mask(text: str, size: int) -> Float32Array:
    """(h, w) in [0, 1]: a line of text ``size`` pixels high, tight around digits."""
    font = _font(size)
    assert isinstance(font, ImageFont.FreeTypeFont)  # Pillow's wheels bring FreeType and this font
    mask = font.getmask(text, mode="L")
    width, height = mask.size
    return np.asarray(mask, dtype=np.float32).reshape(height, width) / np.float32(255)
