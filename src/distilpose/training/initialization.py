"""Weights that a run starts from: another run's model, published weights, or attention that points.

Pointer initialization: with the usual small random weights a keypoint token sees the mean of all visual tokens, and
training stays at the mean pose until it leaves this saddle. Here the last block starts as a pointer: its attention is
sharp enough to differ between patches, its values carry a patch's token over unchanged, and the head is fitted to read
the patch's place from it. The first gradients then say where to look.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distilpose.backends.checkpoint import load_checkpoint
from distilpose.errors import CheckpointError, ConfigError
from distilpose.losses import TARGET_SIGMA, render_gaussian_heatmaps
from distilpose.models import PoseModel
from distilpose.models.distilpose import DistilPose
from distilpose.models.token_encoder import TransformerBlock
from distilpose.models.tokenpose import TokenPose
from distilpose.training.pretrained import load_pretrained

logger = logging.getLogger(__name__)


def load_start_weights(model: PoseModel, source: str | Path, parts: Sequence[str]) -> None:
    """Copy weights into a fresh model, in place.

    Args:
        model: to start.
        source: a checkpoint, of which the parts are copied as far as names and shapes agree; or published weights of
            the model's backbone, see `load_pretrained`.
        parts: of "backbone", "encoder" and "head". What neither model has is passed over.

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


SHARPNESS = 8.0  # factor on the query and key weights of the last block
HEAD_STEPS = 200
HEAD_BATCH = 128
HEAD_LEARNING_RATE = 3e-3

TokenModel = DistilPose | TokenPose


def initialize_pointer(model: PoseModel, images: Tensor, seed: int, target_sigma: float = TARGET_SIGMA) -> float:
    """Turn the last block of a fresh model into a pointer and fit the head to it; everything else stays.

    Args:
        model: changed in place.
        images: (B, 3, H, W) training crops, for tokens of the usual size.
        seed: of the drawn weights and places.
        target_sigma: of the heatmaps that a teacher will be trained on, in cells.

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
    """Fit the head to read positions from the output of the pointer block: blends of neighboring patches.

    ``keypoint_tokens`` (B, K, D) enter that block, whose attention reads ``visual_tokens`` (B, P, D).
    """
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
