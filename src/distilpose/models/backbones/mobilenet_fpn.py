"""MobileNetV2 with a top-down path, crops (B, 3, H, W) -> feature map (B, C, H / 4, W / 4).

The network of MoveNet without its heads, or with the hidden layer of its keypoint head. Batch norms are folded into
the convolutions, so that the released weights load as they are.

Source: MobileNetV2 (arXiv:1801.04381); top-down path: MoveNet (Google, 2021), read off its released graph.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distilpose.models.backbones.base import Backbone
from distilpose.models.backbones.inverted_residual import ConvBlock, Stage, inverted_residuals, scale_channels
from distilpose.models.backbones.stem import init_convolutions

_STAGES = (  # table 2 of MobileNetV2
    Stage(1, 16, 1, 1), Stage(6, 24, 2, 2), Stage(6, 32, 3, 2), Stage(6, 64, 4, 2), Stage(6, 96, 3, 1),
    Stage(6, 160, 3, 2), Stage(6, 320, 1, 1),
)  # fmt: skip
_STEM_CHANNELS = 32
_LAST_CHANNELS = 1280
_TAPS = (2, 5, 9)  # blocks whose outputs, at strides 4, 8 and 16, join the top-down path
_TOP_DOWN = (24, 32, 64)  # channels of the path at these strides


class MobileNetFPN(Backbone):
    """Inverted residuals at strides 2 to 32, then one map at stride 4 that has seen them all.

    Args:
        width: factor on the channels of MobileNetV2; 1.0 is MoveNet Lightning's, 1.75 MoveNet Thunder's.
        head_channels: channels of a separable convolution behind the top-down path, 0 for none. MoveNet's keypoint
            head has 96: its heatmaps are a linear function of them, so that a linear patch embedding can read where a
            keypoint lies within a patch.
    """

    normalization = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))

    def __init__(self, width: float = 1.0, head_channels: int = 0) -> None:
        super().__init__()
        self.out_channels = head_channels or _TOP_DOWN[0]
        channels = scale_channels(_STEM_CHANNELS, width)
        self.stem = ConvBlock(3, channels, 3, stride=2, norm=False)
        blocks = inverted_residuals(_STAGES, channels, width, depth=1, norm=False)
        self.blocks = nn.ModuleList(blocks)
        self.last = ConvBlock(blocks[-1].out_channels, _LAST_CHANNELS, 1, norm=False)
        self.top = nn.Conv2d(_LAST_CHANNELS, _TOP_DOWN[-1], 1)
        self.laterals = nn.ModuleList(
            nn.Conv2d(blocks[tap].out_channels, out, 1) for tap, out in zip(_TAPS, _TOP_DOWN, strict=True)
        )
        finer = (_TOP_DOWN[0], *_TOP_DOWN[:-1])
        self.smooth = nn.ModuleList(_Separable(c, out) for c, out in zip(_TOP_DOWN, finer, strict=True))
        self.head = _Separable(_TOP_DOWN[0], head_channels) if head_channels else nn.Identity()
        init_convolutions(self, "fan_in")

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, out_channels, H / 4, W / 4)."""
        x: Tensor = self.stem(images)
        maps: list[Tensor] = []
        for index, block in enumerate(self.blocks):
            x = block(x)
            if index in _TAPS:
                maps.append(x)
        x = self.top(self.last(x))
        for finer, lateral, smooth in zip(maps[::-1], self.laterals[::-1], self.smooth[::-1], strict=True):
            x = F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)
            x = smooth(x[..., : finer.shape[-2], : finer.shape[-1]] + lateral(finer))
        x = self.head(x)
        return x

    def convolutions(self) -> list[tuple[str, nn.Conv2d]]:
        """All convolutions with their names, in the order in which they run.

        That is the order of the released graphs, but for the last two, the head's.
        """
        order = ["stem", "blocks", "last", "top"]
        order += [f"{part}.{step}" for step in reversed(range(len(_TAPS))) for part in ("laterals", "smooth")]
        order += ["head"]
        return [
            (f"{part}.{name}" if name else part, module)
            for part in order
            for name, module in self.get_submodule(part).named_modules()
            if isinstance(module, nn.Conv2d)
        ]


class _Separable(nn.Module):
    """Depthwise and pointwise convolution, ReLU."""

    def __init__(self, channels_in: int, channels: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(channels_in, channels_in, 3, padding=1, groups=channels_in, bias=False)
        self.pointwise = nn.Conv2d(channels_in, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, channels, H, W)."""
        return torch.relu(self.pointwise(self.depthwise(x)))
