"""Weights of a file into a model, exactly; checkpoints in the layout that the paper's authors released among them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from distilpose.backends.base import first_line
from distilpose.errors import CheckpointError
from distilpose.models import create_model
from distilpose.models.base import PoseModel

_MAX_LISTED = 12
# Released name -> own name.
_RELEASED_NAMES = [
    (r"^keypoint_head\.tokenpose\.mlp_head\.1\.", "head.up."),
    (r"^keypoint_head\.(?:tokenhead|tokenpose)\.", ""),
    (r"^keypoint_token$", "encoder.keypoint_tokens"),
    (r"^pos_embedding$", "encoder.position"),
    (r"^patch_to_embedding\.", "encoder.patch_embedding."),
    (r"^transformer\.layers\.(\d+)\.", r"encoder.blocks.\1."),
    (r"\.0\.fn\.norm\.", ".attention_norm."),
    (r"\.0\.fn\.fn\.to_qkv\.", ".qkv."),
    (r"\.0\.fn\.fn\.to_out\.0\.", ".attention_out."),
    (r"\.1\.fn\.norm\.", ".mlp_norm."),
    (r"\.1\.fn\.fn\.net\.0\.", ".mlp_up."),
    (r"\.1\.fn\.fn\.net\.3\.", ".mlp_down."),
    (r"^mlp_head\.0\.", "head.norm."),
    (r"^mlp_head\.1\.", "head.linear."),
    (r"^mlp_head\.2\.", "head.hidden_norm."),
    (r"^mlp_head\.3\.", "head.out."),
]


def fill_model(path: Path, model: PoseModel, tensors: Mapping[str, Tensor]) -> PoseModel:
    """Put a file's weights into a model, which is returned in evaluation mode.

    Raises:
        CheckpointError: tensors are extra, missing, misshaped or not finite.
    """
    check_tensors(path, f"a {model.preset}", {k: v.shape for k, v in model.state_dict().items()}, tensors)
    for name, values in tensors.items():
        if not torch.isfinite(values).all():
            raise CheckpointError(f"{path}: {name} has NaN or infinite numbers: its training diverged, or it is broken")
    model.load_state_dict(tensors, strict=True)
    return model.eval()


def check_tensors(path: Path, what: str, expected: Mapping[str, torch.Size], tensors: Mapping[str, Tensor]) -> None:
    """Refuse tensors that are not exactly the expected ones, by name and shape.

    Args:
        path: where they come from, for the error.
        what: they should be, likewise.
        expected: shapes by name.
        tensors: by name.

    Raises:
        CheckpointError: names what is missing, extra or misshaped.
    """
    faults = [f"missing {name}" for name in expected if name not in tensors]
    faults += [f"extra {name}" for name in tensors if name not in expected]
    faults += [
        f"{name} has shape {list(tensors[name].shape)}, expected {list(shape)}"
        for name, shape in expected.items()
        if name in tensors and tensors[name].shape != shape
    ]
    if faults:
        more = f", and {len(faults) - _MAX_LISTED} more" if len(faults) > _MAX_LISTED else ""
        raise CheckpointError(f"{path} does not hold {what}: {'; '.join(faults[:_MAX_LISTED])}{more}")


def convert_released(path: str | Path) -> PoseModel:
    """Build a model from a released checkpoint; which of the four presets it is follows from its tensors.

    Raises:
        CheckpointError: the file is not such a checkpoint, or tensors are extra, missing or misshaped.
    """
    path = Path(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises many unrelated types on foreign bytes
        code = re.search(r"GLOBAL ([\w.]+)", str(error))
        reason = first_line(error) if code is None else f"it would call {code[1]}, which is not done"
        raise CheckpointError(
            f"{path} cannot be read as a PyTorch checkpoint ({reason}): is it complete, and one of weights alone?"
        ) from error
    state = content.get("state_dict", content) if isinstance(content, dict) else None
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise CheckpointError(f"{path} must hold a 'state_dict' of tensors, as the released checkpoints do")
    name = _recognize_released(path, state)
    tensors = {_released_to_own(key): value for key, value in state.items()}
    model: Any = create_model(name)
    position = tensors.pop("encoder.position", None)
    if position is None or position.shape != model.encoder.position.shape:
        raise CheckpointError(f"{path} has no usable pos_embedding; a released {name} holds {[1, 256, 192]}")
    if not torch.allclose(position.float(), model.encoder.position, atol=1e-4):
        raise CheckpointError(f"{path} has a pos_embedding that is not the sine code: not a released {name}")
    return fill_model(path, model, tensors)


def _released_to_own(name: str) -> str:
    for pattern, replacement in _RELEASED_NAMES if name.startswith("keypoint_head.") else ():
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
    return ("distilpose_" if student else "tokenpose_") + ("l" if large else "s")
