"""Heads: feature maps or keypoint tokens -> coordinates or heatmaps."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distilpose.errors import ConfigError
from distilpose.models.token_encoder import init_linear
from distilpose.types import Size

NumSigmas = Literal[0, 1, 2]

_DECONVOLUTION_CHANNELS = 256
_INITIAL_STD = 0.001


class CoordinateHead(nn.Module):
    """What both regression heads share: how many values a keypoint has, and what they mean.

    Args:
        num_sigmas: 0 (none), 1 (the same along x and y) or 2.
        with_score: whether a confidence is predicted.

    Raises:
        ConfigError: ``num_sigmas`` is something else.
    """

    def __init__(self, num_sigmas: NumSigmas, with_score: bool) -> None:
        super().__init__()
        if num_sigmas not in (0, 1, 2):
            raise ConfigError(f"num_sigmas must be 0, 1 or 2, got {num_sigmas}")
        self.num_sigmas: NumSigmas = num_sigmas
        self.with_score = with_score
        self.num_values = 2 + with_score + num_sigmas

    def split(self, values: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Give raw values their meaning; what is not built is None.

        Args:
            values: (B, K, ``num_values``), unbounded, in the order x, y, score, sigma.

        Returns:
            xy_norm (B, K, 2), sigma (B, K, 2) in heatmap cells or None, raw score (B, K) or None.
        """
        xy_norm = torch.sigmoid(values[..., :2])
        score = values[..., 2] if self.with_score else None
        if self.num_sigmas == 0:
            return xy_norm, None, score
        sigma = F.softplus(values[..., 2 + self.with_score :])
        return xy_norm, sigma.expand(-1, -1, 2), score


class RegressionHead(CoordinateHead):
    """Turn each keypoint token into x, y, score and sigma by one linear layer."""

    def __init__(self, dim: int, num_sigmas: NumSigmas = 2, with_score: bool = True) -> None:
        super().__init__(num_sigmas, with_score)
        self.norm = nn.LayerNorm(dim)
        self.linear = nn.Linear(dim, self.num_values)
        self.apply(init_linear)

    def forward(self, keypoint_tokens: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """(B, K, D) -> xy_norm, sigma and score, see `split`."""
        return self.split(self.linear(self.norm(keypoint_tokens)))


class PooledRegressionHead(CoordinateHead):
    """Average a feature map and turn the mean into x, y, score and sigma of every keypoint."""

    def __init__(
        self, in_channels: int, num_keypoints: int, num_sigmas: NumSigmas = 2, with_score: bool = True
    ) -> None:
        super().__init__(num_sigmas, with_score)
        self.num_keypoints = num_keypoints
        self.linear = nn.Linear(in_channels, num_keypoints * self.num_values)
        init_linear(self.linear)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """(B, C, H, W) -> xy_norm, sigma and score, see `split`."""
        values = self.linear(features.mean((2, 3)))
        return self.split(values.unflatten(1, (self.num_keypoints, -1)))


class TokenHeatmapHead(nn.Module):
    """Turn each keypoint token into a heatmap by two linear layers, each behind a norm."""

    def __init__(self, dim: int, hidden: int, heatmap_size_hw: Size) -> None:
        super().__init__()
        self.heatmap_size_hw = heatmap_size_hw
        self.norm = nn.LayerNorm(dim)
        self.up = nn.Linear(dim, hidden)
        self.hidden_norm = nn.LayerNorm(hidden)
        self.out = nn.Linear(hidden, heatmap_size_hw[0] * heatmap_size_hw[1])
        self.apply(init_linear)

    def forward(self, keypoint_tokens: Tensor) -> Tensor:
        """(B, K, D) -> heatmaps (B, K, H, W)."""
        heatmaps: Tensor = self.out(self.hidden_norm(self.up(self.norm(keypoint_tokens))))
        return heatmaps.view(*heatmaps.shape[:-1], *self.heatmap_size_hw)


class PointwiseHead(nn.Conv2d):
    """One 1x1 convolution: one heatmap per keypoint, of the feature map's size.

    Source:
        Deep High-Resolution Representation Learning (arXiv:1908.07919).
    """

    upsampling: int = 1

    def __init__(self, in_channels: int, num_keypoints: int) -> None:
        super().__init__(in_channels, num_keypoints, kernel_size=1)
        nn.init.normal_(self.weight, std=_INITIAL_STD)
        assert self.bias is not None
        nn.init.zeros_(self.bias)


class DeconvolutionHead(nn.Module):
    """``count`` deconvolutions of 256 channels, each with batch norm and ReLU, then one heatmap per keypoint.

    Each deconvolution doubles the map.

    Source:
        Simple Baselines for Human Pose Estimation and Tracking (arXiv:1804.06208).
    """

    def __init__(self, in_channels: int, num_keypoints: int, count: int = 3) -> None:
        super().__init__()
        self.upsampling: int = 2**count
        layers: list[nn.Module] = []
        out = _DECONVOLUTION_CHANNELS
        for channels in (in_channels, *[out] * (count - 1)):
            deconvolution = nn.ConvTranspose2d(channels, out, kernel_size=4, stride=2, padding=1, bias=False)
            nn.init.normal_(deconvolution.weight, std=_INITIAL_STD)
            layers += [deconvolution, nn.BatchNorm2d(out), nn.ReLU(inplace=True)]
        self.deconvolutions = nn.Sequential(*layers)
        self.read = PointwiseHead(out, num_keypoints)

    def forward(self, features: Tensor) -> Tensor:
        """(B, C, H, W) -> heatmaps (B, K, upsampling * H, upsampling * W)."""
        heatmaps: Tensor = self.read(self.deconvolutions(features))
        return heatmaps
