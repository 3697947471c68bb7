"""ResNet-18 and -50 as backbones, with names and shapes of torchvision's weights, its classifier ``fc.*`` apart.

Source: Deep Residual Learning for Image Recognition (arXiv:1512.03385); in bottlenecks the 3x3 convolution has the
stride, as in those weights.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distilpose.models.backbones.base import Backbone
from distilpose.models.backbones.pyramid import sum_top_down
from distilpose.models.backbones.stem import BasicBlock, Bottleneck, conv_bn, init_convolutions

Depth = Literal[18, 50]
_WIDTHS = (64, 128, 256, 512)  # channels of the four stages, before the blocks' expansion
_LAYOUTS: dict[Depth, tuple[type[BasicBlock] | type[Bottleneck], tuple[int, ...]]] = {
    18: (BasicBlock, (2, 2, 2, 2)),
    50: (Bottleneck, (3, 4, 6, 3)),
}


class ResNet(Backbone):
    """The convolutions of a ResNet: the map of its last stage."""

    stride: int = 32

    def __init__(self, depth: Depth) -> None:
        super().__init__()
        block, counts = _LAYOUTS[depth]
        self.conv1 = nn.Conv2d(3, _WIDTHS[0], 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(_WIDTHS[0])
        channels = _WIDTHS[0]
        for index, (width, count) in enumerate(zip(_WIDTHS, counts, strict=True), 1):
            first = block(channels, width, stride=1 if index == 1 else 2)
            channels = width * block.expansion
            setattr(self, f"layer{index}", nn.Sequential(first, *(block(channels, width) for _ in range(count - 1))))
        self.stage_channels = tuple(width * block.expansion for width in _WIDTHS)
        self.out_channels = channels
        init_convolutions(self)

    def stages(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) -> the maps of the four stages at strides 4, 8, 16, 32; odd sizes round up."""
        x = torch.relu_(self.bn1(self.conv1(images)))
        x = F.max_pool2d(x, 3, stride=2, padding=1)
        maps = []
        for index in range(1, len(_WIDTHS) + 1):
            x = getattr(self, f"layer{index}")(x)
            maps.append(x)
        return maps

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, C, H / 32, W / 32)."""
        return self.stages(images)[-1]


class ResNetPyramid(ResNet):
    """A ResNet with a top-down path: one map of ``out_channels`` at stride 4 that has seen all stages.

    Source:
        Feature Pyramid Networks (arXiv:1612.03144), the finest level alone.
    """

    stride: int = 4
    own_parts = ("lateral.", "smooth.")

    def __init__(self, depth: Depth, out_channels: int) -> None:
        super().__init__(depth)
        self.out_channels = out_channels
        self.lateral = nn.ModuleList(nn.Conv2d(channels, out_channels, 1) for channels in self.stage_channels)
        self.smooth = conv_bn(out_channels, out_channels, 3)
        init_convolutions(self.lateral)
        init_convolutions(self.smooth)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, out_channels, H / 4, W / 4)."""
        maps = [lateral(x) for lateral, x in zip(self.lateral, self.stages(images), strict=True)]
        out: Tensor = self.smooth(sum_top_down(maps))
        return out
