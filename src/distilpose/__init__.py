"""DistilPose: fast 2D human pose by distilling heatmap teachers into regression students.

Importing this package imports neither torch nor anything else that is slow; names load on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from distilpose.backends.loading import load_model as load_model
    from distilpose.errors import CheckpointError as CheckpointError
    from distilpose.errors import ConfigError as ConfigError
    from distilpose.errors import DatasetError as DatasetError
    from distilpose.errors import DistilPoseError as DistilPoseError
    from distilpose.errors import InputError as InputError
    from distilpose.errors import TrainingDivergedError as TrainingDivergedError
    from distilpose.inference.estimator import PoseEstimator as PoseEstimator
    from distilpose.inference.estimator import predict as predict
    from distilpose.inference.predictor import PosePredictor as PosePredictor
    from distilpose.inference.result import PoseResult as PoseResult
    from distilpose.models import create_model as create_model
    from distilpose.models import list_models as list_models

__version__ = "0.2.0"

_ERRORS = "CheckpointError ConfigError DatasetError DistilPoseError InputError TrainingDivergedError"
_HOMES = {
    **dict.fromkeys(_ERRORS.split(), "distilpose.errors"),
    **dict.fromkeys(("PoseEstimator", "predict"), "distilpose.inference.estimator"),
    "PosePredictor": "distilpose.inference.predictor",
    "PoseResult": "distilpose.inference.result",
    **dict.fromkeys(("create_model", "list_models"), "distilpose.models"),
    "load_model": "distilpose.backends.loading",
}
__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'distilpose' has no attribute {name!r}")
    if _HOMES[name] == "distilpose.models":
        importlib.import_module("distilpose.errors").require_package("torch", f"distilpose.{name}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
