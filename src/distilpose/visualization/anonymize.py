"""People made unrecognizable: faces, found by keypoints, or whole person boxes."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, floor
from typing import TYPE_CHECKING, Literal, NamedTuple

import cv2
import numpy as np
from numpy.typing import ArrayLike

from distilpose.data.images import check_image
from distilpose.errors import ConfigError
from distilpose.geometry.boxes import check_array
from distilpose.skeletons import Skeleton
from distilpose.types import FloatArray, ImageArray

if TYPE_CHECKING:
    from distilpose.inference.result import PoseResult

Anonymize = Literal["none", "face", "body"]

_FACE = ("nose", "left_eye", "right_eye", "left_ear", "right_ear")
_TORSO = ("left_shoulder", "right_shoulder", "left_hip", "right_hip")
# Score from which on a keypoint is believed. A student places a face wrongly by more than a head where it says 0.4.
_STRONG = 0.5
# Head height, chin to crown, in multiples of a distance seen from its best side: an adult's head is 23 cm high, the
# ears 15 cm apart, the eyes 6.3 cm, nose and ear 11 cm, the shoulder joints 37 cm, shoulders and hips 51 cm. Seen from
# another side a distance is shorter, so the largest estimate is taken.
_HEAD_PER: dict[tuple[str, str], float] = {
    ("left_ear", "right_ear"): 1.5,
    ("left_eye", "right_eye"): 3.7,
    ("nose", "left_ear"): 2.1,
    ("nose", "right_ear"): 2.1,
    ("left_shoulder", "right_shoulder"): 0.62,
    ("left_shoulder", "left_hip"): 0.45,
    ("right_shoulder", "right_hip"): 0.45,
}
_HEAD_PER_EXTENT = 0.11  # 23 cm of somebody who reaches up to 2.1 m: never less
_FAR_OFF = 6.0  # by the median distance of keypoints from their middle: one farther off must not blur everything
_HEAD_PER_SIDE = 0.3  # by the shorter side of a person box whose keypoints are not believed
# In head heights: radius of the oval around a face that was found and around one that was guessed; the least distance
# from its rim to a keypoint of the face; from the middle of the shoulders up to the middle of the head; and how far a
# face may lie from there before it is doubted.
_FOUND_RADIUS, _GUESSED_RADIUS, _MARGIN, _NECK, _DOUBTED = 0.62, 0.95, 0.35, 0.85, 1.0
_AGREED = 0.6  # head heights: an unsure face so near to where the shoulders say needs one oval between both
_NARROW = 0.82  # width of the oval around a face that was found, by its height
_CELL = 0.22  # side of a mosaic cell in head heights: a face is three cells wide
_CELL_BLUR = 0.5  # standard deviation of the blur on top of the mosaic, in cells
_LEAST_RADIUS, _LEAST_CELL = 3.0, 3.0  # pixels
_LARGEST_RADIUS = 1.5  # of an oval in head heights, however unsure the model is
_LARGEST_HEAD = 0.8  # by the longer side of the person box, which may show head and shoulders alone
_LARGEST_UNSURE_HEAD = 0.4  # of the same, where no keypoint of head and shoulders is believed
_UPPER_END = 1.25  # height of what is blurred of such a person's box, by its width
_BODY_MARGIN, _BODY_CELL = 0.05, 0.05  # around a person box, and a cell of its mosaic, by the longer side of the box
_FOUND_SIGMAS, _GUESSED_SIGMAS = 1.0, 2.5  # ovals grow by so many standard deviations


class _Oval(NamedTuple):
    """Where to blur: center, radii and size of the mosaic's cells, in image pixels."""

    x: float
    y: float
    radius_x: float
    radius_y: float
    cell: float


def blur_faces(image: ImageArray, result: PoseResult) -> ImageArray:
    """Blur the head of every person in a copy of an image (H, W, 3), so that nobody can be recognized by the face.

    A head is an oval around nose, eyes and ears; it grows with sigma. Where fewer than two of them have a score of 0.5,
    or where they lie far from where shoulders and hips say, the oval above the shoulders is blurred as well: a blurred
    background does less harm than a missed face. Where nothing of head and shoulders has that score, the upper end of
    the person box is blurred too, 1.25 times as high as it is wide. Nobody is left out for a low score. A face without
    a person is not found, and a pose may be wrong and sure: look through the images before publishing them.

    Raises:
        InputError: the image is none.
        ConfigError: the skeleton has neither a keypoint of the face (``nose``, ``left_eye``, ...) nor both shoulders.
    """
    check_image(image)
    check_has_face(result.skeleton)
    blurred = image.copy()
    for person in range(len(result)):
        for oval in _heads(result, person):
            _blur(blurred, oval)
    return blurred


def blur_boxes(image: ImageArray, box: ArrayLike) -> ImageArray:
    """A copy of the image (H, W, 3) with every person box (N, 4), x1, y1, x2, y2, blurred whole, with a margin.

    Raises:
        InputError: the image or the boxes are unusable.
    """
    check_image(image)
    blurred = image.copy()
    for x1, y1, x2, y2 in check_array(box, "box", None, (4,)).tolist():
        longer = max(x2 - x1, y2 - y1, 1.0)
        margin, cell = _BODY_MARGIN * longer, max(_BODY_CELL * longer, _LEAST_CELL)
        window = _window(image, x1 - margin, y1 - margin, x2 + margin, y2 + margin)
        if window is not None:
            blurred[window] = _mosaic(blurred[window], cell)
    return blurred


def anonymized_note(mode: Anonymize, people: int) -> str:
    """A sentence on what was blurred, and on what was not."""
    what = {"face": ("the face", "the faces"), "body": ("the box", "the boxes")}[mode][people != 1]
    return (
        f"blurred {what} of {people} {'person' if people == 1 else 'people'}; whoever was not found is still "
        "visible: look through the results before publishing them"
    )


def check_has_face(skeleton: Skeleton) -> None:
    """Raise `ConfigError` for a skeleton with neither a keypoint of the face nor both shoulders."""
    if not set(_FACE) & set(skeleton.keypoint_names) and not set(_TORSO[:2]) <= set(skeleton.keypoint_names):
        raise ConfigError(
            f"blurring faces needs one of the keypoints {', '.join(_FACE)}, or both shoulders; {skeleton.name} has none"
        )


class _Body(NamedTuple):
    """A person's keypoints by name, and those that are believed."""

    points: dict[str, FloatArray]
    strong: set[str]


def _heads(people: PoseResult, person: int) -> list[_Oval]:
    """The ovals of one person: around the face, above the shoulders, or both."""
    names = people.skeleton.keypoint_names
    score = np.ones(len(names)) if people.score is None else people.score[person]
    body = _body(names, people.xy[person], score)
    found = [name for name in _FACE if name in body.strong]
    no_head = not body.strong & {*_FACE, *_TORSO[:2]}
    low, high = people.box[person, :2], people.box[person, 2:].copy()
    part = _LARGEST_UNSURE_HEAD if no_head else _LARGEST_HEAD
    head = max(min(_head_height(body), part * float((high - low).max())), _LEAST_RADIUS)
    spread = np.zeros(2) if people.sigma is None else _face_spread(people.sigma[person], people.skeleton)
    certain = len(found) >= 2
    face = found if certain else [name for name in _FACE if name in body.points]
    guess = _above_shoulders(body, head)
    ovals = []
    if face:
        center, radius = _around_face(np.array([body.points[name] for name in face]), head, certain)
        sigmas, apart = _FOUND_SIGMAS if certain else _GUESSED_SIGMAS, np.inf
        if guess is not None:
            apart = float(np.linalg.norm(guess - center))
            center = (center + guess) / 2 if not certain and apart <= _AGREED * head else center
        ovals.append(_oval(center, radius + sigmas * spread, head))
        certain = (guess is None or apart <= _DOUBTED * head) if certain else apart <= _AGREED * head
    if guess is not None and not (face and certain):
        ovals.append(_oval(guess, _GUESSED_RADIUS * head + _GUESSED_SIGMAS * spread, head))
    if no_head:
        high[1] = min(high[1], low[1] + _UPPER_END * (high[0] - low[0]))
        (x, y), (radius_x, radius_y) = ((low + high) / 2).tolist(), np.maximum((high - low) / 2, _LEAST_RADIUS).tolist()
        side = max(head, _HEAD_PER_SIDE * float((high - low).min()))
        ovals.append(_Oval(x, y, radius_x, radius_y, max(_CELL * side, _LEAST_CELL)))
    return ovals


def _body(names: Sequence[str], xy: FloatArray, score: FloatArray) -> _Body:
    """Without keypoints that are far off, unless they are all that says where the head is."""
    distance = np.linalg.norm(xy - np.median(xy, axis=0), axis=-1)
    near = distance <= _FAR_OFF * np.median(distance)
    points = {name: point for name, point, close in zip(names, xy, near, strict=True) if close}
    if not points.keys() & set(_FACE) and not points.keys() >= set(_TORSO[:2]):
        points = dict(zip(names, xy, strict=True))
    return _Body(points, points.keys() & {name for name, value in zip(names, score, strict=True) if value >= _STRONG})


def _head_height(body: _Body) -> float:
    """In pixels: the largest estimate from believed keypoints; from any, where too few are believed."""
    pairs = [pair for pair in _HEAD_PER if set(pair) <= body.points.keys()]
    believed = [pair for pair in pairs if set(pair) <= body.strong] or pairs
    estimates = [_HEAD_PER[a, b] * float(np.linalg.norm(body.points[a] - body.points[b])) for a, b in believed]
    shown = body.strong if len(body.strong) >= 2 else body.points.keys()
    extent = float(np.ptp([body.points[name] for name in shown], axis=0).max())
    return max(*estimates, _HEAD_PER_EXTENT * extent, _LEAST_RADIUS)


def _face_spread(sigma: FloatArray, skeleton: Skeleton) -> FloatArray:
    """(2,) mean sigma of the face, without one of the shoulders, along x and y."""
    names = skeleton.keypoint_names
    used = [names.index(name) for name in _FACE if name in names] or [names.index(name) for name in _TORSO[:2]]
    return np.asarray(sigma[used].mean(0), dtype=np.float64)


def _around_face(points: FloatArray, head: float, certain: bool) -> tuple[FloatArray, FloatArray]:
    """Center and radii of an oval that holds the keypoints of a face and the head around them."""
    middle = np.median(points, axis=0)
    near = points[np.linalg.norm(points - middle, axis=-1) <= 2 * head]  # one far off must not blur the whole image
    center = (near.min(0) + near.max(0)) / 2 if len(near) else middle
    reach = float(np.linalg.norm(near - center, axis=-1).max(initial=0)) + _MARGIN * head
    radius = (_FOUND_RADIUS if certain else _GUESSED_RADIUS) * head
    return center, np.array([max(_NARROW * radius, reach), max(radius, reach)])


def _above_shoulders(body: _Body, head: float) -> FloatArray | None:
    """Where the head is by the trunk: up from the hips, else up in the image; None without shoulders."""
    if not set(_TORSO[:2]) <= set(body.points):
        return None
    neck = (body.points["left_shoulder"] + body.points["right_shoulder"]) / 2
    up = np.array([0.0, -1.0])
    if set(_TORSO) <= set(body.points):
        trunk = neck - (body.points["left_hip"] + body.points["right_hip"]) / 2
        length = float(np.linalg.norm(trunk))
        up = trunk / length if length > 0.5 * head else up
    return np.asarray(neck + _NECK * head * up, dtype=np.float64)


def _oval(center: FloatArray, radii: FloatArray, head: float) -> _Oval:
    radius_x, radius_y = np.clip(radii, _LEAST_RADIUS, max(_LARGEST_RADIUS * head, _LEAST_RADIUS)).tolist()
    x, y = center.tolist()
    return _Oval(x, y, radius_x, radius_y, max(_CELL * head, _LEAST_CELL))


def _blur(image: ImageArray, oval: _Oval) -> None:
    """Replace an oval by its smoothed mosaic."""
    reach_x, reach_y = oval.radius_x + 1, oval.radius_y + 1
    window = _window(image, oval.x - reach_x, oval.y - reach_y, oval.x + reach_x, oval.y + reach_y)
    if window is None:
        return
    rows, columns = window
    across = (np.arange(columns.start, columns.stop) - oval.x)[None] / oval.radius_x
    down = (np.arange(rows.start, rows.stop) - oval.y)[:, None] / oval.radius_y
    inside = 0.5 + (1 - np.hypot(across, down)) * min(oval.radius_x, oval.radius_y)
    alpha = np.clip(inside, 0, 1)[..., None]
    smooth = _mosaic(image[window], oval.cell).astype(np.float32)
    image[window] = np.rint(image[window] + alpha * (smooth - image[window]))


def _window(image: ImageArray, low_x: float, low_y: float, high_x: float, high_y: float) -> tuple[slice, slice] | None:
    """Rows and columns of the image between two points; None when there are none."""
    left, right = max(0, floor(low_x)), min(image.shape[1], ceil(high_x) + 1)
    top, bottom = max(0, floor(low_y)), min(image.shape[0], ceil(high_y) + 1)
    return None if left >= right or top >= bottom else (slice(top, bottom), slice(left, right))


def _mosaic(region: ImageArray, cell: float) -> ImageArray:
    """Averages over cells of so many pixels, blurred; cells so large keep no features of a face."""
    height, width = region.shape[:2]
    size = (max(1, round(width / cell)), max(1, round(height / cell)))
    cells = cv2.GaussianBlur(cv2.resize(region, size, interpolation=cv2.INTER_AREA), (0, 0), _CELL_BLUR)
    return np.asarray(cv2.resize(cells, (width, height), interpolation=cv2.INTER_LINEAR), dtype=np.uint8)
