"""What every backbone declares."""

from __future__ import annotations

from torch import nn

Rgb = tuple[float, float, float]


class Backbone(nn.Module):
    """Normalized crops (B, 3, H, W) -> feature map (B, C, H / stride, W / stride), rounded up.

    Attributes:
        out_channels: C of the map.
        stride: crop pixels per cell of the map.
        lowest_stride: the sides of a crop must be multiples of it.
        normalization: mean and standard deviation of RGB in 0..1 that the backbone's published weights were trained
            with; None for ImageNet's usual ones.
        own_parts: beginnings of the names of parameters that the published weights lack.
    """

    out_channels: int
    stride: int = 4
    lowest_stride: int = 4
    normalization: tuple[Rgb, Rgb] | None = None
    own_parts: tuple[str, ...] = ()
