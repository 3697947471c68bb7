"""Checkpoints in the layout that the paper's authors released."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from distilpose.backends.base import first_line
from distilpose.backends.tensors import fill_model
from distilpose.errors import CheckpointError
from distilpose.models import MODELS, create_model
from distilpose.models.base import PoseModel
from distilpose.models.distilpose import DistilPose
from distilpose.models.tokenpose import TokenPose

# Released name -> own name.
_RELEASED_NAMES = [
    (r"^keypoint_head\.(?:tokenhead|tokenpose)\.keypoint_token$", "encoder.keypoint_tokens"),
    (r"^keypoint_head\.(?:tokenhead|tokenpose)\.pos_embedding$", "encoder.position"),
    (r"^keypoint_head\.(?:tokenhead|tokenpose)\.patch_to_embedding\.", "encoder.patch_embedding."),
    (r"^keypoint_head\.(?:tokenhead|tokenpose)\.transformer\.layers\.(\d+)\.", r"encoder.blocks.\1."),
    (r"\.0\.fn\.norm\.", ".attention_norm."),
    (r"\.0\.fn\.fn\.to_qkv\.", ".qkv."),
    (r"\.0\.fn\.fn\.to_out\.0\.", ".attention_out."),
    (r"\.1\.fn\.norm\.", ".mlp_norm."),
    (r"\.1\.fn\.fn\.net\.0\.", ".mlp_up."),
    (r"\.1\.fn\.fn\.net\.3\.", ".mlp_down."),
    (r"^keypoint_head\.tokenhead\.mlp_head\.0\.", "head.norm."),
    (r"^keypoint_head\.tokenhead\.mlp_head\.1\.", "head.linear."),
    (r"^keypoint_head\.tokenpose\.mlp_head\.0\.", "head.norm."),
    (r"^keypoint_head\.tokenpose\.mlp_head\.1\.", "head.up."),
    (r"^keypoint_head\.tokenpose\.mlp_head\.2\.", "head.hidden_norm."),
    (r"^keypoint_head\.tokenpose\.mlp_head\.3\.", "head.out."),
]


def convert_released(path: str | Path) -> PoseModel:
    """Build a model from a file in the layout of the paper authors' released checkpoints.

    Which of the four presets it is follows from its tensors. Files are read with ``weights_only=True``.

    Raises:
        CheckpointError: the file is not such a checkpoint, or tensors are extra, missing or misshaped.
    """
    path = Path(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises many unrelated types on foreign bytes
        raise CheckpointError(
            f"{path} cannot be read as a PyTorch checkpoint ({first_line(error)}): is it complete?"
        ) from error
    state = content.get("state_dict", content) if isinstance(content, dict) else None
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise CheckpointError(f"{path} must hold a 'state_dict' of tensors, as the released checkpoints do")
    name = _recognize_released(path, state)
    tensors = {_released_to_own(key): value for key, value in state.items()}
    model = create_model(name)
    assert isinstance(model, DistilPose | TokenPose)
    position = tensors.pop("encoder.position", None)
    if position is None or position.shape != model.encoder.position.shape:
        raise CheckpointError(f"{path} has no usable pos_embedding; a released {name} holds {[1, 256, 192]}")
    if not torch.allclose(position.float(), model.encoder.position, atol=1e-4):
        raise CheckpointError(f"{path} has a pos_embedding that is not the sine code: not a released {name}")
    return fill_model(path, model, tensors)


def _released_to_own(name: str) -> str:
    if name.startswith("backbone."):
        return name
    for pattern, replacement in _RELEASED_NAMES:
        name = re.sub(pattern, replacement, name)
    return name


def _recognize_released(path: Path, state: Mapping[str, Tensor]) -> str:
    student = any(name.startswith("keypoint_head.tokenhead.") for name in state)
    teacher = any(name.startswith("keypoint_head.tokenpose.") for name in state)
    if student == teacher:
        raise CheckpointError(
            f"{path} is no released DistilPose or TokenPose checkpoint: expected tensors under "
            f"'keypoint_head.tokenhead' or 'keypoint_head.tokenpose', got {sorted(state)[:3]}"
        )
    large = any(name.startswith("backbone.stage") for name in state)
    name = ("distilpose_" if student else "tokenpose_") + ("l" if large else "s")
    assert name in MODELS
    return name
