"""What every inference backend shares: arrays in, arrays out, and checks of files and inputs."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from distilpose.backends.description import ModelDescription
from distilpose.backends.device import RuntimeInfo, usable_cores
from distilpose.data.preprocess import NetworkInput, network_input
from distilpose.errors import CheckpointError, InputError
from distilpose.models.outputs import HeatmapOutput, PoseOutput
from distilpose.types import Float32Array

NumpyOutput = PoseOutput[Float32Array] | HeatmapOutput[Float32Array]

# What an exported file is made of: `export` writes these names, the backends read them.
INPUT_NAME = "images"
POSE_OUTPUTS = ("xy_norm", "sigma", "score")  # a model without sigma or score lacks that output
HEATMAP_OUTPUT = "heatmaps"
_DIGEST = re.compile(r'"digest": "(sha256:[0-9a-f]{64})"')
_BLANK = "sha256:" + "0" * 64


@runtime_checkable
class InferenceBackend(Protocol):
    """A model that reads and returns numpy arrays and knows what it is.

    The package's own backends also say what runs them, by ``describe()``; see `runtime_of`.
    """

    @property
    def description(self) -> ModelDescription:
        """What the model expects and returns."""
        ...

    def __call__(self, images: NetworkInput) -> NumpyOutput:
        """(B, 3, H, W) crops, as `preprocess.network_input` makes them -> the model's output, B >= 1."""
        ...


def runtime_of(backend: InferenceBackend) -> RuntimeInfo:
    """What runs a backend, a foreign one included."""
    describe = getattr(backend, "describe", None)
    info: Any = None if describe is None else describe()
    return info if isinstance(info, RuntimeInfo) else RuntimeInfo(type(backend).__name__, "cpu", None, "float32")


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


def existing_file(path: str | Path) -> Path:
    """The path, which must be a file."""
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path} is not a file: expected a model written by distilpose export")
    return path


def first_line(error: Exception) -> str:
    """What a foreign library says, in one line of a readable length."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:300] if lines else type(error).__name__


def unreadable(path: Path, runtime: str, error: Exception) -> CheckpointError:
    """The error for a file that a runtime refuses."""
    return CheckpointError(
        f"{path} cannot be read by {runtime} ({first_line(error)}): broken, cut short, or another format; export it "
        "again"
    )


def run_failed(path: Path, runtime: str, error: Exception) -> CheckpointError:
    """The error for a model that a runtime cannot finish."""
    return CheckpointError(f"{path} failed while {runtime} ran it ({first_line(error)}): export it again")


def check_outputs(path: Path, names: Sequence[str], description: ModelDescription) -> None:
    """Refuse a file without the output that its description promises, or with one that no backend knows."""
    needed = HEATMAP_OUTPUT if description.output == "heatmap" else POSE_OUTPUTS[0]
    if needed not in names:
        raise CheckpointError(f"{path} must have an output {needed!r}, got {', '.join(names)[:300]}: export it again")


def output_of(values: Mapping[str, Float32Array]) -> NumpyOutput:
    """Arrays by name as a model output."""
    if HEATMAP_OUTPUT in values:
        return HeatmapOutput(values[HEATMAP_OUTPUT])
    xy_norm, sigma, score = (values.get(name) for name in POSE_OUTPUTS)
    assert xy_norm is not None
    return PoseOutput(xy_norm, sigma, score)


def probe(backend: InferenceBackend, path: Path) -> None:
    """Run a model once, on two black crops, and hold its answer against its description.

    Raises:
        CheckpointError: it does not run, or returns other shapes or numbers that are not finite.
    """
    description = backend.description
    batch, count = 2, description.skeleton.num_keypoints
    crops = np.zeros((batch, *description.input_size_hw, 3), np.uint8)
    output = backend(network_input(crops, description.normalization))
    shapes: dict[str, tuple[int, ...]] = {"xy_norm": (batch, count, 2), "sigma": (batch, count, 2)}
    shapes |= {"score": (batch, count), HEATMAP_OUTPUT: (batch, count, *description.heatmap_size_hw)}
    for name, shape in shapes.items():
        values = getattr(output, name, None)
        if values is None:
            continue
        if values.shape != shape or values.dtype != np.float32 or not np.isfinite(values).all():
            fault = "numbers that are not finite" if values.shape == shape else f"{values.dtype} {values.shape}"
            raise CheckpointError(
                f"{path} does not do what it says of itself: output {name!r} must be float32 of shape {shape} and "
                f"finite on black crops, got {fault}: export it again"
            )


def described(description: ModelDescription) -> str:
    """A description as the text that goes into a file, with zeros where `stamp_digest` puts the digest."""
    return json.dumps({**description.to_dict(), "digest": _BLANK})


def stamp_digest(files: Sequence[Path]) -> None:
    """Put the digest of a model's files into their description, which is in the first of them."""
    content = files[0].read_bytes()
    digest = file_digest([content, *(file.read_bytes() for file in files[1:])])
    files[0].write_bytes(content.replace(_BLANK.encode(), f"sha256:{digest}".encode()))


def check_digest(text: str | None, files: Sequence[Path]) -> None:
    """Refuse files that changed after they were written; files of earlier versions have no digest and pass.

    Args:
        text: description inside the first file.
        files: of the model, the one with the description first.

    Raises:
        CheckpointError: a bit is not as it was written.
    """
    known = _DIGEST.search(text or "")
    if known is None:
        return
    content = files[0].read_bytes().replace(known.group(1).encode(), _BLANK.encode())
    if f"sha256:{file_digest([content, *(file.read_bytes() for file in files[1:])])}" != known.group(1):
        raise CheckpointError(f"{files[0]} is damaged: its content is not what was written; copy or export it again")


def file_digest(parts: Iterable[bytes]) -> str:
    """SHA-256 of bytes, one after the other."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


__all__ = [
    "HEATMAP_OUTPUT",
    "INPUT_NAME",
    "POSE_OUTPUTS",
    "InferenceBackend",
    "NumpyOutput",
    "check_digest",
    "check_network_input",
    "check_outputs",
    "described",
    "existing_file",
    "file_digest",
    "first_line",
    "output_of",
    "probe",
    "run_failed",
    "runtime_of",
    "stamp_digest",
    "unreadable",
    "usable_cores",
]
