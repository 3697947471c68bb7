"""A teacher's outputs on disk: asked once per crop, read ever after."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from distilpose.compat import current_names
from distilpose.data.coco import PersonSample
from distilpose.data.dataset import Batch
from distilpose.data.files import read_json
from distilpose.errors import ConfigError
from distilpose.models.outputs import HeatmapOutput
from distilpose.types import IntArray

CONTENT_FILE = "content.json"


class TeacherCache:
    """Teacher outputs of a fixed pool of augmented crops, in float16 files that grow as crops come by.

    A crop that the cache does not know is shown to the teacher and kept; so the first run fills the cache and later
    ones, and later epochs, find the teacher's answer at the cost of reading some 60 KB. Runs may share a cache when
    ``content``, what the outputs depend on (JSON values), agrees.

    Raises:
        ConfigError: the folder holds the outputs of something else.
    """

    def __init__(self, folder: Path, content: Mapping[str, Any], num_samples: int, variants: int) -> None:
        self._folder, self._variants, self._count = folder, variants, num_samples * variants
        self._files: dict[str, NDArray[np.float16]] = {}
        folder.mkdir(parents=True, exist_ok=True)
        _check_content(folder / CONTENT_FILE, {**content, "num_samples": num_samples, "variants": variants})
        self._known = _open(folder / "known.npy", (self._count,), np.dtype(np.bool_))

    def ask(self, batch: Batch, teacher: Callable[[Batch], HeatmapOutput[Tensor]]) -> HeatmapOutput[Tensor]:
        """The teacher's outputs for a batch, on its device; unknown crops are shown to the teacher and kept."""
        place = (batch.sample_index * self._variants + batch.variant).cpu().numpy()
        new = np.flatnonzero(~self._known[place])
        if len(new):
            output = teacher(_rows(batch, torch.from_numpy(new)))
            for name, value in output._asdict().items():
                if value is not None:
                    if name not in self._files:
                        shape = (self._count, *value.shape[1:])
                        self._files[name] = _open(self._folder / f"{name}.npy", shape, np.dtype(np.float16))
                    self._files[name][place[new]] = value.detach().float().cpu().numpy().astype(np.float16)
            self._known[place[new]] = True
        return HeatmapOutput(*(self._read(name, place, batch.images.device) for name in HeatmapOutput._fields))

    def _read(self, name: str, place: IntArray, device: torch.device) -> Any:
        """(B, ...) float32, or None for what this teacher does not return."""
        path = self._folder / f"{name}.npy"
        if name not in self._files:
            if not path.exists():
                return None
            self._files[name] = np.load(path, mmap_mode="r+")
        return torch.from_numpy(self._files[name][place].astype(np.float32)).to(device)


def hash_people(samples: Sequence[PersonSample], root: Path) -> str:
    """SHA-256 of all that shapes the crops of people but their pixels: images' paths below root, boxes, keypoints."""
    digest = hashlib.sha256()
    for sample in samples:
        path = sample.image_path
        place = path.relative_to(root) if path.is_relative_to(root) else path
        digest.update(f"{place.as_posix()}\n{sample.annotation_id}\n".encode(errors="surrogateescape"))
        for values in (sample.box_xyxy, sample.xy_img, sample.visibility, sample.annotated):
            digest.update(values.tobytes())
    return digest.hexdigest()


def _rows(batch: Batch, rows: Tensor) -> Batch:
    given = {name: value for name, value in batch._asdict().items() if value is not None}
    return Batch(**{name: value[rows.to(value.device)] for name, value in given.items()})


def _check_content(file: Path, content: Mapping[str, Any]) -> None:
    values = json.loads(json.dumps(content))
    if not file.exists():
        part = file.with_suffix(f".{os.getpid()}.part")
        part.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
        _link_first(part, file)
    before = current_names(read_json(file, "what a teacher's outputs depend on", ConfigError))
    changed = sorted(key for key in {*values, *before} if values.get(key) != before.get(key))
    if changed:
        raise ConfigError(
            f"{file.parent} holds teacher outputs of other crops ({', '.join(changed)} changed): "
            "choose another teacher_cache, or delete it"
        )


def _link_first(part: Path, path: Path) -> None:
    """Give a whole file its name, unless another run was faster: both use its file then."""
    with contextlib.suppress(FileExistsError):
        os.link(part, path)
    part.unlink()


def _open(path: Path, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    """A file of zeros that takes no room until it is written to, or what is already there."""
    if not path.exists():
        size, free = math.prod(shape) * dtype.itemsize, shutil.disk_usage(path.parent).free
        if size > free:  # where a disk is full, writing to a mapped file ends the process
            raise ConfigError(f"teacher_cache needs {size / 1e9:.1f} GB in {path.parent}, which has {free / 1e9:.1f}")
        part = path.with_suffix(f".{os.getpid()}.part")
        np.lib.format.open_memmap(part, mode="w+", dtype=dtype, shape=shape)
        _link_first(part, path)
    file: NDArray[Any] = np.load(path, mmap_mode="r+")
    return file
