"""ResNet's blocks, and the stem net of TokenPose (arXiv:2104.03516).

Parameter names follow the public HRNet checkpoints.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from distilpose.models.backbones.base import Backbone

BOTTLENECK_EXPANSION = 4


def conv_bn(channels_in: int, channels_out: int, kernel: int, stride: int = 1, relu: bool = True) -> nn.Sequential:
    """Convolution without bias, batch-norm and, unless told otherwise, ReLU."""
    conv = nn.Conv2d(channels_in, channels_out, kernel, stride, padding=kernel // 2, bias=False)
    layers: list[nn.Module] = [conv, nn.BatchNorm2d(channels_out)]
    return nn.Sequential(*layers, nn.ReLU(inplace=True)) if relu else nn.Sequential(*layers)


class Bottleneck(nn.Module):
    """ResNet's 1x1, 3x3, 1x1 block; the output has four times ``channels``, the 3x3 convolution has the stride."""

    expansion: int = BOTTLENECK_EXPANSION

    def __init__(self, channels_in: int, channels: int, stride: int = 1) -> None:
        super().__init__()
        channels_out = channels * BOTTLENECK_EXPANSION
        self.conv1 = nn.Conv2d(channels_in, channels, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv3 = nn.Conv2d(channels, channels_out, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(channels_out)
        self.downsample = _shortcut(channels_in, channels_out, stride)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, 4 * channels, H / stride, W / stride), rounded up."""
        shortcut = x if self.downsample is None else self.downsample(x)
        x = torch.relu_(self.bn1(self.conv1(x)))
        x = torch.relu_(self.bn2(self.conv2(x)))
        return torch.relu_(self.bn3(self.conv3(x)) + shortcut)


class BasicBlock(nn.Module):
    """ResNet's two 3x3 convolutions; the first has the stride."""

    expansion: int = 1

    def __init__(self, channels_in: int, channels: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.downsample = _shortcut(channels_in, channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, channels, H / stride, W / stride), rounded up."""
        shortcut = x if self.downsample is None else self.downsample(x)
        x = torch.relu_(self.bn1(self.conv1(x)))
        return torch.relu_(self.bn2(self.conv2(x)) + shortcut)


def _shortcut(channels_in: int, channels_out: int, stride: int) -> nn.Sequential | None:
    """A 1x1 convolution where a block changes size or channels."""
    if stride == 1 and channels_in == channels_out:
        return None
    return conv_bn(channels_in, channels_out, 1, stride, relu=False)


class StemNet(Backbone):
    """Two stride-2 convolutions and the four bottlenecks of ResNet's first stage."""

    out_channels: int = 256

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 3, stride=2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.conv2 = nn.Conv2d(64, 64, 3, stride=2, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(64)
        self.layer1 = nn.Sequential(Bottleneck(64, 64), *(Bottleneck(256, 64) for _ in range(3)))
        init_convolutions(self)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, 256, H / 4, W / 4)."""
        x = torch.relu_(self.bn1(self.conv1(images)))
        x = torch.relu_(self.bn2(self.conv2(x)))
        out: Tensor = self.layer1(x)
        return out


def init_convolutions(module: nn.Module, mode: Literal["fan_in", "fan_out"] = "fan_out") -> None:
    """He initialization, in place, for every convolution inside; depthwise ones need the fan-in."""
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight, mode=mode, nonlinearity="relu")
