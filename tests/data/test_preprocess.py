"""Crops and pixels, against the formula."""

from __future__ import annotations

import numpy as np

from distilpose.data.preprocess import IMAGENET_MEAN, IMAGENET_STD, Normalization, crop_image, normalize, preprocess
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
