"""Presets: functions that differ only in numbers. `MODELS` is the list of them."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from distilpose.errors import ConfigError
from distilpose.models.distilpose import DistilPose, NumSigmas, RegressionHead
from distilpose.models.hrnet import BACKBONE_STRIDE, HRNet, StemNet
from distilpose.models.pyramid import PyramidNet
from distilpose.models.token_encoder import TokenEncoder
from distilpose.models.tokenpose import HeatmapHead, TokenPose

Size = tuple[int, int]
PoseModel = DistilPose | TokenPose

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
) -> DistilPose:
    """The small student: stem net and token encoder."""
    encoder = _encoder(StemNet(), input_size_hw, patch_size_hw, num_keypoints, dim, depth, num_heads, mlp_ratio)
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
    try:
        model = build(**given)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{name} cannot be built from {options}: {error}") from error
    model.preset = name
    model.preset_options = {key: value for key, value in given.items() if value != known[key].default}
    return model


def _encoder(
    backbone: StemNet | PyramidNet,
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
) -> tuple[StemNet | PyramidNet, TokenEncoder]:
    stride = backbone.lowest_stride
    if len(input_size_hw) != 2 or min(input_size_hw) < stride or any(side % stride for side in input_size_hw):
        raise ConfigError(
            f"input_size_hw must be (height, width), both multiples of {stride} (the backbone's lowest stride), "
            f"got {input_size_hw}"
        )
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


def _feature_size(input_size_hw: Size) -> Size:
    return input_size_hw[0] // BACKBONE_STRIDE, input_size_hw[1] // BACKBONE_STRIDE
