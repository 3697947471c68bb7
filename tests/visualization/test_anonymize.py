"""Faces that nobody can read any more, and nothing else lost."""

from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from distilpose.errors import ConfigError, InputError
from distilpose.inference.result import PoseResult
from distilpose.skeletons import COCO_17, HALPE_26, OPENPOSE_18, Skeleton
from distilpose.visualization import anonymize
from distilpose.visualization.anonymize import anonymized_note, blur_boxes

Pixels = NDArray[np.uint8]
NAMES = COCO_17.keypoint_names
FACE = [NAMES.index(name) for name in ("nose", "left_eye", "right_eye", "left_ear", "right_ear")]


def blur_faces(
    image: Pixels, xy: Any, skeleton: Skeleton, *, score: Any = None, box: Any = None, **given: Any
) -> Pixels:
    """The image with blurred faces of people of whom only some arrays are told."""
    result = PoseResult.from_keypoints(xy, skeleton, score, **given)
    return anonymize.blur_faces(image, result if box is None else replace(result, box=box))


@pytest.fixture
def person() -> NDArray[np.float64]:
    """(1, 17, 2): somebody upright, head 60 pixels high with its middle at (200, 100), body 420 pixels high."""
    half = {"nose": (0, 108), "eye": (8, 97), "ear": (19, 100), "shoulder": (48, 155), "elbow": (60, 215)}
    half |= {"wrist": (66, 270), "hip": (30, 285), "knee": (32, 390), "ankle": (34, 480)}
    points = []
    for name in NAMES:
        x, y = half[name.removeprefix("left_").removeprefix("right_")]
        points.append((200 - x if name.startswith("right") else 200 + x, y))
    return np.array([points], dtype=np.float64)


@pytest.fixture
def noise() -> Pixels:
    """(520, 400, 3): the finest texture there is."""
    return np.random.default_rng(0).integers(0, 256, (520, 400, 3), dtype=np.uint8)


def head(image: Pixels) -> Pixels:
    """The face of the fixture: 46 x 60 pixels."""
    return image[70:130, 177:223]


def sharpness(image: Pixels) -> float:
    return float(cv2.Laplacian(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.CV_64F).var())


def changed_box(before: Pixels, after: Pixels) -> tuple[int, int, int, int]:
    rows, columns = np.nonzero((before != after).any(-1))
    return int(columns.min()), int(rows.min()), int(columns.max()), int(rows.max())


def test_texture_of_the_face_is_destroyed_and_the_rest_untouched(noise: Pixels, person: NDArray[np.float64]) -> None:
    before, points = noise.copy(), person.copy()
    blurred = blur_faces(noise, person, COCO_17)
    np.testing.assert_array_equal(noise, before)
    np.testing.assert_array_equal(person, points)
    assert sharpness(head(blurred)) < 1e-3 * sharpness(head(noise))
    assert head(blurred).std() < 0.2 * head(noise).std()
    left, top, right, bottom = changed_box(noise, blurred)
    assert 120 < left < 165
    assert 235 < right < 280
    assert 30 < top < 65
    assert 135 < bottom < 160


def test_features_the_size_of_eyes_are_lost(person: NDArray[np.float64]) -> None:
    """Eyes, brows and mouth of a face, 3 cm and less, leave no contrast worth the name."""
    image = np.full((520, 400, 3), 200, np.uint8)
    for x, y in person[0, FACE[:3]].astype(int):
        cv2.circle(image, (int(x), int(y)), 3, (0, 0, 0), -1)
    cv2.line(image, (190, 120), (210, 120), (0, 0, 0), 2)
    face = blur_faces(image, person, COCO_17)[90:125, 185:215]
    assert int(face.min()) > 130
    assert sharpness(face) < 0.005 * sharpness(image[90:125, 185:215])


@pytest.mark.parametrize("zoom", [0.1, 0.4, 3])
def test_blur_grows_with_the_person(person: NDArray[np.float64], zoom: float) -> None:
    size = (int(520 * zoom), int(400 * zoom), 3)
    image = np.random.default_rng(1).integers(0, 256, size, dtype=np.uint8)
    left, top, right, bottom = np.array(changed_box(image, blur_faces(image, zoom * person, COCO_17))) / zoom
    slack = 4 / zoom
    assert 120 - slack < left < 170
    assert 230 < right < 280 + slack
    assert 30 - slack < top < 65
    assert 130 < bottom < 160 + slack


def test_blur_grows_with_sigma(noise: Pixels, person: NDArray[np.float64]) -> None:
    plain = changed_box(noise, blur_faces(noise, person, COCO_17))
    wide = changed_box(noise, blur_faces(noise, person, COCO_17, sigma=np.full((1, 17, 2), 20.0)))
    assert plain[0] - wide[0] == pytest.approx(20, abs=2)
    assert wide[3] - plain[3] == pytest.approx(20, abs=2)


def test_misplaced_weak_face_is_found_above_the_shoulders(noise: Pixels, person: NDArray[np.float64]) -> None:
    score = np.full((1, 17), 0.9)
    score[0, FACE] = 0.1
    person[0, FACE] += [130, 60]
    blurred = blur_faces(noise, person, COCO_17, score=score)
    assert sharpness(head(blurred)) < 0.01 * sharpness(head(noise))
    score[0, FACE] = 0.9  # sure, but where no head can be: both
    blurred = blur_faces(noise, person, COCO_17, score=score)
    assert sharpness(head(blurred)) < 0.01 * sharpness(head(noise))
    x, y = person[0, FACE[0]].astype(int)
    assert (blurred[y - 10 : y + 10, x - 10 : x + 10] != noise[y - 10 : y + 10, x - 10 : x + 10]).any(-1).all()


def test_unsure_face_where_the_shoulders_say_is_blurred_once(noise: Pixels, person: NDArray[np.float64]) -> None:
    score = np.full((1, 17), 0.9)
    score[0, FACE] = 0.45
    person[0, FACE] += [20, 15]
    blurred = blur_faces(noise, person, COCO_17, score=score)
    assert sharpness(head(blurred)) < 0.01 * sharpness(head(noise))
    left, top, right, bottom = changed_box(noise, blurred)
    assert right - left < 2 * 75  # one oval, up to two heads across; a head is estimated a quarter too large
    assert bottom - top < 2 * 75


@pytest.mark.parametrize("degrees", [90, 180])
def test_head_of_somebody_who_lies_or_hangs(person: NDArray[np.float64], degrees: int) -> None:
    score = np.full((1, 17), 0.9)
    score[0, FACE] = 0.0
    angle = np.deg2rad(degrees)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    image = np.random.default_rng(2).integers(0, 256, (1000, 1000, 3), dtype=np.uint8)
    turned = (person - [200, 280]) @ turn.T + 500
    x, y = ((np.array([200.0, 100]) - [200, 280]) @ turn.T + 500).astype(int)
    turned[0, FACE] = turned[0, NAMES.index("left_hip")]  # the face says nothing
    blurred = blur_faces(image, turned, COCO_17, score=score)
    patch = np.s_[y - 25 : y + 25, x - 25 : x + 25]
    assert sharpness(blurred[patch]) < 0.01 * sharpness(image[patch])


def test_people_of_no_score_are_blurred_in_the_upper_end_of_their_box(
    noise: Pixels, person: NDArray[np.float64]
) -> None:
    collapsed = np.full((1, 17, 2), 300.0)
    score = np.full((1, 17), 0.05)
    blurred = blur_faces(noise, collapsed, COCO_17, score=score, box=[[130.0, 50, 270, 500]])
    assert sharpness(head(blurred)) < 0.01 * sharpness(head(noise))
    upright = blur_faces(noise, person, COCO_17, score=score, box=[[130.0, 50, 270, 500]])
    assert sharpness(head(upright)) < 0.01 * sharpness(head(noise))
    assert changed_box(noise, upright)[3] <= 50 + 1.25 * 140 + 2  # neither hips nor legs
    assert sharpness(head(blur_faces(noise, person, COCO_17, score=score))) < 0.01 * sharpness(head(noise))


def test_other_skeletons(noise: Pixels, person: NDArray[np.float64]) -> None:
    shoulders = Skeleton("trunk", ("left_shoulder", "right_shoulder"), ((0, 1),), (), (0, 1), (), (0.1, 0.1))
    blurred = blur_faces(noise, person[:, [5, 6]], shoulders)
    assert sharpness(head(blurred)) < 0.01 * sharpness(head(noise))
    nose = Skeleton("nose", ("nose", "ankle"), (), (), (0,), (1,), (0.1, 0.1))
    assert sharpness(head(blur_faces(noise, person[:, [0, 15]], nose))) < 0.1 * sharpness(head(noise))
    for skeleton in (OPENPOSE_18, HALPE_26):
        xy = np.zeros((1, skeleton.num_keypoints, 2))
        for place, name in enumerate(skeleton.keypoint_names):
            if name in NAMES:
                xy[0, place] = person[0, NAMES.index(name)]
        score = (xy != 0).any(-1).astype(float)
        assert sharpness(head(blur_faces(noise, xy, skeleton, score=score))) < 0.01 * sharpness(head(noise))
    hand = Skeleton("hand", ("thumb", "index"), (), (), (0, 1), (), (0.1, 0.1))
    with pytest.raises(ConfigError, match=r"needs one of the keypoints nose.*or both shoulders; hand has none"):
        blur_faces(noise, person[:, :2], hand)


def test_extremes(noise: Pixels, person: NDArray[np.float64]) -> None:
    np.testing.assert_array_equal(blur_faces(noise, [], COCO_17), noise)
    np.testing.assert_array_equal(blur_faces(noise, person + 1e9, COCO_17), noise)
    assert blur_faces(np.zeros((1, 1, 3), np.uint8), person - person[:, :1], COCO_17).shape == (1, 1, 3)
    assert blur_faces(noise, np.full((1, 17, 2), 5.0), COCO_17).shape == noise.shape
    person[0, FACE[0]] = 1e9, -1e9  # one keypoint far off: the head is blurred still
    assert sharpness(head(blur_faces(noise, person, COCO_17))) < 0.01 * sharpness(head(noise))
    with pytest.raises(InputError, match="xy must be finite"):
        blur_faces(noise, np.full((1, 17, 2), np.nan), COCO_17)
    with pytest.raises(InputError, match="image must be"):
        blur_faces(noise[..., 0], person, COCO_17)
    crowd = np.repeat(person, 200, axis=0) + np.random.default_rng(0).uniform(-100, 100, (200, 1, 2))
    assert blur_faces(noise, crowd, COCO_17).shape == noise.shape


def test_a_blurred_face_is_bounded_to_the_head_however_unsure(noise: Pixels, person: NDArray[np.float64]) -> None:
    box = [[130.0, 50, 270, 500]]
    blurred = blur_faces(noise, person, COCO_17, sigma=np.full((1, 17, 2), 500.0), box=box)
    left, top, right, bottom = changed_box(noise, blurred)
    assert right - left <= 3 * 75  # three heads of 60 pixels, estimated a quarter too large
    assert bottom - top <= 3 * 75
    person[0, NAMES.index("left_shoulder")] += [900, 0]  # a shoulder far off makes no head larger than its person
    left, top, right, bottom = changed_box(noise, blur_faces(noise, person, COCO_17, box=[[150.0, 60, 250, 160]]))
    assert bottom - top <= 3 * 80 + 3


def test_whole_boxes_are_blurred_with_a_margin(noise: Pixels) -> None:
    blurred = blur_boxes(noise, [[100.0, 100, 200, 300], [350, 400, 900, 900]])
    assert changed_box(noise[:360], blurred[:360]) == (90, 90, 210, 310)  # 5 % of 200 pixels on every side
    assert sharpness(blurred[100:300, 100:200]) < 1e-3 * sharpness(noise[100:300, 100:200])
    assert sharpness(blurred[410:, 360:]) < 1e-3 * sharpness(noise[410:, 360:])
    np.testing.assert_array_equal(blur_boxes(noise, np.zeros((0, 4))), noise)
    np.testing.assert_array_equal(blur_boxes(noise, [[-1e9, 0, -1e8, 10]]), noise)
    with pytest.raises(InputError, match=r"box must have shape \(N, 4\)"):
        blur_boxes(noise, [[1.0, 2, 3]])


def test_the_note_says_who_stays_visible() -> None:
    assert "the faces of 48 people; whoever was not found is still visible" in anonymized_note("face", 48)
    assert "the boxes of 2 people" in anonymized_note("body", 2)
    assert "the face of 1 person;" in anonymized_note("face", 1)
