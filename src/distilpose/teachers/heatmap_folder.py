"""A folder of heatmaps that something else computed: what it says of itself, and one array for each annotation.

It holds

- ``heatmaps.json``: ``{"format": 1, "keypoints": NAMES, "udp": false, "boxes": {"ID": [x1, y1, x2, y2], ...}}``, where
  ``keypoints`` is a known set or a list of names, and ``udp`` and ``boxes`` may be left out;
- for each annotation ID of the training sets an array (K, h, w), float16 or float32: ``ID.npy``, or the entry ``ID`` of
  any ``*.safetensors`` in the folder.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from safetensors import SafetensorError, safe_open

from distilpose.errors import InputError
from distilpose.types import Size

MANIFEST = "heatmaps.json"
FORMAT_VERSION = 1
_KEYS = {"format", "keypoints", "udp", "boxes"}
_FARTHEST = 1e9  # pixels of a box; products of farther ones leave the range of numbers
_DTYPES = {"float16", "float32", "F16", "F32"}  # as numpy and as safetensors call them
_MANY = 1000  # files: reading the headers of more takes long enough for a progress bar
_MAX_OPEN = 64  # safetensors files at a time


@dataclass(frozen=True)
class Manifest:
    """What ``heatmaps.json`` says.

    Attributes:
        keypoints: of the arrays, in their order: a known set or the names.
        udp: cells are counted from center to center of the outermost ones (`SourceSpec.udp`).
        boxes: by annotation id, the box x1, y1, x2, y2 in image pixels that its heatmaps cover.
    """

    keypoints: str | list[str]
    udp: bool = False
    boxes: Mapping[str, Sequence[float]] = field(default_factory=dict)


def read_manifest(folder: Path) -> Manifest:
    """What the folder says of itself.

    Raises:
        InputError: ``heatmaps.json`` is missing or broken, or says something that we do not know.
    """
    file = folder / MANIFEST
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
        problem = _problem_of(values)
    except (OSError, ValueError) as error:
        problem = repr(error)
    if problem is not None:
        raise InputError(
            f'{file} must hold {{"format": {FORMAT_VERSION}, "keypoints": set or names, "udp": true or false, "boxes": '
            f"{{id: [x1, y1, x2, y2]}}}}, the last two if needed, got {problem}: see docs/teachers.md"
        )
    return Manifest(**{key: value for key, value in values.items() if key != "format"})


def _problem_of(values: Any) -> str | None:
    """What is wrong with a manifest."""
    if not isinstance(values, dict):
        return f"a {type(values).__name__}"
    if unknown := sorted(set(values) - _KEYS):
        return f"the unknown {', '.join(unknown)}"
    version, keypoints, udp = values.get("format"), values.get("keypoints"), values.get("udp", False)
    if version != FORMAT_VERSION or isinstance(version, bool):
        return f"format {version!r}"
    names = [keypoints] if isinstance(keypoints, str) else keypoints
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        return f"keypoints {keypoints!r}"
    if not isinstance(udp, bool):
        return f"udp {udp!r}"
    boxes = values.get("boxes", {})
    if not isinstance(boxes, dict):
        return f"boxes {boxes!r}"
    return next((f"box {box!r} of {name}" for name, box in boxes.items() if not _is_box(box)), None)


def _is_box(box: Any) -> bool:
    if not isinstance(box, list) or len(box) != 4:
        return False
    if not all(isinstance(side, int | float) and not isinstance(side, bool) for side in box):
        return False
    return all(abs(side) <= _FARTHEST for side in box) and box[0] < box[2] and box[1] < box[3]


class HeatmapArrays:
    """The arrays of some annotations. Their headers are read at once, they themselves when they are asked for.

    Args:
        folder: in the layout above.
        ids: of the annotations.
        num_keypoints: K.

    Raises:
        InputError: an annotation has no array, or one that is unreadable or of another shape or kind of number.
    """

    def __init__(self, folder: Path, ids: Sequence[int], num_keypoints: int) -> None:
        self._num_keypoints = num_keypoints
        self._opened = _OpenFiles()
        self._files = self._find(folder)
        _check_complete(folder, ids, self._files)
        self.sizes_hw = self._check_headers(ids)
        self.fingerprint = _fingerprint(folder, self._files)

    def read(self, annotation_id: int) -> NDArray[np.floating[Any]]:
        """(K, h, w) float16 or float32 of one annotation.

        Raises:
            InputError: the array is unreadable or not finite.
        """
        path = self._files[str(annotation_id)]
        try:
            if path.suffix == ".npy":
                with path.open("rb") as file:
                    array: NDArray[np.floating[Any]] = np.lib.format.read_array(file, allow_pickle=False)
            else:
                array = self._opened(path).get_tensor(str(annotation_id))
        except (OSError, ValueError, SafetensorError) as error:
            raise _unreadable(path, annotation_id, error) from error
        self._check(annotation_id, array.shape, str(array.dtype))
        if not np.isfinite(array).all():
            raise InputError(
                f"{path}: the heatmaps of annotation {annotation_id} must be finite, got NaN or infinity: "
                "write them again"
            )
        return array

    def _find(self, folder: Path) -> dict[str, Path]:
        """The file of each annotation id."""
        found = {path.stem: path for path in sorted(folder.glob("*.npy"))}
        for path in sorted(folder.glob("*.safetensors")):
            try:
                found |= dict.fromkeys(self._opened(path).keys(), path)
            except (SafetensorError, OSError) as error:
                raise InputError(f"{path} cannot be read as safetensors ({error}): write it again") from error
        return found

    def _check_headers(self, ids: Sequence[int]) -> frozenset[Size]:
        """The sizes (h, w) that occur. A broken array is found now rather than in the middle of an epoch."""
        console = Console(stderr=True)
        by_file = sorted(ids, key=lambda each: self._files[str(each)])
        shown = track(
            by_file,
            description="checking heatmaps",
            console=console,
            transient=True,
            disable=len(ids) < _MANY or not console.is_terminal,
        )
        return frozenset(self._size_of(each) for each in shown)

    def _size_of(self, annotation_id: int) -> Size:
        path = self._files[str(annotation_id)]
        try:
            if path.suffix == ".npy":
                array = np.lib.format.open_memmap(path, mode="r")
                shape, dtype = array.shape, str(array.dtype)
            else:
                entry = self._opened(path).get_slice(str(annotation_id))
                shape, dtype = tuple(entry.get_shape()), entry.get_dtype()
        except (OSError, ValueError, SafetensorError) as error:
            raise _unreadable(path, annotation_id, error) from error
        self._check(annotation_id, shape, dtype)
        return shape[1], shape[2]

    def _check(self, annotation_id: int, shape: tuple[int, ...], dtype: str) -> None:
        if len(shape) != 3 or shape[0] != self._num_keypoints or 0 in shape or dtype not in _DTYPES:
            raise InputError(
                f"{self._files[str(annotation_id)]}: the heatmaps of annotation {annotation_id} must be "
                f"({self._num_keypoints}, h, w) float16 or float32, got {dtype} {shape}: write them again"
            )


class _OpenFiles:
    """The safetensors files that were used last, open: their header names every person, and parsing it is slow.

    Another process, forked or with a pickled copy, opens its own.
    """

    def __init__(self) -> None:
        self._open = lru_cache(_MAX_OPEN)(lambda path, process: safe_open(path, "numpy"))

    def __call__(self, path: Path) -> Any:
        return self._open(path, os.getpid())

    def __reduce__(self) -> tuple[type[_OpenFiles], tuple[()]]:
        return _OpenFiles, ()


def _unreadable(path: Path, annotation_id: int, error: Exception) -> InputError:
    return InputError(f"{path}: the heatmaps of annotation {annotation_id} cannot be read ({error}): write them again")


def _check_complete(folder: Path, ids: Sequence[int], files: Mapping[str, Path]) -> None:
    missing = [each for each in ids if str(each) not in files]
    if missing:
        raise InputError(
            f"{folder} lacks the heatmaps of {len(missing)} of {len(ids)} training people, such as annotation "
            f"{missing[0]}: write them, or leave these people out of data.train"
        )


def _fingerprint(folder: Path, files: Mapping[str, Path]) -> str:
    """Of the manifest, and of the names and sizes of the files: what is in the arrays is not read for it."""
    digest = hashlib.sha256((folder / MANIFEST).read_bytes())
    for path in sorted(set(files.values())):
        digest.update(f"{path.name} {path.stat().st_size}\n".encode())
    return digest.hexdigest()
