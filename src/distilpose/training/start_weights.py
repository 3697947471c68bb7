"""Weights that a run starts from: parts of another run's model, or a ResNet trained on ImageNet."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from distilpose.checkpoint import check_tensors, load_checkpoint
from distilpose.errors import CheckpointError, ConfigError
from distilpose.models import PoseModel
from distilpose.models.resnet import ResNet
from distilpose.models.token_encoder import TransformerBlock

logger = logging.getLogger(__name__)

_RESNET_SIGNS = ("conv1.weight", "layer1.0.conv1.weight")  # top-level names that no other file has together
_CLASSIFIER = ("fc.weight", "fc.bias")


def load_start_weights(model: PoseModel, path: str | Path, parts: Sequence[str]) -> None:
    """Copy weights into a fresh model, in place.

    Args:
        model: to start.
        path: a checkpoint, of which the parts are copied as far as names and shapes agree; or, for a model with a
            ResNet, a state dict in torchvision's layout (``.pth`` or ``.safetensors``), all of which must fit but its
            classifier.
        parts: of "backbone", "encoder" and "head". What neither model has is passed over.

    Raises:
        CheckpointError: the file is unusable, or does not fit.
        ConfigError: a part that one of the models lacks, encoders with different numbers of heads, or ImageNet weights
            for something that is no ResNet.
    """
    weights = read_resnet_weights(path)
    if weights is not None:
        _start_resnet(model, Path(path), weights, parts)
        return
    start = load_checkpoint(path)
    for part in parts:
        source, target = getattr(start, part, None), getattr(model, part, None)
        if source is None and target is None:
            continue
        if source is None or target is None:
            raise ConfigError(
                f"init_parts names {part}, which {start.preset if source is None else model.preset} lacks: init copies "
                f"from a {start.preset} to a {model.preset}, leave {part} out of init_parts"
            )
        _check_heads(source, target, f"{part} of {path}")
        _copy_weights(source, target, f"{part} of {path}")


def read_resnet_weights(path: str | Path) -> dict[str, Tensor] | None:
    """The tensors of a file in torchvision's ResNet layout; None for any other file, broken ones included."""
    path = Path(path)
    try:
        if path.suffix == ".safetensors":
            content = load_file(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises many unrelated types: `load_checkpoint` says what is wrong
        logger.debug("%s is not in torchvision's layout: %s", path, error)
        return None
    found = isinstance(content, dict) and all(isinstance(content.get(name), Tensor) for name in _RESNET_SIGNS)
    return content if found else None


def _start_resnet(model: PoseModel, path: Path, weights: dict[str, Tensor], parts: Sequence[str]) -> None:
    if "backbone" not in parts or not isinstance(model.backbone, ResNet):
        raise ConfigError(
            f"{path} holds a ResNet: expected a model with a ResNet and 'backbone' among init_parts, got "
            f"{model.preset} and {list(parts)}"
        )
    own = model.backbone.state_dict()
    counters = [name for name in own if name.endswith("num_batches_tracked")]  # files of old versions lack them
    expected = {
        name: value.shape
        for name, value in own.items()
        if not name.startswith(model.backbone.own_parts) and (name not in counters or name in weights)
    }
    given = {name: value for name, value in weights.items() if name not in _CLASSIFIER}
    check_tensors(path, "the weights of this ResNet", expected, given)
    model.backbone.load_state_dict({**own, **given})
    logger.info("%d of %d tensors of the backbone from %s", len(given), len(own), path)


def _check_heads(source: nn.Module, target: nn.Module, name: str) -> None:
    """Blocks of one width have the same shapes for any number of heads, and mean something else."""
    theirs, ours = _num_heads(source), _num_heads(target)
    if theirs != ours and any(".qkv." in key for key in _shared(source, target)):
        raise ConfigError(
            f"the {name} has {theirs} attention heads, the model {ours}: set model_options.num_heads {theirs}, or "
            "leave encoder out of init_parts"
        )


def _num_heads(part: nn.Module) -> int | None:
    return next((module.num_heads for module in part.modules() if isinstance(module, TransformerBlock)), None)


def _shared(source: nn.Module, target: nn.Module) -> dict[str, Tensor]:
    """The source's tensors that agree in name and shape with one of the target's."""
    own = target.state_dict()
    return {key: value for key, value in source.state_dict().items() if key in own and own[key].shape == value.shape}


def _copy_weights(source: nn.Module, target: nn.Module, name: str) -> None:
    """Copy what agrees in name and shape: a three-stage backbone takes the first three stages of its teacher."""
    own, shared = target.state_dict(), _shared(source, target)
    if not any(value.is_floating_point() for value in shared.values()):
        raise CheckpointError(
            f"the {name} shares no tensor with the model's: take another checkpoint, or leave it out of init_parts"
        )
    own.update(shared)
    target.load_state_dict(own)
    level = logging.INFO if len(shared) == len(own) else logging.WARNING
    logger.log(level, "init: %d of %d tensors from the %s", len(shared), len(own), name)
