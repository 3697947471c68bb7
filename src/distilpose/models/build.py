"""Build a model from its configuration."""

from __future__ import annotations

from dataclasses import replace
from numbers import Integral
from typing import Any, get_type_hints

from distilpose.compat import refuse_deleted
from distilpose.errors import ConfigError
from distilpose.models.backbones.registry import build_backbone
from distilpose.models.base import PoseModel
from distilpose.models.deeppose import DeepPose
from distilpose.models.distilpose import DistilPose
from distilpose.models.heads import (
    DeconvolutionHead,
    PointwiseHead,
    PooledRegressionHead,
    RegressionHead,
    TokenHeatmapHead,
)
from distilpose.models.outputs import CELL
from distilpose.models.presets import MODELS, OPTIONS, ModelConfig, list_models
from distilpose.models.simple_baseline import HeatmapNet
from distilpose.models.token_encoder import TokenEncoder
from distilpose.models.tokenpose import TokenPose
from distilpose.options import Range
from distilpose.types import Size


def create_model(name: str, **options: Any) -> PoseModel:
    """Build a preset with fresh weights.

    Args:
        name: one of `list_models`.
        **options: fields of `ModelConfig` that differ, such as ``input_size_hw=(128, 96)`` or ``backbone="resnet18"``.

    Raises:
        ConfigError: an unknown name or option, or sizes that do not fit together.

    Example:
        >>> model = create_model("distilpose_s", input_size_hw=(128, 96), patch_size_hw=(4, 3))
    """
    if name not in MODELS:
        raise ConfigError(f"model must be one of {', '.join(list_models())}, got {name!r}")
    refuse_deleted(options)
    preset = MODELS[name]
    known = OPTIONS[preset.family]
    if unknown := sorted(set(options) - set(known)):
        raise ConfigError(f"{name} has no option {', '.join(unknown)}; its options are {', '.join(known)}")
    given: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in options.items()}
    hints = get_type_hints(ModelConfig)
    for key, value in given.items():
        _check_option(f"{name}: {key}", value, hints[key])
    try:
        model = build_model(replace(preset, **given))
    except (ArithmeticError, RuntimeError, TypeError, ValueError) as error:  # torch refuses sizes that are too large
        raise ConfigError(f"{name} cannot be built from {options}: {error}") from error
    model.preset = name
    model.preset_options = {key: value for key, value in given.items() if value != getattr(preset, key)}
    return model


def build_model(config: ModelConfig) -> PoseModel:
    """Build a model with fresh weights from parts.

    Raises:
        ConfigError: sizes that do not fit together, or an unknown backbone.
    """
    backbone = build_backbone(config.backbone)
    size_hw, num_keypoints = config.input_size_hw, config.num_keypoints
    pools = config.family == "deeppose"
    stride = backbone.lowest_stride if pools else max(backbone.lowest_stride, backbone.stride)
    if min(size_hw) < stride or any(side % stride for side in size_hw):
        raise ConfigError(
            f"input_size_hw must be (height, width), both multiples of {stride} (the lowest stride), got {size_hw}"
        )
    for key in ("num_keypoints", "head_hidden"):
        if (value := getattr(config, key)) < 1:
            raise ConfigError(f"{key} must be at least 1, got {value}")
    if pools:
        pooled = PooledRegressionHead(backbone.out_channels, num_keypoints, config.num_sigmas, config.with_score)
        return DeepPose(backbone, pooled, size_hw)
    if config.family == "heatmap":
        doublings = (backbone.stride // CELL).bit_length() - 1
        head: DeconvolutionHead | PointwiseHead = PointwiseHead(backbone.out_channels, num_keypoints)
        if doublings:
            head = DeconvolutionHead(backbone.out_channels, num_keypoints, doublings)
        return HeatmapNet(backbone, head, num_keypoints, size_hw)
    encoder = TokenEncoder(
        in_channels=backbone.out_channels,
        feature_size_hw=_divide(size_hw, backbone.stride),
        patch_size_hw=config.patch_size_hw,
        num_keypoints=num_keypoints,
        dim=config.dim,
        depth=config.depth,
        num_heads=config.num_heads,
        mlp_ratio=config.mlp_ratio,
        visual_depth=config.visual_depth,
    )
    if config.family == "distilpose":
        return DistilPose(backbone, encoder, RegressionHead(config.dim, config.num_sigmas, config.with_score), size_hw)
    heatmap_head = TokenHeatmapHead(config.dim, config.head_hidden, _divide(size_hw, CELL))
    return TokenPose(backbone, encoder, heatmap_head, size_hw)


def _divide(size_hw: Size, stride: int) -> Size:
    return size_hw[0] // stride, size_hw[1] // stride


def _check_option(what: str, value: Any, hint: Any) -> None:
    """Refuse values of a configuration that are not what the option takes, where they can still be named."""
    if hint == Size:
        if not isinstance(value, tuple) or len(value) != 2 or not all(map(_is_whole, value)):
            raise ConfigError(f"{what} must be two whole numbers, (height, width), got {value!r}")
    elif hint in (int, int | None) and not _is_whole(value) and (hint is int or value is not None):
        raise ConfigError(f"{what} must be a whole number, got {value!r}")
    elif hint is bool and not isinstance(value, bool):
        raise ConfigError(f"{what} must be true or false, got {value!r}")
    elif hint is float and value not in Range(0, above_low=True):
        raise ConfigError(f"{what} must be a number above 0, got {value!r}")


def _is_whole(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)
