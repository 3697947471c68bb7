"""The networks. Importing this package does not import torch: names load on first use."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from distilpose.models.presets import MODELS, PoseModel, create_model, list_models

__all__ = ["MODELS", "PoseModel", "create_model", "list_models"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(importlib.import_module("distilpose.models.presets"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
