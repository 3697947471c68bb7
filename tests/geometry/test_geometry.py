"""Boxes and crops: the released matrices, round trips, and hand-computed cases."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distilpose.errors import InputError
from distilpose.geometry import (
    CropTransform,
    check_boxes_xyxy,
    clip_boxes_xyxy,
    crops_from_boxes,
    xywh_to_xyxy,
    xyxy_to_xywh,
)

finite = st.floats(-500, 500, allow_nan=False)
transforms = st.builds(
    lambda x, y, width, rotation, flip: CropTransform((x, y), (width, width / 0.75), (256, 192), rotation, flip),
    finite,
    finite,
    st.floats(5, 2000),
    st.floats(-90, 90),
    st.booleans(),
)


def test_matrices_equal_released_code(reference_dir: Path) -> None:
    for case in json.loads((reference_dir / "affine.json").read_text()):
        box_wh = tuple(200 * side for side in case["scale"])
        width, height = case["size"]
        crop = CropTransform(tuple(case["center"]), box_wh, (height, width), case["rotation"])
        expected = np.array(case["msra"])
        assert np.abs(crop.matrix - expected).max() <= 1e-4 * np.abs(expected).max()


@given(transforms, st.lists(st.tuples(finite, finite), min_size=1, max_size=5))
def test_to_crop_and_back_is_the_identity(crop: CropTransform, points: list[tuple[float, float]]) -> None:
    there = crop.to_crop(points)
    assert np.allclose(crop.to_img(there), points, atol=1e-6)
    assert np.allclose(crop.norm_to_img(crop.to_norm(points)), points, atol=1e-6)


@given(transforms)
def test_center_goes_to_the_middle_and_lengths_scale(crop: CropTransform) -> None:
    x, y = crop.center_xy
    assert np.allclose(crop.to_crop([x, y]), [96, 128], atol=1e-6)
    assert np.linalg.norm(crop.to_crop([x + 3, y + 4]) - [96, 128]) == pytest.approx(5 * crop.scale, rel=1e-6)


def test_flip_mirrors_about_the_middle() -> None:
    plain = CropTransform((50, 60), (75, 100), (256, 192))
    mirrored = CropTransform((50, 60), (75, 100), (256, 192), flip=True)
    points = np.array([[40.0, 20.0], [55.0, 80.0]])
    assert np.allclose(mirrored.to_crop(points), [192, 0] + plain.to_crop(points) * [-1, 1])


def test_box_grows_to_the_aspect_ratio_then_by_the_padding() -> None:
    tall = CropTransform.from_box([0, 0, 30, 100], (256, 192))
    assert tall.center_xy == (15, 50)
    assert tall.box_wh == pytest.approx((93.75, 125))
    wide = CropTransform.from_box([0, 0, 90, 60], (256, 192), padding=1.0)
    assert wide.box_wh == pytest.approx((90, 120))
    assert [c.box_wh for c in crops_from_boxes([[0, 0, 30, 100]], (256, 192))] == [tall.box_wh]


def test_matrix_moves_pixels_as_points() -> None:
    image = np.zeros((120, 120), np.float32)
    image[70, 40] = 1
    crop = CropTransform((50, 60), (60, 80), (256, 192), rotation_deg=20, flip=True)
    warped = cv2.warpAffine(image, crop.matrix, (192, 256), flags=cv2.INTER_LINEAR)
    rows, columns = np.indices(warped.shape)
    center = np.array([(columns * warped).sum(), (rows * warped).sum()]) / warped.sum()
    assert np.abs(center - crop.to_crop([40, 70])).max() < 0.1


def test_clipping_as_the_baselines_do() -> None:
    # x2 = min(W - 1, x + w - 1): a box inside shrinks by one, one across the edge ends on the last pixel.
    assert clip_boxes_xyxy([[10, 20, 30, 60]], (100, 80)).tolist() == [[10, 20, 29, 59]]
    assert clip_boxes_xyxy([[-5, -5, 200, 200]], (100, 80)).tolist() == [[0, 0, 79, 99]]


def test_box_forms() -> None:
    assert xywh_to_xyxy([1, 2, 3, 4]).tolist() == [[1, 2, 4, 6]]
    assert xyxy_to_xywh([[1, 2, 4, 6]]).tolist() == [[1, 2, 3, 4]]
    assert check_boxes_xyxy([]).shape == (0, 4)


@pytest.mark.parametrize(
    "boxes", [[[5, 5, 5, 9]], [[0, 0, np.nan, 1]], [1, 2, 3, 4], [[1, 2, 3]], "boxes", [[-1e308, 0, 1e308, 1]]]
)
@pytest.mark.filterwarnings("error")
def test_bad_boxes(boxes) -> None:
    with pytest.raises(InputError, match="boxes_xyxy must"):
        check_boxes_xyxy(boxes)


def test_error_names_the_row() -> None:
    with pytest.raises(InputError, match=r"row 1"):
        check_boxes_xyxy([[0, 0, 1, 1], [2, 2, 1, 1]])
