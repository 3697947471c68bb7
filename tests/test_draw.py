"""Pictures of poses, checked by their pixels."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from distilpose.draw import SIDE_COLOURS, draw_poses
from distilpose.skeleton import COCO_17, Skeleton

Pixels = NDArray[np.uint8]
STICK = Skeleton("stick", ("a", "b"), (), ((0, 1),), (0, 1), (), (0.05, 0.05))
LEFT, RIGHT, CENTRE = (SIDE_COLOURS[side] for side in ("left", "right", "centre"))


@pytest.fixture
def grey() -> Pixels:
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
    """Number of pixels of a row in which two pictures differ clearly."""
    return int((np.abs(image[row].astype(int) - background[row]).max(-1) > 60).sum())


def test_limbs_wear_the_colour_of_their_side(grey: Pixels, person: NDArray[np.float64]) -> None:
    picture = draw_poses(grey, person, COCO_17)
    for side, colour in (("left", LEFT), ("right", RIGHT)):
        assert tuple(picture[middle(person, f"{side}_knee", f"{side}_ankle")]) == colour
        assert tuple(picture[middle(person, f"{side}_shoulder", f"{side}_elbow")]) == colour
    assert tuple(picture[middle(person, "left_shoulder", "right_shoulder")]) == CENTRE
    assert len({LEFT, RIGHT, CENTRE}) == 3


def test_input_is_untouched_and_only_the_person_is_painted(grey: Pixels, person: NDArray[np.float64]) -> None:
    before, points = grey.copy(), person.copy()
    picture = draw_poses(grey, person, COCO_17, score=np.ones((1, 17)), sigma=np.full((1, 17, 2), 2.0))
    np.testing.assert_array_equal(grey, before)
    np.testing.assert_array_equal(person, points)
    assert picture.dtype == np.uint8
    changed = np.argwhere((picture != grey).any(-1))[:, ::-1]
    low, high = person[0].min(0), person[0].max(0)
    assert (changed > low - 12).all()
    assert (changed < high + 12).all()


def test_lines_are_thin_at_distance(grey: Pixels) -> None:
    widths = {}
    for height in (40, 200, 400):
        stick = np.array([[[160.0, 5.0], [160.0, 5.0 + height]]])
        picture = draw_poses(np.zeros_like(grey), stick, STICK)
        widths[height] = width_at(picture, np.zeros_like(grey), 5 + height // 2)
    assert widths[40] <= 2
    assert widths[40] < widths[200] < widths[400] <= 12


def test_uncertain_keypoints_fade(grey: Pixels, person: NDArray[np.float64]) -> None:
    score = np.ones((1, 17))
    row, column = middle(person, "left_knee", "left_ankle")
    strength = []
    for value in (0.0, 0.15, 0.3, 1.0):
        score[0, COCO_17.keypoint_names.index("left_ankle")] = value
        picture = draw_poses(grey, person, COCO_17, score=score)
        strength.append(int(np.abs(picture[row, column].astype(int) - grey[row, column]).max()))
    assert strength[0] == 0
    assert 0 < strength[1] < strength[2] < strength[3]
    assert tuple(picture[middle(person, "right_knee", "right_ankle")]) == RIGHT


def test_person_without_confidence_is_not_drawn(grey: Pixels, person: NDArray[np.float64]) -> None:
    picture = draw_poses(grey, person, COCO_17, score=np.zeros((1, 17)), sigma=np.full((1, 17, 2), 40.0))
    np.testing.assert_array_equal(picture, grey)


def test_large_sigma_becomes_an_ellipse_and_small_does_not(grey: Pixels, person: NDArray[np.float64]) -> None:
    wrist = COCO_17.keypoint_names.index("left_wrist")
    x, y = person[0, wrist].astype(int)
    plain = draw_poses(grey, person, COCO_17)
    sigma = np.full((1, 17, 2), 5.0)
    np.testing.assert_array_equal(draw_poses(grey, person, COCO_17, sigma=sigma), plain)
    sigma[0, wrist] = 40, 12
    changed = (draw_poses(grey, person, COCO_17, sigma=sigma) != plain).any(-1)
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


def test_larger_person_lies_on_top_whatever_the_order(grey: Pixels, person: NDArray[np.float64]) -> None:
    small = (person - [160, 200]) * 0.5 + [160, 300]
    one = draw_poses(grey, np.concatenate([person, small]), COCO_17)
    other = draw_poses(grey, np.concatenate([small, person]), COCO_17)
    np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(one, draw_poses(draw_poses(grey, small, COCO_17), person, COCO_17))


def test_points_far_outside_are_harmless(grey: Pixels, person: NDArray[np.float64]) -> None:
    np.testing.assert_array_equal(draw_poses(grey, person + 5000, COCO_17, sigma=np.full((1, 17, 2), 50.0)), grey)
    person[0, COCO_17.keypoint_names.index("left_ankle")] = 1e9, -1e9
    sigma = np.full((1, 17, 2), 1e9)
    assert draw_poses(grey, person, COCO_17, sigma=sigma).shape == grey.shape


def test_line_reaches_from_outside_into_the_picture(grey: Pixels) -> None:
    stick = np.array([[[-300.0, 200.0], [900.0, 200.0]]])
    picture = draw_poses(grey, stick, STICK)
    assert (picture[200] == CENTRE).all()


def test_nobody_and_coinciding_points(grey: Pixels) -> None:
    empty = draw_poses(grey, np.zeros((0, 17, 2)), COCO_17, score=np.zeros((0, 17)), sigma=np.zeros((0, 17, 2)))
    np.testing.assert_array_equal(empty, grey)
    assert empty is not grey
    spot = draw_poses(grey, np.full((1, 17, 2), 100.0), COCO_17, sigma=np.zeros((1, 17, 2)))
    changed = np.argwhere((spot != grey).any(-1))
    assert 0 < len(changed) < 50
    assert np.abs(changed - 100).max() <= 4
