"""Heatmaps that something else computed and wrote to disk, one per annotation, as a teacher.

A folder holds

- ``heatmaps.json``: ``{"format": 1, "keypoints": NAMES, "udp": false, "boxes": {"ID": [x1, y1, x2, y2], ...}}``, where
  ``keypoints`` is a known set or a list of names, and ``udp`` and ``boxes`` may be left out;
- for each annotation ID of the training sets an array (K, h, w), float16 or float32: ``ID.npy``, or the entry ``ID`` of
  any ``*.safetensors`` in the folder.

A heatmap covers its entry of ``boxes``, in image pixels: x1 is cell 0 and x2 is cell w. Without an entry it covers the
annotation's box grown to the heatmap's aspect and padded 1.25 times: the crop that the package itself would cut.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.nn import functional as F

from distilpose.data.coco import PersonSample
from distilpose.data.dataset import Batch
from distilpose.errors import ConfigError, InputError
from distilpose.geometry import CropTransform
from distilpose.models.outputs import HeatmapOutput
from distilpose.training.teachers.base import CropSpec
from distilpose.training.teachers.keypoints import match_keypoints, teacher_skeleton

MANIFEST = "heatmaps.json"
FORMAT_VERSION = 1
_STRIDE = 4  # crop pixels per cell of the heatmaps that a student is shown


class HeatmapFiles:
    """Heatmaps on disk, moved into each training crop by its own transform: turned, scaled, mirrored like the pixels.

    They do not know how the crop's colours were changed, what lies outside their box is 0, and their blobs grow and
    shrink with the person in the crop.

    Args:
        folder: in the layout above.
        crops: of the student.
        samples: the training people, in the order of `Batch.sample_index`.
        mapping: student's keypoint -> the files', where their names differ.

    Raises:
        ConfigError: the keypoints do not fit, or annotation ids are not unique over the training sets.
        InputError: the folder is broken, or lacks a person.
    """

    def __init__(
        self, folder: Path, crops: CropSpec, samples: Sequence[PersonSample], mapping: Mapping[str, str] | None = None
    ) -> None:
        manifest = _read_manifest(folder)
        skeleton = teacher_skeleton(manifest["keypoints"], str(folder / MANIFEST))
        self._mapping = match_keypoints(crops.skeleton, skeleton, mapping or {}, f"teacher {folder}")
        self._index = torch.from_numpy(self._mapping.index)
        self._flip_index = torch.from_numpy(crops.skeleton.flip_index)
        self._num_keypoints = skeleton.num_keypoints
        self._ids = [sample.annotation_id for sample in samples]
        _check_unique(self._ids)
        self._files = _find_files(folder)
        _check_complete(folder, self._ids, self._files)
        self._size_hw = (crops.size_hw[0] // _STRIDE, crops.size_hw[1] // _STRIDE)
        self._udp = bool(manifest.get("udp", False))
        self._boxes: Mapping[str, Any] = manifest.get("boxes", {})
        self._samples = samples
        self._fingerprint = _fingerprint(folder, self._files)
        self._read(self._ids[0])

    @property
    def description(self) -> Mapping[str, Any]:
        """The manifest, and names and sizes of the files: what is in the arrays is not read for it."""
        return {
            "kind": "heatmaps",
            "files": self._fingerprint,
            "mapping": self._index.tolist(),
            "cells": list(self._size_hw),
        }

    @property
    def taught(self) -> tuple[bool, ...]:
        """K: which of the student's keypoints the files have."""
        return tuple((self._index >= 0).tolist())

    @property
    def tokens(self) -> None:
        """None."""
        return None

    @property
    def reads_images(self) -> bool:
        """No."""
        return False

    def __call__(self, batch: Batch) -> HeatmapOutput[Tensor]:
        """B crops -> heatmaps (B, K, h, w) of a quarter of the crop's size.

        Raises:
            InputError: an array is broken.
        """
        assert batch.image_to_crop is not None
        matrices = batch.image_to_crop.double().cpu()
        rows = [self._warp(int(index), matrix) for index, matrix in zip(batch.sample_index, matrices, strict=True)]
        return HeatmapOutput(torch.stack(rows).to(batch.images.device))

    def to(self, device: torch.device) -> None:
        """Files stay where they are."""

    def _warp(self, index: int, image_to_crop: Tensor) -> Tensor:
        """(K, h, w) of one crop."""
        array = self._read(self._ids[index])
        ordered = torch.from_numpy(array.astype(np.float32))[self._index.clamp(min=0)]
        ordered[self._index < 0] = 0
        if torch.linalg.det(image_to_crop[:, :2]) < 0:  # a mirrored crop: left is right there
            ordered = ordered[self._flip_index]
        image_to_map = self._image_to_map(index, (array.shape[1], array.shape[2]))
        return _read_at(ordered, image_to_map @ _square(image_to_crop).inverse(), self._size_hw)

    def _image_to_map(self, index: int, map_hw: tuple[int, int]) -> Tensor:
        """(3, 3) image pixels -> cells of a person's heatmap."""
        height, width = map_hw
        box = self._boxes.get(str(self._ids[index]))
        if box is None:
            matrix = CropTransform.from_box(self._samples[index].box_xyxy, map_hw).matrix
        else:
            x1, y1, x2, y2 = (float(value) for value in box)
            across, down = width / (x2 - x1), height / (y2 - y1)
            matrix = np.array([[across, 0, -x1 * across], [0, down, -y1 * down]])
        if self._udp:
            matrix = matrix * np.array([[(width - 1) / width], [(height - 1) / height]])
        return _square(torch.from_numpy(matrix))

    def _read(self, annotation_id: int) -> NDArray[np.floating[Any]]:
        path = self._files[str(annotation_id)]
        try:
            if path.suffix == ".npy":
                array: NDArray[np.floating[Any]] = np.load(path, allow_pickle=False)
            else:
                with safe_open(path, "numpy") as file:
                    array = file.get_tensor(str(annotation_id))
        except (OSError, ValueError, SafetensorError) as error:
            raise InputError(f"{path} cannot be read ({error}): write it again") from error
        if array.ndim != 3 or len(array) != self._num_keypoints or array.dtype not in (np.float16, np.float32):
            raise InputError(
                f"{path}: the heatmaps of annotation {annotation_id} must be ({self._num_keypoints}, h, w) float16 or "
                f"float32, got {array.dtype} {array.shape}: write them again"
            )
        return array


def _read_at(heatmaps: Tensor, crop_to_map: Tensor, size_hw: tuple[int, int]) -> Tensor:
    """(K, H, W) read where the cells of the crop's heatmaps lie -> (K, h, w), bilinear, 0 outside."""
    height, width = size_hw
    x, y = torch.meshgrid(torch.arange(width), torch.arange(height), indexing="xy")
    crop = torch.stack([x * _STRIDE, y * _STRIDE, torch.ones_like(x)], dim=-1).double()
    cells = (crop @ crop_to_map.T)[..., :2]
    extent = torch.tensor([max(heatmaps.shape[2] - 1, 1), max(heatmaps.shape[1] - 1, 1)])
    grid = (2 * cells / extent - 1).float()
    return F.grid_sample(heatmaps[None], grid[None], mode="bilinear", padding_mode="zeros", align_corners=True)[0]


def _square(matrix: Tensor) -> Tensor:
    """(2, 3) affine matrix -> (3, 3)."""
    return torch.cat([matrix, matrix.new_tensor([[0.0, 0.0, 1.0]])])


def _read_manifest(folder: Path) -> dict[str, Any]:
    file = folder / MANIFEST
    try:
        manifest = json.loads(file.read_text(encoding="utf-8"))
        if manifest["format"] != FORMAT_VERSION or not isinstance(manifest["keypoints"], str | list):
            raise ValueError(f"format {manifest['format']!r}, keypoints {manifest['keypoints']!r}")
        for box in manifest.get("boxes", {}).values():
            x1, y1, x2, y2 = (float(value) for value in box)
            if not (x1 < x2 and y1 < y2):
                raise ValueError(f"box {box}")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f'{file} must hold {{"format": {FORMAT_VERSION}, "keypoints": set or names, "boxes": {{id: [x1, y1, x2, '
            f"y2]}} if any}}, got {error!r}: see docs/teachers.md"
        ) from error
    result: dict[str, Any] = manifest
    return result


def _find_files(folder: Path) -> dict[str, Path]:
    """The file of each annotation id."""
    found = {path.stem: path for path in sorted(folder.glob("*.npy"))}
    for path in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(path, "numpy") as file:
                found |= dict.fromkeys(file.keys(), path)
        except (SafetensorError, OSError) as error:
            raise InputError(f"{path} cannot be read as safetensors ({error}): write it again") from error
    return found


def _check_unique(ids: Sequence[int]) -> None:
    if len(set(ids)) < len(ids):
        doubled = next(each for each in ids if ids.count(each) > 1)
        raise ConfigError(
            f"annotation id {doubled} stands for two people in data.train: heatmaps on disk need ids that are unique "
            "over all training sets"
        )


def _check_complete(folder: Path, ids: Sequence[int], files: Mapping[str, Path]) -> None:
    missing = [each for each in ids if str(each) not in files]
    if missing:
        raise InputError(
            f"{folder} lacks the heatmaps of {len(missing)} of {len(ids)} training people, such as annotation "
            f"{missing[0]}: write them, or leave these people out of data.train"
        )


def _fingerprint(folder: Path, files: Mapping[str, Path]) -> str:
    digest = hashlib.sha256((folder / MANIFEST).read_bytes())
    for path in sorted(set(files.values())):
        digest.update(f"{path.name} {path.stat().st_size}\n".encode())
    return digest.hexdigest()
