"""What every pose network has in common."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from torch import nn

from distilpose.models.backbones.base import Backbone
from distilpose.types import Size


class TokenLayout(NamedTuple):
    """What must be known of a network's tokens to compare them with another's."""

    grid_hw: Size  # (rows, columns) of the patches that a crop is cut into, one visual token each
    dim: int  # D, channels of a token


class PoseNetwork(nn.Module):
    """Person crops (B, 3, H, W), normalized -> keypoints of one person each."""

    preset: str | None = None  # name in `MODELS`, set by `create_model`: what a checkpoint needs to build it again
    preset_options: Mapping[str, Any] = MappingProxyType({})  # those that differ from the preset's defaults
    input_size_hw: Size  # (H, W) of the crops
    num_keypoints: int  # K
    token_layout: TokenLayout | None = None  # of the tokens in its output; None for a network without
    backbone: Backbone  # crops -> feature map
    head: nn.Module  # features or tokens -> what is returned


class RegressionModel(PoseNetwork):
    """A student: returns a `PoseOutput`."""

    num_sigmas: int  # 0 (none), 1 (the same along x and y) or 2
    with_score: bool  # whether a confidence is predicted


class HeatmapModel(PoseNetwork):
    """A teacher: returns a `HeatmapOutput`."""

    heatmap_size_hw: Size  # (H, W) of a heatmap in cells


PoseModel = RegressionModel | HeatmapModel
