"""Crops and pixels, against the formula."""

import cv2
import numpy as np
import pytest

from distilpose.data.preprocess import IMAGENET_MEAN, IMAGENET_STD, Normalization, crop_image, normalize, preprocess
from distilpose.errors import InputError
from distilpose.geometry import CropTransform


def test_normalization_is_the_formula() -> None:
    crops = np.random.default_rng(0).integers(0, 256, (2, 5, 4, 3), dtype=np.uint8)
    expected = (crops / 255.0 - np.array(IMAGENET_MEAN)) / np.array(IMAGENET_STD)
    result = normalize(crops, Normalization())
    assert result.dtype == np.float32
    assert np.allclose(result, expected.transpose(0, 3, 1, 2), atol=1e-6)
    assert np.allclose(normalize(crops[0], Normalization()), result[0])


def test_a_crop_of_the_image_s_own_size_is_the_image_and_outside_is_black() -> None:
    image = np.random.default_rng(1).integers(1, 256, (64, 48, 3), dtype=np.uint8)
    same = CropTransform((24, 32), (48, 64), (64, 48))
    assert np.array_equal(crop_image(image, same), image)
    shifted = crop_image(image, CropTransform((24 + 48, 32), (48, 64), (64, 48)))
    assert not shifted.any()


def test_several_crops_of_one_image() -> None:
    image = np.random.default_rng(2).integers(0, 256, (90, 70, 3), dtype=np.uint8)
    crops = [CropTransform.from_box(box, (64, 48)) for box in ([0, 0, 40, 60], [10, 20, 60, 80])]
    batch = preprocess(image, crops, Normalization())
    assert batch.shape == (2, 3, 64, 48)
    assert np.array_equal(batch[1], preprocess(image, crops[1:], Normalization())[0])


@pytest.mark.parametrize("long", [0, 1])
@pytest.mark.parametrize("angle", [0.0, 30.0])
def test_images_longer_than_opencv_reads_are_cut_first(long: int, angle: float) -> None:
    shape = [40, 40, 3]
    shape[long] = 33_000
    image = np.random.default_rng(3).integers(0, 256, shape, dtype=np.uint8)
    small = image[-100:] if long == 0 else image[:, -100:]
    center = [20.0, 20.0]
    center[1 - long] = 50.0
    inside = CropTransform((center[0], center[1]), (30, 40), (64, 48), rotation_deg=angle)
    center[1 - long] += 32_900
    crop = crop_image(image, CropTransform((center[0], center[1]), (30, 40), (64, 48), rotation_deg=angle))
    assert np.abs(crop.astype(int) - crop_image(small, inside)).max() <= 4  # cv2 rounds positions to 1/32 of a pixel
    ramp = np.repeat(np.linspace(0, 255, 33_000).astype(np.uint8)[:, None, None], 3, axis=2)
    ramp = np.repeat(ramp, 40, axis=1) if long == 0 else np.repeat(ramp.transpose(1, 0, 2), 40, axis=0)
    whole = crop_image(ramp, CropTransform.from_box([0, 0, shape[1], shape[0]], (64, 48), padding=1))
    along = whole[:, 24, 0] if long == 0 else whole[32, :, 0]
    assert np.abs(along - np.linspace(0, 255, len(along) + 1)[:-1]).max() < 3


def test_what_opencv_cannot_cut_is_an_input_error(monkeypatch) -> None:
    def fail(*args: object, **options: object) -> None:
        raise cv2.error("no memory")

    monkeypatch.setattr(cv2, "warpAffine", fail)
    with pytest.raises(InputError, match=r"cannot be cut out of an image of \(4, 4, 3\): no memory"):
        crop_image(np.zeros((4, 4, 3), np.uint8), CropTransform((2, 2), (4, 4), (8, 6)))
