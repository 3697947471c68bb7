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
    """Person crops (B, 3, H, W), normalized -> keypoints of one person each.

    Attributes:
        preset: name in `MODELS`, set by `create_model`: what a checkpoint needs to build the network again.
        preset_options: the options that differ from the preset's defaults.
        input_size_hw: (H, W) of the crops.
        num_keypoints: K.
        token_layout: of the tokens in its output; None for a network without.
        backbone: crops -> feature map.
        head: what turns features or tokens into the output.
    """

    preset: str | None = None
    preset_options: Mapping[str, Any] = MappingProxyType({})
    input_size_hw: Size
    num_keypoints: int
    token_layout: TokenLayout | None = None
    backbone: Backbone
    head: nn.Module


class RegressionModel(PoseNetwork):
    """A student: returns a `PoseOutput`.

    Attributes:
        num_sigmas: 0 (none), 1 (the same along x and y) or 2.
        with_score: whether a confidence is predicted.
    """

    num_sigmas: int
    with_score: bool


class HeatmapModel(PoseNetwork):
    """A teacher: returns a `HeatmapOutput`.

    Attributes:
        heatmap_size_hw: (H, W) of a heatmap in cells.
    """

    heatmap_size_hw: Size


PoseModel = RegressionModel | HeatmapModel
