"""Images of poses, checked by their pixels."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from distilpose.errors import ConfigError, InputError
from distilpose.formats.conversions import boxes_around
from distilpose.inference.result import PoseResult
from distilpose.skeletons import COCO_17, Skeleton
from distilpose.visualization import draw
from distilpose.visualization.annotators import is_drawn
from distilpose.visualization.draw import (
    PERSON_COLORS,
    PLAIN_COLOR,
    SIDE_COLORS,
    STYLES,
    DrawStyle,
    person_color,
)

Pixels = NDArray[np.uint8]
STICK = Skeleton("stick", ("a", "b"), (), ((0, 1),), (0, 1), (), (0.05, 0.05))
LEFT, RIGHT, CENTER = (SIDE_COLORS[side] for side in ("left", "right", "center"))


def draw_poses(image: Pixels, xy: Any, skeleton: Skeleton, *, style: Any = "sides", **given: Any) -> Pixels:
    """The drawing of people of whom only some arrays are told; sure ones, if nothing else is said."""
    xy = np.asarray(xy, dtype=np.float64)
    given = {"box": boxes_around(xy), "box_score": np.ones(len(xy)), "pose_score": np.ones(len(xy)), **given}
    given["raw_score"] = given.pop("score", None)
    return draw.draw_poses(image, PoseResult(xy, skeleton=skeleton, **given), style)


@pytest.fixture
def gray() -> Pixels:
    return np.full((420, 320, 3), 110, np.uint8)


@pytest.fixture
def person() -> NDArray[np.float64]:
    """(1, 17, 2): somebody who stands facing us, 360 pixels high; the left side is at larger x."""
    half = {"nose": (0, 20), "eye": (10, 12), "ear": (20, 18), "shoulder": (45, 80), "elbow": (62, 145)}
    half |= {"wrist": (70, 205), "hip": (28, 205), "knee": (32, 290), "ankle": (34, 370)}
    points = []
    for name in COCO_17.keypoint_names:
        x, y = half[name.removeprefix("left_").removeprefix("right_")]
        points.append((160 - x if name.startswith("right") else 160 + x, y + 10))
    return np.array([points], dtype=np.float64)


def middle(person: NDArray[np.float64], a: str, b: str) -> tuple[int, int]:
    """(row, column) half way between two keypoints."""
    ends = person[0, [COCO_17.keypoint_names.index(a), COCO_17.keypoint_names.index(b)]]
    x, y = np.rint(ends.mean(0)).astype(int)
    return int(y), int(x)


def width_at(image: Pixels, background: Pixels, row: int) -> int:
    """Number of pixels of a row in which two images differ clearly."""
    return int((np.abs(image[row].astype(int) - background[row]).max(-1) > 60).sum())


def test_limbs_wear_the_color_of_their_side(gray: Pixels, person: NDArray[np.float64]) -> None:
    image = draw_poses(gray, person, COCO_17)
    for side, color in (("left", LEFT), ("right", RIGHT)):
        assert tuple(image[middle(person, f"{side}_knee", f"{side}_ankle")]) == color
        assert tuple(image[middle(person, f"{side}_shoulder", f"{side}_elbow")]) == color
    assert tuple(image[middle(person, "left_shoulder", "right_shoulder")]) == CENTER
    assert len({LEFT, RIGHT, CENTER}) == 3


def test_input_is_untouched_and_only_the_person_is_painted(gray: Pixels, person: NDArray[np.float64]) -> None:
    before, points = gray.copy(), person.copy()
    image = draw_poses(gray, person, COCO_17, score=np.ones((1, 17)), sigma=np.full((1, 17, 2), 2.0))
    np.testing.assert_array_equal(gray, before)
    np.testing.assert_array_equal(person, points)
    assert image.dtype == np.uint8
    changed = np.argwhere((image != gray).any(-1))[:, ::-1]
    low, high = person[0].min(0), person[0].max(0)
    assert (changed > low - 12).all()
    assert (changed < high + 12).all()


def test_lines_are_thin_at_distance(gray: Pixels) -> None:
    widths = {}
    for height in (40, 200, 400):
        stick = np.array([[[160.0, 5.0], [160.0, 5.0 + height]]])
        image = draw_poses(np.zeros_like(gray), stick, STICK)
        widths[height] = width_at(image, np.zeros_like(gray), 5 + height // 2)
    assert widths[40] <= 2
    assert widths[40] < widths[200] < widths[400] <= 12


def test_uncertain_keypoints_fade(gray: Pixels, person: NDArray[np.float64]) -> None:
    score = np.ones((1, 17))
    row, column = middle(person, "left_knee", "left_ankle")
    strength = []
    for value in (0.0, 0.15, 0.3, 1.0):
        score[0, COCO_17.keypoint_names.index("left_ankle")] = value
        image = draw_poses(gray, person, COCO_17, score=score)
        strength.append(int(np.abs(image[row, column].astype(int) - gray[row, column]).max()))
    assert strength[0] == 0
    assert 0 < strength[1] < strength[2] < strength[3]
    assert tuple(image[middle(person, "right_knee", "right_ankle")]) == RIGHT


def test_person_without_confidence_is_not_drawn(gray: Pixels, person: NDArray[np.float64]) -> None:
    image = draw_poses(gray, person, COCO_17, score=np.zeros((1, 17)), sigma=np.full((1, 17, 2), 40.0))
    np.testing.assert_array_equal(image, gray)


def test_large_sigma_becomes_an_ellipse_and_small_does_not(gray: Pixels, person: NDArray[np.float64]) -> None:
    wrist = COCO_17.keypoint_names.index("left_wrist")
    x, y = person[0, wrist].astype(int)
    plain = draw_poses(gray, person, COCO_17)
    sigma = np.full((1, 17, 2), 5.0)
    np.testing.assert_array_equal(draw_poses(gray, person, COCO_17, sigma=sigma), plain)
    sigma[0, wrist] = 40, 12
    changed = (draw_poses(gray, person, COCO_17, sigma=sigma) != plain).any(-1)
    assert changed[y, x + 36]
    assert not changed[y, x + 46]
    assert changed[y + 10, x + 1]
    assert not changed[y + 18, x]
    assert changed[y, x - 30] == changed[y, x + 30]


def test_ellipse_is_translucent(person: NDArray[np.float64]) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (420, 320, 3), dtype=np.uint8)
    sigma = np.full((1, 17, 2), 1.0)
    sigma[0, COCO_17.keypoint_names.index("left_wrist")] = 40
    x, y = person[0, COCO_17.keypoint_names.index("left_wrist")].astype(int)
    patch = np.s_[y - 5 : y + 25, x + 12 : x + 25]
    painted = draw_poses(noise, person, COCO_17, sigma=sigma)[patch].astype(float)
    for channel in range(3):
        slope, intercept = np.polyfit(noise[patch][..., channel].ravel(), painted[..., channel].ravel(), 1)
        assert 0.5 < slope < 0.9
        assert intercept == pytest.approx((1 - slope) * LEFT[channel], abs=1.5)


def test_larger_person_lies_on_top_whatever_the_order(gray: Pixels, person: NDArray[np.float64]) -> None:
    small = (person - [160, 200]) * 0.5 + [160, 300]
    one = draw_poses(gray, np.concatenate([person, small]), COCO_17)
    other = draw_poses(gray, np.concatenate([small, person]), COCO_17)
    np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(one, draw_poses(draw_poses(gray, small, COCO_17), person, COCO_17))


def test_line_reaches_from_outside_into_the_image(gray: Pixels) -> None:
    stick = np.array([[[-300.0, 200.0], [900.0, 200.0]]])
    image = draw_poses(gray, stick, STICK)
    assert (image[200] == CENTER).all()


def test_nobody_and_coinciding_points(gray: Pixels) -> None:
    empty = draw_poses(gray, np.zeros((0, 17, 2)), COCO_17, score=np.zeros((0, 17)), sigma=np.zeros((0, 17, 2)))
    np.testing.assert_array_equal(empty, gray)
    assert empty is not gray
    spot = draw_poses(gray, np.full((1, 17, 2), 100.0), COCO_17, sigma=np.zeros((1, 17, 2)))
    changed = np.argwhere((spot != gray).any(-1))
    assert 0 < len(changed) < 50
    assert np.abs(changed - 100).max() <= 4


def test_a_person_s_color_is_that_of_the_track_whatever_the_row(gray: Pixels, person: NDArray[np.float64]) -> None:
    other = person + np.array([0, 2000])
    alone = draw_poses(gray, person, COCO_17, style="people", track_id=[11])
    for xy, ids in ((np.concatenate([person, other]), [11, 3]), (np.concatenate([other, person]), [3, 11])):
        np.testing.assert_array_equal(draw_poses(gray, xy, COCO_17, style="people", track_id=ids), alone)
    by_row = draw_poses(gray, person, COCO_17, style="people")
    np.testing.assert_array_equal(by_row, draw_poses(gray, person, COCO_17, style="people", track_id=[0]))
    assert (by_row != alone).any()
    assert tuple(alone[middle(person, "left_shoulder", "right_shoulder")]) == person_color(11) == person_color(11)


def test_sides_differ_in_lightness_in_a_person_s_color(gray: Pixels, person: NDArray[np.float64]) -> None:
    for number in range(len(PERSON_COLORS)):
        image = draw_poses(gray, person, COCO_17, style="people", track_id=[number])
        left, right = (image[middle(person, f"{side}_knee", f"{side}_ankle")].astype(float) for side in SIDES)
        assert left.mean() > right.mean() + 30


SIDES = ("left", "right")
# Linear RGB as seen with protanopia and deuteranopia: Machado et al. 2009, severity 1, and by everyone
SEEN = {
    "all": np.eye(3),
    "protanopia": [[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]],
    "deuteranopia": [[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]],
}
XYZ = np.array([[0.4125, 0.3576, 0.1804], [0.2127, 0.7152, 0.0722], [0.0193, 0.1192, 0.9503]])


@pytest.mark.parametrize(("eye", "least"), [("all", 25), ("protanopia", 15), ("deuteranopia", 15)])
def test_colors_of_people_are_told_apart(eye: str, least: float) -> None:
    rgb = np.array(PERSON_COLORS) / 255
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4) @ np.transpose(SEEN[eye])
    xyz = linear.clip(0, 1) @ XYZ.T / [0.9505, 1, 1.089]
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    lab = np.stack([116 * f[:, 1] - 16, 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])], axis=1)
    distance = np.linalg.norm(lab[:, None] - lab[None], axis=-1) + 1000 * np.eye(len(lab))
    assert distance.min() > least
    assert np.diagonal(distance, 1).min() > 1.5 * least  # of neighbors, the likely ids of one image


def test_styles(gray: Pixels, person: NDArray[np.float64]) -> None:
    box = np.array([[60.0, 8, 270, 400]])
    sigma = np.full((1, 17, 2), 40.0)
    drawn = {
        name: draw_poses(gray, person, COCO_17, sigma=sigma, style=name, box=box, track_id=[4], pose_score=[0.5])
        for name in STYLES
    }
    assert len({image.tobytes() for image in drawn.values()}) == len(STYLES)
    np.testing.assert_array_equal(drawn["sides"], draw_poses(gray, person, COCO_17, sigma=sigma))
    assert tuple(drawn["skeleton"][0, 0]) == PLAIN_COLOR
    assert tuple(drawn["labels"][300, 60]) == person_color(4)  # the left edge of the box
    assert tuple(drawn["people"][300, 60]) != person_color(4)
    knee = middle(person, "left_knee", "left_ankle")[0]
    assert width_at(drawn["minimal"], gray, knee) < width_at(draw_poses(gray, person, COCO_17), gray, knee)
    np.testing.assert_array_equal(
        draw_poses(gray, person, COCO_17, style=DrawStyle(ellipses=False), sigma=sigma),
        draw_poses(gray, person, COCO_17),
    )


def test_unknown_style_names_the_known() -> None:
    with pytest.raises(ConfigError, match=r"sides, people, labels, skeleton, minimal.*got 'neon'"):
        draw_poses(np.zeros((9, 9, 3), np.uint8), np.zeros((0, 17, 2)), COCO_17, style="neon")
    with pytest.raises(ConfigError, match=r"style must be one of .*got array"):
        draw_poses(np.zeros((9, 9, 3), np.uint8), np.zeros((0, 17, 2)), COCO_17, style=np.zeros(2))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="colors must be one of side, person"):
        DrawStyle(colors="rainbow")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="background"):
        DrawStyle(background="white")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="line_width"):
        DrawStyle(line_width=0)


LABEL_ALONE = DrawStyle(labels=True, boxes=False, ellipses=False, background="plain", colors="person")


@pytest.mark.parametrize("corner", [(0, 0), (1, 0), (0, 1), (1, 1)])
@pytest.mark.parametrize("beyond", [-15, 5])
def test_labels_stay_whole_inside_the_image(corner: tuple[int, int], beyond: int) -> None:
    image = np.zeros((200, 300, 3), np.uint8)
    free = label_size(image, [120.0, 90, 180, 150])
    where = np.array(corner) * [300 - 60, 200 - 60] + (np.array(corner) * 2 - 1) * beyond
    assert label_size(image, [*where.tolist(), *(where + 60).tolist()]) == free


def label_size(image: Pixels, box: list[float]) -> tuple[int, int]:
    """(height, width) of the label of somebody whose keypoints have no score."""
    xy = np.linspace(box[:2], box[2:], 17)[None]
    drawn = draw_poses(
        image, xy, COCO_17, score=np.zeros((1, 17)), style=LABEL_ALONE, track_id=[27], box=[box], pose_score=[0.84]
    )
    rows, columns = np.nonzero((drawn != PLAIN_COLOR).any(-1))
    return int(np.ptp(rows)) + 1, int(np.ptp(columns)) + 1


def test_labels_grow_with_the_person_and_shrink_into_small_images() -> None:
    image = np.zeros((2000, 3000, 3), np.uint8)
    small, large = label_size(image, [1000.0, 900, 1040, 960]), label_size(image, [1000.0, 300, 1800, 1900])
    assert small[0] >= 14
    assert large[0] > 3 * small[0]
    assert label_size(np.zeros((40, 34, 3), np.uint8), [4.0, 20, 30, 39])[1] <= 34
    tiny = draw_poses(np.zeros((5, 5, 3), np.uint8), [[[2.0, 2]] * 17], COCO_17, style="labels", track_id=[1])
    assert tiny.shape == (5, 5, 3)


@pytest.mark.parametrize("background", [0, 128, 255])
def test_label_text_stands_out_from_its_plate(background: int) -> None:
    for number in range(len(PERSON_COLORS)):
        image = draw_poses(
            np.full((200, 300, 3), background, np.uint8), np.full((1, 17, 2), 150.0), COCO_17, track_id=[number],
            score=np.zeros((1, 17)), style=DrawStyle(labels=True, colors="person"), box=[[100.0, 100, 200, 190]],
        )  # fmt: skip
        changed = image[(image != background).any(-1)].astype(float) @ [0.299, 0.587, 0.114]
        assert np.ptp(changed) > 80


def test_nobody_outside_gets_a_label_or_a_box(gray: Pixels, person: NDArray[np.float64]) -> None:
    for shift in ([5000, 0], [0, -5000], [-1e9, 1e9]):
        box = np.array([[60.0, 8, 270, 400]]) + np.array([*shift, *shift])
        image = draw_poses(gray, person + shift, COCO_17, style="labels", box=box, track_id=[1], pose_score=[1.0])
        np.testing.assert_array_equal(image, gray)


@pytest.mark.parametrize("style", STYLES)
def test_extremes(style: str, person: NDArray[np.float64]) -> None:
    rng = np.random.default_rng(0)
    pixel = np.zeros((1, 1, 3), np.uint8)
    many = person * 0.1 + rng.uniform(0, 200, (200, 1, 2))
    boxes = np.concatenate([many.min(1), many.max(1)], axis=1)
    image = np.zeros((240, 320, 3), np.uint8)
    for canvas in (pixel, image):
        for xy, box in (
            (many, boxes),
            (np.zeros((0, 17, 2)), np.zeros((0, 4))),
            (np.full((1, 17, 2), 1e12), np.full((1, 4), -1e12)),
        ):
            count = len(xy)
            drawn = draw_poses(
                canvas, xy, COCO_17, sigma=np.full((count, 17, 2), 3.0), style=style, box=box,
                track_id=np.arange(count), pose_score=np.ones(count),
            )  # fmt: skip
            assert drawn.shape == canvas.shape
            assert drawn.dtype == np.uint8
    assert not pixel.any()
    assert not image.any()


def test_what_is_no_image_is_refused(person: NDArray[np.float64]) -> None:
    with pytest.raises(InputError, match="image must be"):
        draw_poses(np.zeros((5, 5), np.uint8), person, COCO_17)


@pytest.mark.parametrize("style", ["sides", "minimal"])
def test_an_unsure_pose_in_a_box_is_marked(gray: Pixels, person: NDArray[np.float64], style: str) -> None:
    score, box = np.zeros((1, 17)), np.array([[60.0, 8, 270, 400]])
    unsure, sure = (
        draw_poses(gray, person, COCO_17, score=score, box=box, pose_score=[value], style=style) for value in (0.1, 0.3)
    )
    np.testing.assert_array_equal(sure, gray)
    edge = (unsure[60:350, 60] != gray[60:350, 60]).any(-1)
    assert 0.3 < edge.mean() < 0.7  # dashes
    assert np.count_nonzero(np.diff(edge)) > 10
    assert (unsure[:60, 60:140] != gray[:60, 60:140]).any(-1).mean() > 0.05  # a label at the upper left corner


def test_people_with_neither_pose_nor_box_are_not_drawn() -> None:
    xy, box = np.zeros((3, 17, 2)), np.tile([1.0, 1, 50, 90], (3, 1))
    result = PoseResult(xy=xy, box=box, box_score=[0.9, 0.3, 0.3], pose_score=[0.1, 0.1, 0.4])
    assert is_drawn(result).tolist() == [True, False, True]


def test_points_far_outside_are_harmless(gray: Pixels, person: NDArray[np.float64]) -> None:
    np.testing.assert_array_equal(draw_poses(gray, person + 5000, COCO_17, sigma=np.full((1, 17, 2), 50.0)), gray)
    person[0, COCO_17.keypoint_names.index("left_ankle")] = 1e9, -1e9
    sigma = np.full((1, 17, 2), 1e9)
    assert draw_poses(gray, person, COCO_17, sigma=sigma).shape == gray.shape
