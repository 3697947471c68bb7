"""Losses of predicted keypoints against labels: distances, and the likelihood of the label."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# Error, as a share of the crop's mean side, at which a pixel loss pulls as strongly as the published loss: 9 px of
# 256 x 192. It makes weights that suit the one suit the other.
PIXEL_BALANCE = 0.04
COUPLINGS = 6
HIDDEN = 64


def keypoint_loss(xy_norm: Tensor, target_xy_norm: Tensor, target_weight: Tensor) -> Tensor:
    """Smooth L1 distance in crop fractions, averaged over all coordinates, masked zeros included.

    ``xy_norm`` and ``target_xy_norm`` are (B, K, 2), ``target_weight`` (B, K) is 0 where there is no label.

    Source:
        DistilPose (arXiv:2303.02455). In crop fractions the loss never leaves its quadratic part, and an
        error in x weighs (H / W)^2 = 1.78 times one in y: kept as published.
    """
    weight = target_weight.unsqueeze(-1)
    return F.smooth_l1_loss(xy_norm * weight, target_xy_norm * weight)


def pixel_keypoint_loss(
    xy_norm: Tensor, target_xy_norm: Tensor, target_weight: Tensor, crop_size_hw: tuple[int, int]
) -> Tensor:
    """Smooth L1 distance in crop pixels, averaged over all coordinates, masked zeros included; as `keypoint_loss`.

    Quadratic below 1 pixel, linear above. The mean is divided by the crop's mean side, the root of H W, and multiplied
    by `PIXEL_BALANCE`: the same relative error costs the same at every crop size, and about as much as in
    `keypoint_loss` where it is twice `PIXEL_BALANCE`.

    Source:
        Ours; why: row 5 of ``docs/parity.md``.
    """
    height, width = crop_size_hw
    scale = target_weight.unsqueeze(-1) * xy_norm.new_tensor([width, height])
    return F.smooth_l1_loss(xy_norm * scale, target_xy_norm * scale) * PIXEL_BALANCE / math.sqrt(height * width)


class ResidualFlow(nn.Module):
    """A learned density over the plane, shared by all keypoints: the shape of errors measured in sigmas.

    Starts as the standard normal. Always computed in float32, also under autocast. ``couplings`` layers move the two
    coordinates in turn.

    Source:
        RealNVP (arXiv:1605.08803); number and width of the layers: RLE (arXiv:2107.11291). The start is ours.
    """

    def __init__(self, couplings: int = COUPLINGS, hidden: int = HIDDEN) -> None:
        super().__init__()
        self.couplings = nn.ModuleList([_Coupling(index % 2, hidden) for index in range(couplings)])

    def forward(self, residual: Tensor) -> Tensor:
        """(..., 2) residuals -> (...) logarithm of the density there."""
        with torch.autocast(residual.device.type, enabled=False):
            base, log_volume = self.normalize(residual.float())
            return log_volume - 0.5 * base.square().sum(-1) - math.log(2 * math.pi)

    def normalize(self, residual: Tensor) -> tuple[Tensor, Tensor]:
        """(..., 2) residuals -> (..., 2) their places under the standard normal, (...) log of the volume change."""
        log_volume = torch.zeros_like(residual[..., 0])
        for coupling in self.couplings:
            residual, log_scale = coupling(residual)
            log_volume = log_volume + log_scale
        return residual, log_volume


class _Coupling(nn.Module):
    """Scale and shift one coordinate by amounts that the other one sets."""

    def __init__(self, moved: int, hidden: int) -> None:
        super().__init__()
        self._moved = moved
        last = nn.Linear(hidden, 2)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.amounts = nn.Sequential(
            nn.Linear(1, hidden), nn.LeakyReLU(), nn.Linear(hidden, hidden), nn.LeakyReLU(), last
        )

    def forward(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """(..., 2) -> (..., 2) moved points and (...) log of the scale."""
        setting, moving = points[..., 1 - self._moved], points[..., self._moved]
        log_scale, shift = self.amounts(setting.unsqueeze(-1)).unbind(-1)
        log_scale = log_scale.tanh()  # no layer may stretch more than e-fold
        moving = moving * log_scale.exp() + shift
        pair = (moving, setting) if self._moved == 0 else (setting, moving)
        return torch.stack(pair, dim=-1), log_scale


def residual_likelihood_loss(
    xy_norm: Tensor, sigma_norm: Tensor, target_xy_norm: Tensor, target_weight: Tensor, flow: ResidualFlow
) -> Tensor:
    """Negative log-likelihood of the labels, averaged over all coordinates, masked zeros included.

    A keypoint's likelihood is the product of two densities of its label, both centered at the prediction and scaled by
    its sigma: a Laplace density in each coordinate, which teaches from the first step, and the flow's, which learns
    what the Laplace shape misses. Sigma then measures the mean absolute error along its axis.

    Args:
        xy_norm: (B, K, 2) predicted.
        sigma_norm: (B, K, 2) predicted spread as a fraction of the crop's width and height, > 0.
        target_xy_norm: (B, K, 2) labeled.
        target_weight: (B, K), 0 where there is no label.
        flow: of the residuals (prediction - label) / sigma.

    Source:
        Residual log-likelihood estimation, Li et al., ICCV 2021 (arXiv:2107.11291). Its widespread implementations add
        the flow's density of the point to x and again to y, which rewards an ever larger sigma; they bound it by
        a sigmoid. Here it counts once, so that sigma is bounded by the likelihood itself.
    """
    residual = (xy_norm - target_xy_norm) / sigma_norm
    laplace = (residual.abs() + (2 * sigma_norm).log()).sum(-1)
    learned = sigma_norm.log().sum(-1) - flow(residual)
    per_coordinate: Tensor = (laplace + learned) / xy_norm.shape[-1]
    return (per_coordinate * target_weight).mean()
