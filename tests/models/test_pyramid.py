"""The pyramid backbone: shapes, reach, and presets at their promised size."""

from __future__ import annotations

import pytest
import torch

from distilpose.bench.complexity import measure_complexity
from distilpose.models import create_model
from distilpose.models.pyramid import PyramidNet


@pytest.mark.parametrize("size_hw", [(64, 48), (128, 96), (100, 76)])
def test_map_at_stride_4_for_any_multiple_of_4(size_hw: tuple[int, int]) -> None:
    net = PyramidNet((8, 16, 24), (1, 1, 2), out_channels=12).eval()
    features = net(torch.randn(2, 3, *size_hw))
    assert features.shape == (2, 12, size_hw[0] // 4, size_hw[1] // 4)
    assert features.min() >= 0


def test_every_cell_sees_the_whole_crop_where_the_stem_net_does_not() -> None:
    def reach(name: str) -> float:
        """Share of the pixels that one corner cell depends on."""
        backbone = create_model(name, input_size_hw=(128, 96)).backbone.eval()
        images = torch.randn(1, 3, 128, 96, requires_grad=True)
        backbone(images)[0, :, 0, 0].sum().backward()
        assert images.grad is not None
        return (images.grad[0].abs().sum(0) > 0).float().mean().item()

    assert reach("distilpose_m") > 0.9
    assert reach("distilpose_s") < 0.2


def test_presets_cost_what_they_promise() -> None:
    student, teacher = (measure_complexity(create_model(name)) for name in ("distilpose_m", "tokenpose_m"))
    assert student.gmacs < 1.5
    assert student.parameters * 2 < 12e6  # fits the shipped file in float16
    assert student.gmacs < teacher.gmacs < 2.745
