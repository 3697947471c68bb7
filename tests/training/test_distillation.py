"""What a student hears from its teacher."""

from __future__ import annotations

import torch

from distilpose.data.dataset import Batch
from distilpose.losses import DistillationOptions, render_gaussian_heatmaps
from distilpose.models import create_model
from distilpose.models.base import HeatmapModel
from distilpose.teachers.ensemble import FlipAverage, unmirror_heatmaps
from distilpose.training.distillation import make_task, teacher_of_model

CROP_HW, MAP_HW = (128, 96), (32, 24)
SWAP = torch.tensor([1, 0])


def draw(xy_norm: torch.Tensor) -> torch.Tensor:
    return render_gaussian_heatmaps(xy_norm, torch.full_like(xy_norm, 2.0), MAP_HW, 0.0)


def centers(heatmaps: torch.Tensor) -> torch.Tensor:
    """(B, K) center of mass along x, in cells."""
    columns = heatmaps.sum(-2)
    return (columns * torch.arange(columns.shape[-1])).sum(-1) / columns.sum(-1)


def test_mirrored_heatmaps_return_to_where_they_belong() -> None:
    xy_norm = torch.tensor([[[0.4, 0.5], [0.6, 0.3]]])
    mirrored = xy_norm[:, SWAP].clone()
    mirrored[..., 0] = 1 - 1 / CROP_HW[1] - mirrored[..., 0]  # pixel p of W lands on W - 1 - p
    back = unmirror_heatmaps(draw(mirrored), SWAP, CROP_HW[1])
    torch.testing.assert_close(centers(back), xy_norm[..., 0] * MAP_HW[1], atol=1e-3, rtol=0)
    assert (back - draw(xy_norm)).abs().max() < 0.05  # interpolation widens them a little


def test_flip_averaged_teacher_of_a_symmetric_crop_is_symmetric() -> None:
    torch.manual_seed(0)
    small = {"input_size_hw": (64, 48), "dim": 16, "depth": 1, "num_heads": 2, "num_keypoints": 2}
    student, teacher = create_model("distilpose_m", **small), create_model("tokenpose_m", **small)
    half = torch.randn(1, 3, 64, 24)
    images = torch.cat([half, half.flip(-1)], dim=-1)
    nothing = torch.zeros(1, 2)
    batch = Batch(images, nothing[..., None].expand(-1, -1, 2), nothing, nothing > 0, torch.zeros(1), torch.zeros(1))

    def heard(teacher: HeatmapModel | FlipAverage) -> torch.Tensor:
        task = make_task(student, teacher, DistillationOptions(), 2.0)
        return task.view(student.eval()(images), batch).heatmaps["teacher"]

    plain = heard(teacher)
    averaged = heard(FlipAverage(teacher_of_model(teacher, student), SWAP.numpy()))
    torch.testing.assert_close(averaged, (plain + unmirror_heatmaps(plain, SWAP, 48)) / 2)
    assert not torch.allclose(averaged, plain)
