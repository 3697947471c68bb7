"""Backbones by name, for the students that take any: (B, 3, H, W) -> (B, C, H / 4, W / 4)."""

from __future__ import annotations

from collections.abc import Callable

from distilpose.errors import ConfigError
from distilpose.models.backbones.hrnet import HRNet
from distilpose.models.backbones.pyramid import PyramidNet
from distilpose.models.backbones.resnet import ResNetPyramid
from distilpose.models.backbones.stem import StemNet

Backbone = StemNet | PyramidNet | ResNetPyramid

BACKBONES: dict[str, Callable[[], Backbone]] = {
    "stem": StemNet,
    "pyramid": lambda: PyramidNet(widths=(48, 96, 192, 256), blocks=(1, 2, 2, 2), out_channels=64),
    "hrnet_w32": lambda: HRNet(width=32, stages=3),
    "hrnet_w48": lambda: HRNet(width=48, stages=3),
    "resnet18": lambda: ResNetPyramid(18, out_channels=64),
    "resnet50": lambda: ResNetPyramid(50, out_channels=64),
}


def build_backbone(name: str) -> Backbone:
    """A backbone with fresh weights.

    Raises:
        ConfigError: the name is not in `BACKBONES`.
    """
    if name not in BACKBONES:
        raise ConfigError(f"backbone must be one of {', '.join(BACKBONES)}, got {name!r}")
    return BACKBONES[name]()
