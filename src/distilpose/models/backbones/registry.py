"""Backbones by name: one file and one line here make a backbone that every model takes."""

from __future__ import annotations

from collections.abc import Callable

from distilpose.errors import ConfigError
from distilpose.models.backbones.base import Backbone
from distilpose.models.backbones.efficientnet_lite import EfficientNetLite
from distilpose.models.backbones.hrnet import HRNet
from distilpose.models.backbones.mobilenet_fpn import MobileNetFPN
from distilpose.models.backbones.pyramid import PyramidNet
from distilpose.models.backbones.resnet import ResNet, ResNetPyramid
from distilpose.models.backbones.stem import StemNet

BACKBONES: dict[str, Callable[[], Backbone]] = {
    "stem": StemNet,
    "pyramid": lambda: PyramidNet((48, 96, 192, 256), blocks=(1, 2, 2, 2), out_channels=64),
    "pyramid_m": lambda: PyramidNet((32, 80, 160, 256), blocks=(1, 1, 2, 1), out_channels=48, smooth_stage=1),
    "pyramid_t": lambda: PyramidNet((32, 64, 128, 192), blocks=(0, 1, 2, 1), out_channels=48, smooth_stage=1),
    "pyramid_wide": lambda: PyramidNet((64, 128, 256, 384), blocks=(2, 2, 2, 2), out_channels=96),
    "hrnet_w32": lambda: HRNet(width=32, stages=3),
    "hrnet_w48": lambda: HRNet(width=48, stages=3),
    "hrnet_w32_full": lambda: HRNet(width=32, stages=4),
    "hrnet_w48_full": lambda: HRNet(width=48, stages=4),
    "resnet18": lambda: ResNetPyramid(18, out_channels=64),
    "resnet50": lambda: ResNetPyramid(50, out_channels=64),
    "resnet18_c5": lambda: ResNet(18),  # the last stage's map alone, at stride 32
    "resnet50_c5": lambda: ResNet(50),
    "mobilenet_fpn": MobileNetFPN,
    "mobilenet_fpn_w175": lambda: MobileNetFPN(1.75),
    "movenet_lightning": lambda: MobileNetFPN(1.0, head_channels=96),
    "movenet_thunder": lambda: MobileNetFPN(1.75, head_channels=96),
    "efficientnet_lite0": lambda: EfficientNetLite(0, out_channels=64),
    "efficientnet_lite1": lambda: EfficientNetLite(1, out_channels=96),
    "efficientnet_lite2": lambda: EfficientNetLite(2, out_channels=96),
    "efficientnet_lite0_s8": lambda: EfficientNetLite(0, out_channels=64, stride=8),
}


def build_backbone(name: str) -> Backbone:
    """A backbone with fresh weights.

    Raises:
        ConfigError: the name is not in `BACKBONES`.
    """
    if name not in BACKBONES:
        raise ConfigError(f"backbone must be one of {', '.join(BACKBONES)}, got {name!r}")
    return BACKBONES[name]()
