"""Heatmaps drawn from keypoints and sigma: how wide they are, how they are compared, and how heatmaps are read."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from distilpose.models.outputs import CELL

SIGMA_FLOOR = 0.3  # cells: below it no cell center lies inside the curve and its gradient is gone
TARGET_SIGMA = 2.0  # cells, of the Gaussians that a heatmap model is trained on: TokenPose (arXiv:2104.03516)

ScoreReading = Literal["bilinear", "nearest", "reference"]


def render_gaussian_heatmaps(
    xy_norm: Tensor, sigma: Tensor, size_hw: tuple[int, int], sigma_floor: float = SIGMA_FLOOR
) -> Tensor:
    """Draw one axis-aligned Gaussian per keypoint, differentiable in both inputs.

    The curve has height 1 at its center (u W, v H); nothing is cut off. Sigma enters as
    sqrt(sigma^2 + floor^2), so that it cannot collapse and never loses its gradient.

    Args:
        xy_norm: (B, K, 2) center as a fraction of the crop, (x, y) in [0, 1].
        sigma: (B, K, 2) standard deviation along x and y in heatmap cells, > 0.
        size_hw: (H, W) of the heatmap in cells.
        sigma_floor: in cells; 0 draws sigma as it is.

    Returns:
        (B, K, H, W) heatmaps in [0, 1], dtype and device of ``xy_norm``.

    Source:
        "Simulated Heatmaps", DistilPose (arXiv:2303.02455); the floor is ours.
    """
    height, width = size_hw
    variance = sigma**2 + sigma_floor**2
    column = torch.arange(width, dtype=xy_norm.dtype, device=xy_norm.device) - xy_norm[..., :1] * width
    row = torch.arange(height, dtype=xy_norm.dtype, device=xy_norm.device) - xy_norm[..., 1:] * height
    along_x = torch.exp(-0.5 * column**2 / variance[..., :1])
    along_y = torch.exp(-0.5 * row**2 / variance[..., 1:])
    return along_y.unsqueeze(-1) * along_x.unsqueeze(-2)


def simulate_heatmaps(
    xy_norm: Tensor,
    sigma: Tensor,
    size_hw: tuple[int, int],
    crop_size_hw: tuple[int, int],
    sigma_floor: float = SIGMA_FLOOR,
) -> Tensor:
    """Draw a student's output as heatmaps of any size; the drawn width covers the same part of the crop at each.

    Args:
        xy_norm: (B, K, 2) keypoints as fractions of the crop.
        sigma: (B, K, 2) in cells of `CELL` crop pixels, as a student predicts it.
        size_hw: (H, W) of the heatmaps in cells.
        crop_size_hw: (H, W) of the crop in pixels.
        sigma_floor: smallest spread drawn, in cells of the drawn heatmap.

    Returns:
        (B, K, H, W) float32 heatmaps.
    """
    (height, width), (crop_height, crop_width) = size_hw, crop_size_hw
    to_cells = sigma.new_tensor([width * CELL / crop_width, height * CELL / crop_height], dtype=torch.float32)
    return render_gaussian_heatmaps(xy_norm.float(), sigma.float() * to_cells, size_hw, sigma_floor)


def target_heatmaps(xy_norm: Tensor, target_sigma: float, size_hw: tuple[int, int]) -> Tensor:
    """(B, K, 2) labels -> (B, K, H, W) Gaussians of ``target_sigma`` heatmap cells that a heatmap model learns."""
    return render_gaussian_heatmaps(xy_norm, torch.full_like(xy_norm, target_sigma), size_hw, sigma_floor=0.0)


def heatmap_mse(heatmaps: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Mean squared error of heatmaps (B, K, H, W), weighted by keypoint (B, K); the mean is over all cells, masked too.

    Source:
        DistilPose (arXiv:2303.02455); which keypoints count is the caller's choice, see `DistillationOptions.mask`.
    """
    per_keypoint = (heatmaps - target).square().mean((-2, -1))
    return (per_keypoint * weight).mean()


def read_heatmap(heatmaps: Tensor, xy_norm: Tensor, reading: ScoreReading = "bilinear") -> Tensor:
    """Read heatmaps (B, K, H, W) at given points (B, K, 2), fractions of the crop: (B, K) values.

    A point lies at (u W, v H) cells, clamped to the map. ``"reference"`` reads the released code's cell,
    round(u (W - 1)), which is not where the maps are drawn.
    """
    size = xy_norm.new_tensor([heatmaps.shape[-1], heatmaps.shape[-2]])
    if reading == "reference":
        column, row = (xy_norm * (size - 1)).round().long().unbind(-1)
        return heatmaps.flatten(2).gather(2, (row * heatmaps.shape[-1] + column).unsqueeze(-1)).squeeze(-1)
    grid = (2 * xy_norm + 1 / size - 1).to(heatmaps.dtype)  # cell c, whose center is (2c + 1) / W - 1 of the grid
    values = F.grid_sample(
        heatmaps.flatten(0, 1).unsqueeze(1), grid.view(-1, 1, 1, 2), reading, "border", align_corners=False
    )
    return values.view(xy_norm.shape[:-1])
