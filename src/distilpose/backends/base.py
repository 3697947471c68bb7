"""What every inference backend shares: arrays in, arrays out, and checks of files and inputs."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from distilpose.backends.description import ModelDescription
from distilpose.backends.device import RuntimeInfo
from distilpose.data.preprocess import NetworkInput
from distilpose.errors import CheckpointError, InputError
from distilpose.models.outputs import HeatmapOutput, PoseOutput
from distilpose.types import Float32Array

NumpyOutput = PoseOutput[Float32Array] | HeatmapOutput[Float32Array]

# What an exported file is made of: `export` writes these names, the backends read them.
INPUT_NAME = "images"
POSE_OUTPUTS = ("xy_norm", "sigma", "score")  # a model without sigma or score lacks that output
HEATMAP_OUTPUT = "heatmaps"
MAX_BATCH = 1024  # images that a file of a fixed batch reads at once
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
    """Refuse an array of the wrong shape or number format with an `InputError`."""
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


def first_line(error: Exception, place: int = -1) -> str:
    """What a foreign library says in its last line, or another one, in a readable length."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[place][:300] if lines else type(error).__name__


def unreadable(path: Path, runtime: str, error: Exception) -> CheckpointError:
    """The error for a file that a runtime refuses."""
    return CheckpointError(
        f"{path} cannot be read by {runtime} ({first_line(error)}): broken, cut short, or another format; export it "
        "again"
    )


def run_failed(path: Path, runtime: str, error: Exception) -> CheckpointError:
    """The error for a model that a runtime cannot finish."""
    return CheckpointError(f"{path} failed while {runtime} ran it ({first_line(error)}): export it again")


def described(description: ModelDescription) -> str:
    """A description as the text that goes into a file, with zeros where `stamp_digest` puts the digest."""
    return json.dumps({**description.to_dict(), "digest": _BLANK})


def stamp_digest(files: Sequence[Path]) -> None:
    """Put the digest of a model's files into their description, which is in the first of them."""
    content = files[0].read_bytes()
    files[0].write_bytes(content.replace(_BLANK.encode(), f"sha256:{file_digest(files[1:], content)}".encode()))


def check_digest(text: str | None, files: Sequence[Path]) -> None:
    """Refuse files that changed after they were written by a `CheckpointError`; those of earlier versions pass.

    ``text`` is the description inside the first of the files.
    """
    known = _DIGEST.search(text or "")
    if known is None:
        return
    content = files[0].read_bytes().replace(known.group(1).encode(), _BLANK.encode())
    if f"sha256:{file_digest(files[1:], content)}" != known.group(1):
        raise CheckpointError(f"{files[0]} is damaged: its content is not what was written; copy or export it again")


def file_digest(files: Iterable[Path], before: bytes = b"") -> str:
    """SHA-256 of what files hold, one after the other, behind other bytes."""
    digest = hashlib.sha256(before)
    for path in files:
        with path.open("rb") as file:
            hashlib.file_digest(file, lambda: digest)  # in blocks: weights may be larger than what memory is left
    return digest.hexdigest()
