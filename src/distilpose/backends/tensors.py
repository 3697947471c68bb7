"""Weights of a file into a model, exactly."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from distilpose.errors import CheckpointError
from distilpose.models.base import PoseModel

_MAX_LISTED = 12


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
