"""Presets as data: the architecture of every model that `create_model` builds. No torch here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from distilpose.types import Size

Family = Literal["distilpose", "tokenpose", "deeppose", "heatmap"]


@dataclass(frozen=True)
class ModelConfig:
    """Architecture of a model; a family uses the options that `OPTIONS` lists for it.

    Attributes:
        family: ``"distilpose"`` (backbone, token encoder, coordinates), ``"tokenpose"`` (backbone, token encoder,
            heatmaps), ``"deeppose"`` (backbone, mean, coordinates) or ``"heatmap"`` (backbone, convolutions, heatmaps).
        backbone: name in `BACKBONES`.
        input_size_hw: (height, width) of the crops in pixels.
        num_keypoints: K.
        patch_size_hw: (height, width) of a patch in cells of the feature map, one visual token each.
        dim: D, channels of a token.
        depth: transformer blocks.
        num_heads: attention heads of a block.
        mlp_ratio: hidden width of a block's MLP in multiples of ``dim``.
        visual_depth: blocks that update the visual tokens; all of them when None.
        num_sigmas: 0 (none), 1 (the same along x and y) or 2.
        with_score: whether a confidence is predicted.
        head_hidden: width between the two layers of the token heatmap head.

    Source:
        Defaults: DistilPose (arXiv:2303.02455), section 4.1 and its supplement.
    """

    family: Family
    backbone: str
    input_size_hw: Size = (256, 192)
    num_keypoints: int = 17
    patch_size_hw: Size = (4, 3)
    dim: int = 192
    depth: int = 12
    num_heads: int = 8
    mlp_ratio: float = 3
    visual_depth: int | None = None
    num_sigmas: Literal[0, 1, 2] = 2
    with_score: bool = True
    head_hidden: int = 384


_COMMON = ("input_size_hw", "num_keypoints", "backbone")
_TOKENS = ("patch_size_hw", "dim", "depth", "num_heads", "mlp_ratio", "visual_depth")
_COORDINATES = ("num_sigmas", "with_score")
OPTIONS: dict[Family, tuple[str, ...]] = {
    "distilpose": (*_COMMON, *_TOKENS, *_COORDINATES),
    "tokenpose": (*_COMMON, *_TOKENS, "head_hidden"),
    "deeppose": (*_COMMON, *_COORDINATES),
    "heatmap": _COMMON,
}

_SMALL: Size = (192, 144)
MODELS: dict[str, ModelConfig] = {
    # The paper's.
    "distilpose_s": ModelConfig("distilpose", "stem"),
    "distilpose_l": ModelConfig("distilpose", "hrnet_w48"),
    "tokenpose_s": ModelConfig("tokenpose", "stem"),
    "tokenpose_l": ModelConfig("tokenpose", "hrnet_w48_full"),
    # Lighter students, and their teacher on the same grid of tokens.
    "distilpose_t": ModelConfig("distilpose", "pyramid_t", depth=3, num_heads=6, visual_depth=0),
    "distilpose_m": ModelConfig("distilpose", "pyramid_m", depth=4, num_heads=6, visual_depth=1),
    "distilpose_p": ModelConfig("distilpose", "pyramid", depth=4, num_heads=6),
    "tokenpose_m": ModelConfig("tokenpose", "pyramid_wide", depth=4, num_heads=6),
    # Students and teachers whose backbones start from published weights.
    "distilpose_mobilenet": ModelConfig(
        "distilpose", "movenet_lightning", _SMALL, depth=4, num_heads=6, visual_depth=1
    ),
    "tokenpose_mobilenet": ModelConfig("tokenpose", "movenet_thunder", _SMALL, depth=4, num_heads=6),
    "heatmap_mobilenet": ModelConfig("heatmap", "movenet_thunder", _SMALL),
    "distilpose_lite0": ModelConfig("distilpose", "efficientnet_lite0", _SMALL, depth=4, num_heads=6, visual_depth=1),
    "tokenpose_lite2": ModelConfig("tokenpose", "efficientnet_lite2", _SMALL, depth=4, num_heads=6),
    # Without tokens.
    "deeppose_r18": ModelConfig("deeppose", "resnet18_c5"),
    "deeppose_r50": ModelConfig("deeppose", "resnet50_c5"),
    "simplebaseline_r18": ModelConfig("heatmap", "resnet18_c5"),
    "simplebaseline_r50": ModelConfig("heatmap", "resnet50_c5"),
    "hrnet_w32": ModelConfig("heatmap", "hrnet_w32_full"),
    "hrnet_w48": ModelConfig("heatmap", "hrnet_w48_full"),
}


@dataclass(frozen=True)
class ModelCard:
    """Figures of a preset; a test compares size and cost with the model (`benchmark.measure`)."""

    parameters: int  # trainable numbers
    gmacs_published: float  # 1e9 multiply-accumulates of a crop as the paper counts them, without attention products
    gmacs: float  # the same with attention products and without activations
    published_ap: float | None = None  # COCO val2017 AP in percent, with flip test; None where nothing is published
    source: str = "this package: nothing is published"


_PAPER = "arXiv:2303.02455"
_DEEPPOSE = "arXiv:1312.4659, with a ResNet"
MODEL_CARDS: dict[str, ModelCard] = {
    "distilpose_s": ModelCard(5_364_101, 2.39, 2.724, 71.6, _PAPER),
    "distilpose_l": ModelCard(21_265_637, 10.33, 10.654, 74.4, _PAPER),
    "tokenpose_s": ModelCard(6_620_736, 2.41, 2.745, 72.5, _PAPER + ", as teacher of distilpose_s"),
    "tokenpose_l": ModelCard(69_411_360, 17.03, 17.347, source=_PAPER),
    "distilpose_t": ModelCard(2_434_613, 0.32, 0.328),
    "distilpose_m": ModelCard(3_572_373, 0.58, 0.612),
    "distilpose_p": ModelCard(5_502_685, 1.31, 1.419),
    "tokenpose_m": ModelCard(10_888_416, 2.34, 2.456),
    "distilpose_mobilenet": ModelCard(4_009_245, 0.32, 0.336),
    "tokenpose_mobilenet": ModelCard(8_656_512, 0.78, 0.823),
    "heatmap_mobilenet": ModelCard(6_211_505, 0.50, 0.503),
    "distilpose_lite0": ModelCard(4_661_573, 0.42, 0.429),
    "tokenpose_lite2": ModelCard(6_940_352, 0.76, 0.799),
    "deeppose_r18": ModelCard(11_220_117, 1.78, 1.781, source=_DEEPPOSE),
    "deeppose_r50": ModelCard(23_682_197, 4.04, 4.026, source=_DEEPPOSE),
    "simplebaseline_r18": ModelCard(15_376_721, 2.91, 2.904, source="arXiv:1804.06208, smaller than there"),
    "simplebaseline_r50": ModelCard(33_999_697, 5.46, 5.450, 70.4, "arXiv:1804.06208"),
    "hrnet_w32": ModelCard(28_536_113, 7.70, 7.683, 74.4, "arXiv:1908.07919"),
    "hrnet_w48": ModelCard(63_595_745, 15.77, 15.743, 75.1, "arXiv:1908.07919"),
}


def list_models() -> list[str]:
    """Names that `create_model` takes."""
    return sorted(MODELS)
