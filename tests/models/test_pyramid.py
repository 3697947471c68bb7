"""The pyramid backbone: shapes, reach, and presets at their promised size."""

from __future__ import annotations

import pytest
import torch

from distilpose.benchmark.complexity import measure_complexity
from distilpose.models import create_model
from distilpose.models.backbones.pyramid import PyramidNet


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

    assert min(map(reach, ("distilpose_p", "distilpose_m", "distilpose_t"))) > 0.9
    assert reach("distilpose_s") < 0.2


def test_presets_cost_what_they_promise() -> None:
    names = ("distilpose_t", "distilpose_m", "distilpose_p", "tokenpose_m", "distilpose_s")
    tiny, medium, shipped, teacher, published = (measure_complexity(create_model(name)) for name in names)
    assert tiny.gmacs <= 0.7 / 2
    assert medium.gmacs <= 1.5 / 2
    assert tiny.gmacs < medium.gmacs < shipped.gmacs < teacher.gmacs < published.gmacs
    assert tiny.parameters < medium.parameters < shipped.parameters
    assert shipped.parameters * 2 < 12e6  # fits the shipped file in float16


def test_smoothing_at_a_coarser_stage_keeps_size_and_detail() -> None:
    torch.manual_seed(0)
    net = PyramidNet((8, 16, 24), (0, 1, 1), out_channels=12, smooth_stage=1).eval()
    features = net(torch.randn(1, 3, 64, 48))
    assert features.shape == (1, 12, 16, 12)
    # Neighbors that share a cell of stride 8 differ by what the finest stage adds, and by nothing else.
    with torch.no_grad():
        net.lateral[0].weight.zero_()
        coarse = net(torch.randn(1, 3, 64, 48))
    assert torch.equal(coarse[..., ::2, ::2], coarse[..., 1::2, 1::2])
    assert not torch.equal(features[..., ::2, ::2], features[..., 1::2, 1::2])
