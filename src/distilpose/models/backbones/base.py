"""What every backbone declares."""

from __future__ import annotations

from torch import nn

Rgb = tuple[float, float, float]


class Backbone(nn.Module):
    """Normalized crops (B, 3, H, W) -> feature map (B, C, H / stride, W / stride), rounded up."""

    out_channels: int  # C of the map
    stride: int = 4  # crop pixels per cell of the map
    lowest_stride: int = 4  # the sides of a crop must be multiples of it
    # Mean and standard deviation of RGB in 0..1 that the published weights were trained with; ImageNet's when None.
    normalization: tuple[Rgb, Rgb] | None = None
    own_parts: tuple[str, ...] = ()  # beginnings of the names of parameters that the published weights lack
