"""Heatmaps drawn from keypoint and sigma, and what is measured on them."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

SIGMA_FLOOR = 0.3  # cells: below it no cell center lies inside the curve and its gradient is gone

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


def simulated_heatmap_loss(simulated: Tensor, teacher_heatmaps: Tensor, weight: Tensor) -> Tensor:
    """Mean squared error of drawn against teacher heatmaps, averaged over all cells, masked zeros included.

    Args:
        simulated: (B, K, H, W) from `render_gaussian_heatmaps`.
        teacher_heatmaps: (B, K, H, W).
        weight: (B, K) of each keypoint.

    Source:
        DistilPose (arXiv:2303.02455); which keypoints count is the caller's choice, see `DistillationOptions.mask`.
    """
    per_keypoint = (simulated - teacher_heatmaps).square().mean((-2, -1))
    return (per_keypoint * weight).mean()


def read_heatmap(heatmaps: Tensor, xy_norm: Tensor, reading: ScoreReading = "bilinear") -> Tensor:
    """The heatmaps' values at given points.

    Args:
        heatmaps: (B, K, H, W).
        xy_norm: (B, K, 2) as fractions of the crop; a point lies at (u W, v H) cells, clamped to the map.
        reading: ``"bilinear"``, ``"nearest"``, or ``"reference"``: the released code's cell,
            round(u (W - 1)), which is not where the maps are drawn.

    Returns:
        (B, K) values.
    """
    height, width = heatmaps.shape[-2:]
    last = torch.tensor([width - 1, height - 1], dtype=xy_norm.dtype, device=xy_norm.device)
    if reading == "reference":
        return _gather(heatmaps, (xy_norm * last).round().long())
    cell = torch.minimum(xy_norm * (last + 1), last).clamp(min=0)
    if reading == "nearest":
        return _gather(heatmaps, cell.round().long())
    low = cell.floor()
    high = torch.minimum(low + 1, last)
    x_part, y_part = (cell - low).unbind(-1)
    (x0, y0), (x1, y1) = low.long().unbind(-1), high.long().unbind(-1)
    top = torch.lerp(_gather(heatmaps, torch.stack([x0, y0], -1)), _gather(heatmaps, torch.stack([x1, y0], -1)), x_part)
    bottom = torch.lerp(
        _gather(heatmaps, torch.stack([x0, y1], -1)), _gather(heatmaps, torch.stack([x1, y1], -1)), x_part
    )
    return torch.lerp(top, bottom, y_part)


def _gather(heatmaps: Tensor, cells_xy: Tensor) -> Tensor:
    index = cells_xy[..., 1] * heatmaps.shape[-1] + cells_xy[..., 0]
    return heatmaps.flatten(2).gather(2, index.unsqueeze(-1)).squeeze(-1)
