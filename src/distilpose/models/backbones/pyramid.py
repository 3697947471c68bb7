"""A residual backbone with a top-down path, image (B, 3, H, W) -> feature map (B, C, H / 4, W / 4).

Source: residual stages of ResNet (arXiv:1512.03385), summed from coarse to fine as in Feature Pyramid Networks
(arXiv:1612.03144).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distilpose.models.backbones.base import Backbone
from distilpose.models.backbones.stem import conv_bn, init_convolutions


class ResidualBlock(nn.Module):
    """As `BasicBlock`, under other names: ResNet's two 3x3 convolutions, a 1x1 on a shortcut that changes."""

    def __init__(self, channels_in: int, channels: int, stride: int = 1) -> None:
        super().__init__()
        same = stride == 1 and channels_in == channels
        self.conv1 = conv_bn(channels_in, channels, 3, stride)
        self.conv2 = conv_bn(channels, channels, 3, relu=False)
        self.shortcut = nn.Identity() if same else conv_bn(channels_in, channels, 1, stride, relu=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, channels, H / stride, W / stride), rounded up."""
        return torch.relu_(self.conv2(self.conv1(x)) + self.shortcut(x))


class PyramidNet(Backbone):
    """Residual stages at strides 4, 8, 16, ..., then one map at stride 4 that has seen them all.

    Args:
        widths: channels of the stages, finest first.
        blocks: residual blocks of each stage; the first may have none.
        out_channels: of the map.
        smooth_stage: stage at whose stride the merged map is smoothed, 0 for the finest. A coarser one costs a quarter
            for each step; finer stages are then added without smoothing.
    """

    def __init__(self, widths: Sequence[int], blocks: Sequence[int], out_channels: int, smooth_stage: int = 0) -> None:
        super().__init__()
        first = widths[0]
        self.out_channels = out_channels
        self.smooth_stage = smooth_stage
        self.stem = nn.Sequential(conv_bn(3, first // 2, 3, stride=2), conv_bn(first // 2, first, 3, stride=2))
        self.stages = nn.ModuleList([_stage(first, first, blocks[0], stride=1)])
        for (channels_in, channels), count in zip(pairwise(widths), blocks[1:], strict=True):
            self.stages.append(_stage(channels_in, channels, count, stride=2))
        self.lateral = nn.ModuleList(nn.Conv2d(channels, out_channels, 1) for channels in widths)
        self.smooth = conv_bn(out_channels, out_channels, 3)
        init_convolutions(self)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, out_channels, H / 4, W / 4)."""
        x = self.stem(images)
        maps = []
        for stage, lateral in zip(self.stages, self.lateral, strict=True):
            x = stage(x)
            maps.append(lateral(x))
        out: Tensor = sum_top_down(maps[self.smooth_stage :])
        out = self.smooth(out)
        return sum_top_down([*maps[: self.smooth_stage], out])


def sum_top_down(maps: Sequence[Tensor]) -> Tensor:
    """Sum maps (B, C, h, w) of several sizes, finest first, into one of the finest size, from coarse to fine."""
    merged = maps[-1]
    for finer in reversed(maps[:-1]):
        merged = F.interpolate(merged, size=finer.shape[-2:], mode="nearest") + finer
    return merged


def _stage(channels_in: int, channels: int, blocks: int, stride: int) -> nn.Sequential:
    if blocks == 0:
        return nn.Sequential()
    first = ResidualBlock(channels_in, channels, stride)
    return nn.Sequential(first, *(ResidualBlock(channels, channels) for _ in range(blocks - 1)))
