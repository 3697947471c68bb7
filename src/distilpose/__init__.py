"""DistilPose: fast 2D human pose by distilling heatmap teachers into regression students.

Importing this package imports neither torch nor anything else that is slow; names load on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from distilpose.backends.loading import load_model
    from distilpose.errors import (
        CheckpointError,
        ConfigError,
        DatasetError,
        DistilPoseError,
        InputError,
        TrainingDivergedError,
    )
    from distilpose.inference.estimator import PoseEstimator, predict
    from distilpose.inference.predictor import PosePredictor
    from distilpose.inference.result import PoseResult
    from distilpose.models import create_model, list_models

__version__ = "0.2.0"

_HOMES = {
    "CheckpointError": "distilpose.errors",
    "ConfigError": "distilpose.errors",
    "DatasetError": "distilpose.errors",
    "DistilPoseError": "distilpose.errors",
    "InputError": "distilpose.errors",
    "PoseEstimator": "distilpose.inference.estimator",
    "PosePredictor": "distilpose.inference.predictor",
    "PoseResult": "distilpose.inference.result",
    "TrainingDivergedError": "distilpose.errors",
    "create_model": "distilpose.models",
    "list_models": "distilpose.models",
    "load_model": "distilpose.backends.loading",
    "predict": "distilpose.inference.estimator",
}

__all__ = [
    "CheckpointError",
    "ConfigError",
    "DatasetError",
    "DistilPoseError",
    "InputError",
    "PoseEstimator",
    "PosePredictor",
    "PoseResult",
    "TrainingDivergedError",
    "__version__",
    "create_model",
    "list_models",
    "load_model",
    "predict",
]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'distilpose' has no attribute {name!r}")
    return getattr(importlib.import_module(home), name)


def __dir__() -> list[str]:
    return sorted(__all__)
