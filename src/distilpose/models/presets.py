"""Presets: functions that differ only in numbers. `MODELS` is the list of them."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Integral
from typing import Any, get_type_hints

from distilpose.errors import ConfigError
from distilpose.models.backbones.hrnet import HRNet
from distilpose.models.backbones.pyramid import PyramidNet
from distilpose.models.backbones.registry import Backbone, build_backbone
from distilpose.models.backbones.resnet import Depth, ResNet
from distilpose.models.backbones.stem import BACKBONE_STRIDE, StemNet
from distilpose.models.base import HeatmapModel, RegressionModel
from distilpose.models.deeppose import DeepPose, PooledRegressionHead
from distilpose.models.distilpose import DistilPose, NumSigmas, RegressionHead
from distilpose.models.simple_baseline import DeconvolutionHead, HeatmapNet, PointwiseHead
from distilpose.models.token_encoder import TokenEncoder
from distilpose.models.tokenpose import HeatmapHead, TokenPose
from distilpose.types import Size

PoseModel = RegressionModel | HeatmapModel

# Input, patch, width, depth, heads and MLP ratio: DistilPose (arXiv:2303.02455), section 4.1 and its supplement.
INPUT_SIZE_HW: Size = (256, 192)
PATCH_SIZE_HW: Size = (4, 3)


def distilpose_s(
    *,
    input_size_hw: Size = INPUT_SIZE_HW,
    patch_size_hw: Size = PATCH_SIZE_HW,
    num_keypoints: int = 17,
    dim: int = 192,
    depth: int = 12,
    num_heads: int = 8,
    mlp_ratio: float = 3,
    num_sigmas: NumSigmas = 2,
    with_score: bool = True,
    backbone: str = "stem",
) -> DistilPose:
    """The small student: stem net, or any of `BACKBONES`, and token encoder."""
    features = build_backbone(backbone)
    encoder = _encoder(features, input_size_hw, patch_size_hw, num_keypoints, dim, depth, num_heads, mlp_ratio)
    return DistilPose(*encoder, RegressionHead(dim, num_sigmas, with_score), input_size_hw)


def distilpose_l(
    *,
    input_size_hw: Size = INPUT_SIZE_HW,
    patch_size_hw: Size = PATCH_SIZE_HW,
    num_keypoints: int = 17,
    dim: int = 192,
    depth: int = 12,
    num_heads: int = 8,
    mlp_ratio: float = 3,
    num_sigmas: NumSigmas = 2,
    with_score: bool = True,
) -> DistilPose:
    """The large student: HRNet-W48 up to its third stage, and token encoder."""
    backbone = HRNet(width=48, stages=3)
    encoder = _encoder(backbone, input_size_hw, patch_size_hw, num_keypoints, dim, depth, num_heads, mlp_ratio)
    return DistilPose(*encoder, RegressionHead(dim, num_sigmas, with_score), input_size_hw)


def tokenpose_s(
    *,
    input_size_hw: Size = INPUT_SIZE_HW,
    patch_size_hw: Size = PATCH_SIZE_HW,
    num_keypoints: int = 17,
    dim: int = 192,
    depth: int = 12,
    num_heads: int = 8,
    mlp_ratio: float = 3,
    head_hidden: int = 384,
) -> TokenPose:
    """The small teacher: stem net, token encoder, heatmaps."""
    encoder = _encoder(StemNet(), input_size_hw, patch_size_hw, num_keypoints, dim, depth, num_heads, mlp_ratio)
    return TokenPose(*encoder, HeatmapHead(dim, head_hidden, _feature_size(input_size_hw)), input_size_hw)


def tokenpose_l(
    *,
    input_size_hw: Size = INPUT_SIZE_HW,
    patch_size_hw: Size = PATCH_SIZE_HW,
    num_keypoints: int = 17,
    dim: int = 192,
    depth: int = 12,
    num_heads: int = 8,
    mlp_ratio: float = 3,
    head_hidden: int = 384,
) -> TokenPose:
    """The large teacher: HRNet-W48, token encoder, heatmaps."""
    backbone = HRNet(width=48, stages=4)
    encoder = _encoder(backbone, input_size_hw, patch_size_hw, num_keypoints, dim, depth, num_heads, mlp_ratio)
    return TokenPose(*encoder, HeatmapHead(dim, head_hidden, _feature_size(input_size_hw)), input_size_hw)


def distilpose_p(
    *,
    input_size_hw: Size = INPUT_SIZE_HW,
    patch_size_hw: Size = PATCH_SIZE_HW,
    num_keypoints: int = 17,
    dim: int = 192,
    depth: int = 4,
    num_heads: int = 6,
    mlp_ratio: float = 3,
    num_sigmas: NumSigmas = 2,
    with_score: bool = True,
) -> DistilPose:
    """The student of the shipped weights: pyramid net and a short token encoder, at half the cost of S."""
    backbone = PyramidNet(widths=(48, 96, 192, 256), blocks=(1, 2, 2, 2), out_channels=64)
    encoder = _encoder(backbone, input_size_hw, patch_size_hw, num_keypoints, dim, depth, num_heads, mlp_ratio)
    return DistilPose(*encoder, RegressionHead(dim, num_sigmas, with_score), input_size_hw)


def distilpose_m(
    *,
    input_size_hw: Size = INPUT_SIZE_HW,
    patch_size_hw: Size = PATCH_SIZE_HW,
    num_keypoints: int = 17,
    dim: int = 192,
    depth: int = 4,
    visual_depth: int = 1,
    prune_after: int | None = None,
    keep_tokens: int | None = None,
    num_heads: int = 6,
    mlp_ratio: float = 3,
    num_sigmas: NumSigmas = 2,
    with_score: bool = True,
) -> DistilPose:
    """A student at a quarter of the cost of S: slim pyramid net, one whole block, three in which keypoints read."""
    backbone = PyramidNet(widths=(32, 80, 160, 256), blocks=(1, 1, 2, 1), out_channels=48, smooth_stage=1)
    encoder = _encoder(
        backbone, input_size_hw, patch_size_hw, num_keypoints, dim, depth, num_heads, mlp_ratio,
        visual_depth, prune_after, keep_tokens,
    )  # fmt: skip
    return DistilPose(*encoder, RegressionHead(dim, num_sigmas, with_score), input_size_hw)


def distilpose_t(
    *,
    input_size_hw: Size = INPUT_SIZE_HW,
    patch_size_hw: Size = PATCH_SIZE_HW,
    num_keypoints: int = 17,
    dim: int = 192,
    depth: int = 3,
    visual_depth: int = 0,
    prune_after: int | None = None,
    keep_tokens: int | None = None,
    num_heads: int = 6,
    mlp_ratio: float = 3,
    num_sigmas: NumSigmas = 2,
    with_score: bool = True,
) -> DistilPose:
    """The smallest student, at an eighth of the cost of S: the pyramid net alone looks around, keypoints read."""
    backbone = PyramidNet(widths=(32, 64, 128, 192), blocks=(0, 1, 2, 1), out_channels=48, smooth_stage=1)
    encoder = _encoder(
        backbone, input_size_hw, patch_size_hw, num_keypoints, dim, depth, num_heads, mlp_ratio,
        visual_depth, prune_after, keep_tokens,
    )  # fmt: skip
    return DistilPose(*encoder, RegressionHead(dim, num_sigmas, with_score), input_size_hw)


def tokenpose_m(
    *,
    input_size_hw: Size = INPUT_SIZE_HW,
    patch_size_hw: Size = PATCH_SIZE_HW,
    num_keypoints: int = 17,
    dim: int = 192,
    depth: int = 4,
    num_heads: int = 6,
    mlp_ratio: float = 3,
    head_hidden: int = 384,
) -> TokenPose:
    """The teacher of `distilpose_t`, `_m` and `_p`: a wider pyramid net, token encoder, heatmaps."""
    backbone = PyramidNet(widths=(64, 128, 256, 384), blocks=(2, 2, 2, 2), out_channels=96)
    encoder = _encoder(backbone, input_size_hw, patch_size_hw, num_keypoints, dim, depth, num_heads, mlp_ratio)
    return TokenPose(*encoder, HeatmapHead(dim, head_hidden, _feature_size(input_size_hw)), input_size_hw)


def deeppose_r18(
    *,
    input_size_hw: Size = INPUT_SIZE_HW,
    num_keypoints: int = 17,
    num_sigmas: NumSigmas = 2,
    with_score: bool = True,
) -> DeepPose:
    """A student without tokens: ResNet-18, mean, linear layer."""
    return _deeppose(18, input_size_hw, num_keypoints, num_sigmas, with_score)


def deeppose_r50(
    *,
    input_size_hw: Size = INPUT_SIZE_HW,
    num_keypoints: int = 17,
    num_sigmas: NumSigmas = 2,
    with_score: bool = True,
) -> DeepPose:
    """A student without tokens: ResNet-50, mean, linear layer."""
    return _deeppose(50, input_size_hw, num_keypoints, num_sigmas, with_score)


def simplebaseline_r18(*, input_size_hw: Size = INPUT_SIZE_HW, num_keypoints: int = 17) -> HeatmapNet:
    """A teacher without tokens: ResNet-18 and deconvolutions."""
    return _simple_baseline(18, input_size_hw, num_keypoints)


def simplebaseline_r50(*, input_size_hw: Size = INPUT_SIZE_HW, num_keypoints: int = 17) -> HeatmapNet:
    """A teacher without tokens: ResNet-50 and deconvolutions."""
    return _simple_baseline(50, input_size_hw, num_keypoints)


def hrnet_w32(*, input_size_hw: Size = INPUT_SIZE_HW, num_keypoints: int = 17) -> HeatmapNet:
    """A teacher without tokens: HRNet-W32 and a 1x1 convolution."""
    return _hrnet(32, input_size_hw, num_keypoints)


def hrnet_w48(*, input_size_hw: Size = INPUT_SIZE_HW, num_keypoints: int = 17) -> HeatmapNet:
    """A teacher without tokens: HRNet-W48 and a 1x1 convolution."""
    return _hrnet(48, input_size_hw, num_keypoints)


@dataclass(frozen=True)
class ModelCard:
    """What is published about a preset.

    Attributes:
        build: the preset.
        published_ap: COCO val2017 AP in percent, with flip test; None where the paper gives none.
        source: where the figures stand.
    """

    build: Callable[..., PoseModel]
    published_ap: float | None
    source: str


_PAPER = "arXiv:2303.02455"
MODELS: dict[str, ModelCard] = {
    "distilpose_t": ModelCard(distilpose_t, None, "ours: no published weights"),
    "distilpose_m": ModelCard(distilpose_m, None, "ours: no published weights"),
    "distilpose_p": ModelCard(distilpose_p, None, "ours: architecture of the shipped weights"),
    "distilpose_s": ModelCard(distilpose_s, 71.6, _PAPER),
    "distilpose_l": ModelCard(distilpose_l, 74.4, _PAPER),
    "tokenpose_s": ModelCard(tokenpose_s, 72.5, _PAPER + ", as teacher of distilpose_s"),
    "tokenpose_l": ModelCard(tokenpose_l, None, _PAPER),
    "tokenpose_m": ModelCard(tokenpose_m, None, "ours: no published weights"),
    "deeppose_r18": ModelCard(deeppose_r18, None, "arXiv:1312.4659, with a ResNet"),
    "deeppose_r50": ModelCard(deeppose_r50, None, "arXiv:1312.4659, with a ResNet"),
    "simplebaseline_r18": ModelCard(simplebaseline_r18, None, "arXiv:1804.06208, smaller than there"),
    "simplebaseline_r50": ModelCard(simplebaseline_r50, 70.4, "arXiv:1804.06208"),
    "hrnet_w32": ModelCard(hrnet_w32, 74.4, "arXiv:1908.07919"),
    "hrnet_w48": ModelCard(hrnet_w48, 75.1, "arXiv:1908.07919"),
}


def list_models() -> list[str]:
    """Names that `create_model` takes."""
    return sorted(MODELS)


def create_model(name: str, **options: Any) -> PoseModel:
    """Build a preset with fresh weights.

    Args:
        name: one of `list_models`.
        **options: keyword arguments of the preset, such as ``input_size_hw=(128, 96)`` or ``num_keypoints=14``.

    Raises:
        ConfigError: an unknown name or option, or sizes that do not fit together.

    Example:
        >>> model = create_model("distilpose_s", input_size_hw=(128, 96), patch_size_hw=(4, 3))
    """
    if name not in MODELS:
        raise ConfigError(f"model must be one of {', '.join(list_models())}, got {name!r}")
    build = MODELS[name].build
    known = inspect.signature(build).parameters
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise ConfigError(f"{name} has no option {', '.join(unknown)}; its options are {', '.join(known)}")
    given = {key: tuple(value) if isinstance(value, list) else value for key, value in options.items()}
    hints = get_type_hints(build)
    for key, value in given.items():
        _check_whole(f"{name}: {key}", value, hints[key])
    try:
        model = build(**given)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{name} cannot be built from {options}: {error}") from error
    model.preset = name
    model.preset_options = {key: value for key, value in given.items() if value != known[key].default}
    return model


def _check_whole(what: str, value: Any, hint: Any) -> None:
    """Whole numbers and sizes come from configurations; anything else would fail somewhere far from here."""
    if hint == Size:
        if not isinstance(value, tuple) or len(value) != 2 or not all(map(_is_whole, value)):
            raise ConfigError(f"{what} must be two whole numbers, (height, width), got {value!r}")
    elif hint in (int, int | None) and not _is_whole(value) and (hint is int or value is not None):
        raise ConfigError(f"{what} must be a whole number, got {value!r}")


def _is_whole(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def _deeppose(
    depth: Depth, input_size_hw: Size, num_keypoints: int, num_sigmas: NumSigmas, with_score: bool
) -> DeepPose:
    _check_input(input_size_hw, num_keypoints, BACKBONE_STRIDE)  # sigma's cells; coarser stages round up
    backbone = ResNet(depth)
    head = PooledRegressionHead(backbone.out_channels, num_keypoints, num_sigmas, with_score)
    return DeepPose(backbone, head, input_size_hw)


def _simple_baseline(depth: Depth, input_size_hw: Size, num_keypoints: int) -> HeatmapNet:
    backbone = ResNet(depth)
    _check_input(input_size_hw, num_keypoints, backbone.lowest_stride)
    head = DeconvolutionHead(backbone.out_channels, num_keypoints)
    return HeatmapNet(backbone, head, num_keypoints, input_size_hw)


def _hrnet(width: int, input_size_hw: Size, num_keypoints: int) -> HeatmapNet:
    backbone = HRNet(width=width, stages=4)
    _check_input(input_size_hw, num_keypoints, backbone.lowest_stride)
    return HeatmapNet(backbone, PointwiseHead(width, num_keypoints), num_keypoints, input_size_hw)


def _encoder(
    backbone: Backbone,
    input_size_hw: Size,
    patch_size_hw: Size,
    num_keypoints: int,
    dim: int,
    depth: int,
    num_heads: int,
    mlp_ratio: float,
    visual_depth: int | None = None,
    prune_after: int | None = None,
    keep_tokens: int | None = None,
) -> tuple[Backbone, TokenEncoder]:
    _check_input(input_size_hw, num_keypoints, backbone.lowest_stride)
    encoder = TokenEncoder(
        in_channels=backbone.out_channels,
        feature_size_hw=_feature_size(input_size_hw),
        patch_size_hw=patch_size_hw,
        num_keypoints=num_keypoints,
        dim=dim,
        depth=depth,
        num_heads=num_heads,
        mlp_ratio=mlp_ratio,
        visual_depth=visual_depth,
        prune_after=prune_after,
        keep_tokens=keep_tokens,
    )
    return backbone, encoder


def _check_input(input_size_hw: Size, num_keypoints: int, stride: int) -> None:
    if len(input_size_hw) != 2 or min(input_size_hw) < stride or any(side % stride for side in input_size_hw):
        raise ConfigError(
            f"input_size_hw must be (height, width), both multiples of {stride} (the lowest stride), "
            f"got {input_size_hw}"
        )
    if num_keypoints < 1:
        raise ConfigError(f"num_keypoints must be at least 1, got {num_keypoints}")


def _feature_size(input_size_hw: Size) -> Size:
    return input_size_hw[0] // BACKBONE_STRIDE, input_size_hw[1] // BACKBONE_STRIDE
