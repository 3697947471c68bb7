"""Crops brought to a teacher and its heatmaps brought back lie where they should."""

import cv2
import numpy as np
import pytest
import torch
from teacher_parts import Source, batch_of
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from distilpose.data.preprocess import Normalization, normalize
from distilpose.losses import render_gaussian_heatmaps
from distilpose.skeletons import COCO_17, Skeleton
from distilpose.teachers.adapter import Placement, Sampling, SourceTeacher, _weights, resample, resize
from distilpose.teachers.base import CropSpec, SourceSpec

POINTS = torch.tensor([[[0.3, 0.4], [0.62, 0.71], [0.5, 0.5]]])
THREE = Skeleton("three", ("a", "b", "c"), (), (), (), (), (1.0, 1.0, 1.0))
RAW = Normalization((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


def draw(size_hw: tuple[int, int], sigma: float) -> torch.Tensor:
    """A blob in each of three planes, one per point."""
    return render_gaussian_heatmaps(POINTS, torch.full_like(POINTS, sigma), size_hw, 0.0)


def centers(planes: torch.Tensor) -> torch.Tensor:
    """(B, K, 2) centers of mass as fractions."""
    height, width = planes.shape[-2:]
    mass = planes.sum((-2, -1))
    x = (planes.sum(-2) * torch.arange(width)).sum(-1) / mass / width
    y = (planes.sum(-1) * torch.arange(height)).sum(-1) / mass / height
    return torch.stack([x, y], dim=-1)


def test_nothing_changes_where_nothing_has_to() -> None:
    planes = torch.rand(2, 3, 8, 6)
    assert resample(planes, Sampling(8), Sampling(6)) is planes


def test_fine_patterns_are_averaged_when_thinned_out() -> None:
    stripes = torch.zeros(1, 1, 8, 64)
    stripes[..., ::2] = 1
    thin = resize(stripes, (8, 16))
    torch.testing.assert_close(thin[..., 1:-1], torch.full((1, 1, 8, 14), 0.5))


@pytest.mark.parametrize("size_hw", [(16, 12), (64, 48), (40, 30)])
def test_a_resized_heatmap_is_the_one_drawn_at_that_size(size_hw: tuple[int, int]) -> None:
    resized = resize(draw((32, 24), 3.0), size_hw)
    torch.testing.assert_close(centers(resized), POINTS, atol=0.004, rtol=0)
    drawn = draw(size_hw, 3.0 * size_hw[0] / 32)
    assert (resized - drawn).abs().max() < 0.06


@pytest.mark.parametrize("udp", [False, True])
@pytest.mark.parametrize("input_hw", [(128, 96), (64, 48), (192, 144), (256, 256), (96, 128), (208, 48)])
def test_a_teacher_of_any_size_and_aspect_sees_the_point_where_it_is(input_hw: tuple[int, int], udp: bool) -> None:
    """The teacher's answer is its input, in cells of four pixels counted by its own rule."""

    def look(images: torch.Tensor) -> torch.Tensor:
        size = (input_hw[0] // 4, input_hw[1] // 4)
        return F.interpolate(images, size, mode="bilinear", align_corners=True) if udp else images[..., ::4, ::4]

    source = Source(look, SourceSpec(input_hw, THREE, RAW, udp=udp))
    teacher = SourceTeacher(source, CropSpec((128, 96), THREE, RAW))
    heatmaps = teacher(batch_of(draw((128, 96), 8.0), 3)).heatmaps
    torch.testing.assert_close(centers(heatmaps), POINTS, atol=0.006, rtol=0)
    assert source.fed.shape == (1, 3, *input_hw)
    assert 0.7 < heatmaps.max() < 1.01


def test_black_stands_beside_a_crop_of_another_aspect() -> None:
    placement = Placement.fit((128, 96), (128, 128))
    assert placement.padded
    square = placement.to_input(torch.ones(1, 1, 128, 96), (128, 128))
    assert square[..., :15].abs().max() == 0
    assert square[..., 113:].abs().max() == 0
    assert torch.equal(square[..., 16:112], torch.ones(1, 1, 128, 96))
    assert placement.to_crop(torch.rand(1, 1, 32, 32)).shape == (1, 1, 32, 24)


@pytest.mark.parametrize("crop_hw", [(256, 192), (128, 96), (64, 48), (251, 187)])
@pytest.mark.parametrize("input_hw", [(256, 192), (64, 48), (128, 96), (384, 288), (256, 191), (250, 187)])
def test_a_teacher_that_counts_from_center_to_center_sees_no_black_edge(
    crop_hw: tuple[int, int], input_hw: tuple[int, int]
) -> None:
    """Its last row and column lie on the crop's edge, one pixel beyond the last pixel."""
    placement = Placement.fit(crop_hw, input_hw, udp=True)
    assert not placement.padded
    white = placement.to_input(torch.ones(1, 3, *crop_hw), input_hw)
    torch.testing.assert_close(white, torch.ones(1, 3, *input_hw))


def test_pixels_come_in_the_teachers_colors_and_scale() -> None:
    crop = np.random.default_rng(0).integers(0, 256, (1, 64, 48, 3), dtype=np.uint8)
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.6, 0.7)
    source = Source(lambda images: images, SourceSpec((64, 48), THREE, Normalization(mean, std), bgr=True))
    teacher = SourceTeacher(source, CropSpec((64, 48), THREE))
    teacher(batch_of(torch.from_numpy(normalize(crop, Normalization())), 3))
    expected = normalize(np.ascontiguousarray(crop[..., ::-1]), Normalization(mean, std))
    torch.testing.assert_close(source.fed, torch.from_numpy(expected), atol=1e-5, rtol=1e-5)


def test_the_usual_teacher_is_shown_the_crops_themselves() -> None:
    source = Source(lambda images: images[:, :1].expand(-1, 17, -1, -1), SourceSpec((64, 48), COCO_17))
    images = torch.randn(2, 3, 64, 48)
    SourceTeacher(source, CropSpec((64, 48), COCO_17))(batch_of(images))
    assert source.fed is images


def test_smaller_input_is_the_antialiased_image() -> None:
    """OpenCV's area average, whose pixel centers lie differently, is close on a smooth image."""
    image = cv2.GaussianBlur(np.random.default_rng(1).random((128, 96)).astype(np.float32), (0, 0), 6)
    ours = resize(torch.from_numpy(image)[None], (64, 48))[0].numpy()
    shifted = cv2.warpAffine(image, np.array([[1, 0, 0.5], [0, 1, 0.5]]), (96, 128), borderMode=cv2.BORDER_REPLICATE)
    area = cv2.resize(shifted, (48, 64), interpolation=cv2.INTER_AREA)
    unshifted = cv2.resize(image, (48, 64), interpolation=cv2.INTER_AREA)
    inner = (slice(2, -2), slice(2, -2))
    error = np.abs(ours - area)[inner].max()
    assert error < 0.01 * np.ptp(image)
    assert error < 0.5 * np.abs(ours - unshifted)[inner].max()


class SeenTypes(TorchDispatchMode):
    """Keeps the types of the numbers that are made on a device, as one without float64 would see them."""

    def __init__(self, device: str) -> None:
        super().__init__()
        self.device, self.seen = device, set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        if isinstance(made, torch.Tensor) and made.device.type == self.device:
            self.seen.add(made.dtype)
        return made


def test_weights_are_made_without_float64_on_the_device() -> None:
    with SeenTypes("meta") as types:
        weights = _weights(8, Sampling(4, 2.0), torch.device("meta"))
    assert weights.shape == (4, 8)
    assert types.seen == {torch.float32}
