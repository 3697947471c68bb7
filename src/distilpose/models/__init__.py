"""Networks. Importing this package does not import torch: names load on first use."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from distilpose.models.presets import MODEL_CARDS, MODELS, list_models

if TYPE_CHECKING:
    from distilpose.models.base import PoseModel
    from distilpose.models.build import create_model

__all__ = ["MODELS", "MODEL_CARDS", "PoseModel", "create_model", "list_models"]

_NEED_TORCH = {"PoseModel": "distilpose.models.base", "create_model": "distilpose.models.build"}


def __getattr__(name: str) -> Any:
    if name in _NEED_TORCH:
        return getattr(import_module(_NEED_TORCH[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
