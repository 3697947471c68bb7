"""Inverted residuals of MobileNetV2 (arXiv:1801.04381), with batch norms or with those folded into the convolutions."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from typing import NamedTuple

from torch import Tensor, nn
from torch.nn import functional as F

_NORM_EPSILON = 1e-3  # TensorFlow's default, with which the published weights were trained


class Stage(NamedTuple):
    """One row of the tables in the papers: equal blocks, the first of which has the stride."""

    expansion: int
    channels: int
    blocks: int
    stride: int
    kernel: int = 3


class ConvBlock(nn.Module):
    """Convolution, batch norm and ReLU6.

    A convolution of stride 2 pads the right and lower side more, as TensorFlow does on even sizes. Odd sizes are padded
    so that every cell covers the same pixels as there. Without the batch norm the convolution has a bias.
    """

    def __init__(
        self, channels_in: int, channels: int, kernel: int, stride: int = 1, *, groups: int = 1, norm: bool,
        relu: bool = True,
    ) -> None:  # fmt: skip
        super().__init__()
        padding = kernel // 2 if stride == 1 else 0
        self.conv = nn.Conv2d(channels_in, channels, kernel, stride, padding, groups=groups, bias=not norm)
        self.norm = nn.BatchNorm2d(channels, eps=_NORM_EPSILON) if norm else nn.Identity()
        self.relu = relu

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, channels, H / stride, W / stride), rounded up."""
        if self.conv.stride[0] == 2:
            kernel = self.conv.kernel_size[0]
            left, right = (kernel - 2) // 2, (kernel - 1) // 2
            height, width = map(int, x.shape[-2:])  # numbers also in a traced graph: Core ML's converter needs them
            x = F.pad(x, (left, right + width % 2, left, right + height % 2))
        out: Tensor = self.norm(self.conv(x))
        return F.relu6(out) if self.relu else out


class InvertedResidual(nn.Module):
    """1x1 expansion, depthwise convolution, 1x1 projection; a shortcut where size and channels stay."""

    def __init__(self, channels_in: int, channels: int, expansion: int, stride: int, kernel: int, norm: bool) -> None:
        super().__init__()
        hidden = channels_in * expansion
        self.out_channels, self.stride = channels, stride
        self.expand = ConvBlock(channels_in, hidden, 1, norm=norm) if expansion > 1 else nn.Identity()
        self.depthwise = ConvBlock(hidden, hidden, kernel, stride, groups=hidden, norm=norm)
        self.project = ConvBlock(hidden, channels, 1, norm=norm, relu=False) if norm else nn.Conv2d(hidden, channels, 1)
        self.shortcut = stride == 1 and channels_in == channels

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, channels, H / stride, W / stride), rounded up."""
        out: Tensor = self.project(self.depthwise(self.expand(x)))
        return x + out if self.shortcut else out


def inverted_residuals(
    stages: Sequence[Stage], channels: int, width: float, depth: float, norm: bool
) -> list[InvertedResidual]:
    """Blocks of a whole network on a map of ``channels``.

    ``width`` is a factor on the channels of every stage, ``depth`` one on the blocks of all but the first and the last.
    """
    built = []
    for row, stage in enumerate(stages):
        count = stage.blocks if row in (0, len(stages) - 1) else ceil(stage.blocks * depth)
        for index in range(count):
            out, stride = scale_channels(stage.channels, width), stage.stride if index == 0 else 1
            built.append(InvertedResidual(channels, out, stage.expansion, stride, stage.kernel, norm))
            channels = out
    return built


def scale_channels(channels: int, width: float) -> int:
    """The multiple of 8 nearest to ``channels * width``, not more than a tenth below it."""
    wanted = channels * width
    rounded = max(8, int(wanted + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * wanted else rounded
