"""An exported file against its torch model, on batch sizes it was not exported with."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from distilpose.backends.base import HEATMAP_OUTPUT, POSE_OUTPUTS, InferenceBackend, NumpyOutput
from distilpose.backends.description import Precision
from distilpose.data.preprocess import network_input
from distilpose.errors import CheckpointError
from distilpose.models.outputs import HeatmapOutput
from distilpose.types import Float32Array, ImageArray

BATCH_SIZES = (1, 3, 8)  # none is the one that is traced

# Error allowed in any number of float files, as a share of the output's largest; of int8 files, whose single numbers
# may stray, in the mean: a wrong graph is off by more, and what int8 costs in accuracy `distilpose evaluate` says.
TOLERANCE: dict[Precision, float] = {"float32": 1e-4, "float16": 2e-2, "int8": 0.15}


class OutputError(NamedTuple):
    """How far an exported file is from its model in one output and batch.

    Attributes:
        output: name of the output.
        batch: number of crops.
        largest: largest absolute difference, as a share of the output's largest absolute value.
        mean: mean absolute difference, likewise.
    """

    output: str
    batch: int
    largest: float
    mean: float


def verify(exported: InferenceBackend, model: InferenceBackend, crops: ImageArray) -> tuple[OutputError, ...]:
    """Run both on the same crops in batches of `BATCH_SIZES`.

    Args:
        exported: the file.
        model: what it was made from.
        crops: (B, H, W, 3) uint8, as many as the largest batch.

    Raises:
        CheckpointError: an output differs by more than rounding.
    """
    errors = [
        _difference(name, ours, theirs)
        for batch in BATCH_SIZES
        for name, ours, theirs in _pairs(_run(exported, crops[:batch]), _run(model, crops[:batch]))
    ]
    precision = exported.description.precision
    tolerance = TOLERANCE[precision]
    worst = max(errors, key=lambda error: _judged(error, precision))
    if not _judged(worst, precision) <= tolerance:  # so that NaN fails
        raise CheckpointError(
            f"the exported file is not the model: {worst.output} at batch {worst.batch} is off by "
            f"{_judged(worst, precision):.1e} of its largest value, expected at most {tolerance:.0e} for {precision}. "
            "Please report it, with the versions of torch and of the runtime"
        )
    return tuple(errors)


def _run(backend: InferenceBackend, crops: ImageArray) -> NumpyOutput:
    return backend(network_input(crops, backend.description.normalization))


def _judged(error: OutputError, precision: Precision) -> float:
    return error.mean if precision == "int8" else error.largest


def _arrays(output: NumpyOutput) -> dict[str, Float32Array]:
    if isinstance(output, HeatmapOutput):
        return {HEATMAP_OUTPUT: output.heatmaps}
    values = {name: getattr(output, name) for name in POSE_OUTPUTS}
    return {name: value for name, value in values.items() if value is not None}


def _pairs(exported: NumpyOutput, model: NumpyOutput) -> list[tuple[str, Float32Array, Float32Array]]:
    ours, theirs = _arrays(exported), _arrays(model)
    if ours.keys() != theirs.keys():
        raise CheckpointError(f"the exported file has outputs {', '.join(ours)}, the model {', '.join(theirs)}")
    return [(name, ours[name], theirs[name]) for name in ours]


def _difference(name: str, ours: Float32Array, theirs: Float32Array) -> OutputError:
    if ours.shape != theirs.shape:
        raise CheckpointError(f"the exported file returns {name} of shape {ours.shape}, the model {theirs.shape}")
    error = np.abs(ours.astype(np.float64) - theirs) / max(float(np.abs(theirs).max()), 1e-12)
    return OutputError(name, len(ours), float(error.max()), float(error.mean()))
