"""Drawn heatmaps: a cell-by-cell oracle, gradients, and reading them."""

import math

import pytest
import torch

from distilpose.losses import heatmap_mse, read_heatmap, render_gaussian_heatmaps, simulate_heatmaps


def test_rendering_equals_the_formula_cell_by_cell() -> None:
    u, v, sx, sy = 0.3, 0.8, 1.5, 0.7
    heatmap = render_gaussian_heatmaps(torch.tensor([[[u, v]]]), torch.tensor([[[sx, sy]]]), (5, 7), sigma_floor=0.4)
    for y in range(5):
        for x in range(7):
            exponent = (x - u * 7) ** 2 / (sx**2 + 0.16) + (y - v * 5) ** 2 / (sy**2 + 0.16)
            assert heatmap[0, 0, y, x].item() == pytest.approx(math.exp(-exponent / 2), rel=1e-5)


@pytest.mark.parametrize("cells", [8, 16, 32])
def test_the_simulated_heatmap_covers_the_same_part_of_the_crop_at_any_stride(cells: int) -> None:
    size_hw = (cells, cells * 3 // 4)
    xy = torch.tensor([[[0.4, 0.6], [0.7, 0.3]]])
    sigma = torch.tensor([[[1.5, 2.0], [3.0, 1.0]]])  # cells of 4 crop pixels
    row, column = (torch.arange(n) / n for n in size_hw)
    x_px, y_px = (column[None, None, None] - xy[..., :1, None]) * 48, (row[:, None] - xy[..., 1:, None]) * 64
    expected = torch.exp(-((x_px / (4 * sigma[..., :1, None])) ** 2 + (y_px / (4 * sigma[..., 1:, None])) ** 2) / 2)
    torch.testing.assert_close(simulate_heatmaps(xy, sigma, size_hw, (64, 48), sigma_floor=0.0), expected)


def test_rendering_and_loss_pass_gradcheck() -> None:
    generator = torch.Generator().manual_seed(1)
    xy = torch.rand(2, 3, 2, generator=generator, dtype=torch.double, requires_grad=True)
    sigma = (torch.rand(2, 3, 2, generator=generator, dtype=torch.double) + 0.2).requires_grad_()
    teacher = torch.rand(2, 3, 6, 5, generator=generator, dtype=torch.double)
    weight = torch.tensor([[1.0, 0.0, 1.0], [1.0, 1.0, 0.5]], dtype=torch.double)

    def loss(xy: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        return heatmap_mse(render_gaussian_heatmaps(xy, sigma, (6, 5)), teacher, weight)

    assert torch.autograd.gradcheck(loss, (xy, sigma))


def test_sigma_cannot_collapse() -> None:
    sigma = torch.full((1, 1, 2), 1e-6, requires_grad=True)
    heatmap = render_gaussian_heatmaps(torch.tensor([[[0.55, 0.55]]]), sigma, (8, 8))
    assert heatmap.max() > 0.1
    assert heatmap.isfinite().all()
    heatmap.sum().backward()
    assert sigma.grad.isfinite().all()


def test_reading_finds_the_peak_where_it_was_drawn() -> None:
    xy = torch.tensor([[[0.25, 0.5], [0.75, 0.125]]])
    heatmaps = render_gaussian_heatmaps(xy, torch.ones(1, 2, 2), (16, 8), sigma_floor=0.0)
    assert torch.allclose(read_heatmap(heatmaps, xy), torch.ones(1, 2))
    assert torch.allclose(read_heatmap(heatmaps, xy, "nearest"), torch.ones(1, 2))
    # The released code rounds u (W - 1): another cell than the one that the map is drawn around.
    assert (read_heatmap(heatmaps, xy, "reference") < 0.99).any()


def test_reading_between_cells_and_outside() -> None:
    heatmaps = torch.arange(12, dtype=torch.float32).view(1, 1, 3, 4)
    half_way = read_heatmap(heatmaps, torch.tensor([[[1.5 / 4, 0.5 / 3]]]))
    assert half_way.item() == pytest.approx((1 + 2 + 5 + 6) / 4)
    assert read_heatmap(heatmaps, torch.tensor([[[1.0, 1.0]]])).item() == pytest.approx(11)
    assert read_heatmap(heatmaps, torch.tensor([[[-3.0, -3.0]]])).item() == pytest.approx(0)
