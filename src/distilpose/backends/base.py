"""What every inference backend shares: arrays in, arrays out, and checks of files and inputs."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np

from distilpose.backends.description import ModelDescription
from distilpose.data.preprocess import NetworkInput
from distilpose.errors import CheckpointError, ConfigError, InputError
from distilpose.models.outputs import HeatmapOutput, PoseOutput
from distilpose.types import Float32Array

NumpyOutput = PoseOutput[Float32Array] | HeatmapOutput[Float32Array]

# What an exported file is made of: `export` writes these names, the backends read them.
INPUT_NAME = "images"
POSE_OUTPUTS = ("xy_norm", "sigma", "score")  # a model without sigma or score lacks that output
HEATMAP_OUTPUT = "heatmaps"


@runtime_checkable
class InferenceBackend(Protocol):
    """A model that reads and returns numpy arrays and knows what it is."""

    @property
    def description(self) -> ModelDescription:
        """What the model expects and returns."""
        ...

    def __call__(self, images: NetworkInput) -> NumpyOutput:
        """(B, 3, H, W) crops, as `preprocess.network_input` makes them -> the model's output, B >= 1."""
        ...


def check_network_input(images: NetworkInput, description: ModelDescription) -> None:
    """Refuse an array that the model cannot read.

    Raises:
        InputError: wrong shape or number format.
    """
    height, width = description.input_size_hw
    dtype = np.uint8 if description.normalization is None else np.float32
    if images.ndim != 4 or images.shape[1:] != (3, height, width) or images.dtype != dtype or len(images) == 0:
        raise InputError(
            f"{description.model} reads (B, 3, {height}, {width}) {np.dtype(dtype)}, B >= 1, got {images.dtype} of "
            f"shape {images.shape}: make it with distilpose.data.preprocess.network_input"
        )


def usable_cores() -> int:
    """Cores that this process may use; a container or ``taskset`` may allow fewer than there are."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS and Windows
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def existing_file(path: str | Path) -> Path:
    """The path, which must be a file."""
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path} is not a file: expected a model written by distilpose export")
    return path


def need_package(package: str, path: Path) -> None:
    """Refuse a file whose runtime is not installed."""
    if find_spec(package) is None:
        raise ConfigError(f"{path} runs in {package}, which is not installed: pip install {package}")


def unreadable(path: Path, runtime: str, error: Exception) -> CheckpointError:
    """The error for a file that a runtime refuses."""
    reason = str(error).strip().splitlines()
    return CheckpointError(
        f"{path} cannot be read by {runtime} ({reason[-1].strip() if reason else type(error).__name__}): broken, cut "
        "short, or another format; export it again"
    )


def check_outputs(path: Path, names: Sequence[str], description: ModelDescription) -> None:
    """Refuse a file without the output that its description promises."""
    needed = HEATMAP_OUTPUT if description.output == "heatmap" else POSE_OUTPUTS[0]
    if needed not in names:
        raise CheckpointError(f"{path} must have an output {needed!r}, got {', '.join(names)}: export it again")


def output_of(values: Mapping[str, Float32Array]) -> NumpyOutput:
    """Arrays by name as a model output."""
    if HEATMAP_OUTPUT in values:
        return HeatmapOutput(values[HEATMAP_OUTPUT])
    xy_norm, sigma, score = (values.get(name) for name in POSE_OUTPUTS)
    assert xy_norm is not None
    return PoseOutput(xy_norm, sigma, score)
