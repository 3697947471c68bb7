"""Heatmaps on disk, ``heatmaps.json`` and ``ID.npy`` for each annotation, as a teacher (docs/teachers.md).

`distilpose label --heatmaps` writes such a folder.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from distilpose.backends.foreign import foreign_skeleton
from distilpose.data.coco import PersonSample
from distilpose.data.dataset import Batch
from distilpose.data.files import finite_numbers, read_json, shortened
from distilpose.errors import ConfigError, InputError
from distilpose.files import write_file_atomically
from distilpose.geometry import CropTransform
from distilpose.models.base import TokenLayout
from distilpose.models.outputs import HeatmapOutput
from distilpose.skeletons import Skeleton
from distilpose.teachers.adapter import Placement
from distilpose.teachers.base import CropSpec, match_keypoints
from distilpose.types import Float32Array, Size

logger = logging.getLogger(__name__)

MANIFEST = "heatmaps.json"
FORMAT_VERSION = 1
_FARTHEST = 1e9  # pixels of a box; products of farther ones leave the range of numbers


class Manifest(NamedTuple):
    """What ``heatmaps.json`` says."""

    keypoints: str | list[str]  # of the arrays, in their order: a known set or the names
    udp: bool  # cells are counted from center to center of the outermost ones (`SourceSpec.udp`)
    # by annotation id, x1, y1, x2, y2 in image pixels that its heatmaps cover, x1 at cell 0 and x2 at cell w; others
    # cover the crop that the package itself would cut of `PersonSample.box_xyxy` in the heatmap's aspect
    boxes: Mapping[str, Sequence[float]]


def read_manifest(folder: Path) -> Manifest:
    """What a folder says of itself; an `InputError` if ``heatmaps.json`` is missing, broken or unknown to us."""
    file = folder / MANIFEST
    expected = (
        f'{{"format": {FORMAT_VERSION}, "keypoints": set or names, "udp": true or false, "boxes": {{id: [x1, y1, x2, '
        "y2]}}, the last two if needed (docs/teachers.md)"
    )
    values = read_json(file, expected, InputError)
    if not isinstance(values, dict):
        raise InputError(f"{file} must hold {expected}, got a {type(values).__name__}")
    known: dict[str, Any] = {"format": None, "keypoints": None, "udp": False, "boxes": {}}
    wrong, values = sorted(set(values) - set(known)), known | values
    keypoints, boxes = values["keypoints"], values["boxes"]
    names = [keypoints] if isinstance(keypoints, str) else keypoints
    good = {
        "format": values["format"] == FORMAT_VERSION and not isinstance(values["format"], bool),
        "keypoints": isinstance(names, list) and bool(names) and all(isinstance(name, str) for name in names),
        "udp": isinstance(values["udp"], bool),
        "boxes": isinstance(boxes, dict),
    }
    wrong += [name for name, right in good.items() if not right]
    if wrong:
        unknown = "the unknown " if wrong[0] not in known else ""
        raise InputError(f"{file} must hold {expected}, got {unknown}{wrong[0]} {shortened(values[wrong[0]])}")
    for name, box in boxes.items():
        sides = finite_numbers(box, 4)
        if sides is None or np.abs(sides).max() > _FARTHEST or (sides[:2] >= sides[2:]).any():
            raise InputError(f"{file} must hold {expected}, got box {shortened(box)} of {name[:40]}")
    return Manifest(keypoints, values["udp"], boxes)


def write_manifest(folder: Path, keypoints: Sequence[str], boxes_xyxy: Mapping[int, Sequence[float]]) -> None:
    """Write ``heatmaps.json`` for heatmaps with these keypoints that cover these boxes, by annotation id."""
    values = {"format": FORMAT_VERSION, "keypoints": list(keypoints), "boxes": dict(boxes_xyxy)}
    with write_file_atomically(folder / MANIFEST) as part:
        part.write_text(json.dumps(values), encoding="utf-8")


def write_heatmaps(folder: Path, annotation_id: int, heatmaps: Float32Array) -> None:
    """Write the heatmaps (K, h, w) of one annotation, in float16."""
    with write_file_atomically(folder / f"{annotation_id}.npy") as part:
        np.save(part, heatmaps.astype(np.float16))


class _Person(NamedTuple):
    folder: Path  # that holds the heatmaps
    annotation_id: int

    @property
    def file(self) -> Path:
        return self.folder / f"{self.annotation_id}.npy"


class HeatmapFiles:
    """Heatmaps on disk, moved into each training crop by its own transform: turned, scaled, mirrored like the pixels.

    They do not know how the crop's colors were changed, what lies outside their box is 0, and their blobs grow and
    shrink with the person in the crop. A mirrored crop reads the other side's heatmaps, so of a pair both are taught or
    none. All headers are read at once, so that broken files are found before training.

    ``folders`` are one of all training people, the ``samples`` in the order of `Batch.sample_index`, or one for each
    training set, of which ``set_sizes`` says how many samples belong to it. ``mapping`` leads from the student's
    keypoint to the files', where their names differ.

    Raises:
        ConfigError: the keypoints do not fit, there are no people, there are not as many folders as training sets, or
            an annotation id stands for two people of one folder.
        InputError: a folder is broken, or lacks a person.
    """

    def __init__(
        self,
        folders: Sequence[Path],
        crops: CropSpec,
        samples: Sequence[PersonSample],
        mapping: Mapping[str, str] | None = None,
        set_sizes: Sequence[int] = (),
    ) -> None:
        named = " and ".join(map(str, folders))
        if not samples:
            raise ConfigError(
                f"{named}: heatmaps on disk belong to training people, got none: pass the training samples"
            )
        self._people = _people_of_folders(folders, samples, set_sizes)
        self._manifests = {each: read_manifest(each) for each in folders}
        keypoints = self._manifests[folders[0]].keypoints
        other = next((each for each in folders if self._manifests[each].keypoints != keypoints), None)
        if other is not None:
            raise ConfigError(
                f"teacher: all folders of heatmaps must have the same keypoints in one order, got "
                f"{shortened(keypoints)} in {folders[0]} and {shortened(self._manifests[other].keypoints)} in {other}"
            )
        skeleton = foreign_skeleton(str(folders[0] / MANIFEST), keypoints, None, "teacher")
        self._num_keypoints = skeleton.num_keypoints
        mapped = match_keypoints(crops.skeleton, skeleton, mapping or {}, f"teacher {named}")
        self._index = torch.from_numpy(mapped.index)
        self._flip_index = torch.from_numpy(crops.skeleton.flip_index)
        self._keypoint_mask = _check_sides(f"teacher {named}", crops.skeleton, self._index >= 0)
        sizes_hw = {(maps.shape[1], maps.shape[2]) for maps in map(self._open, self._people)}
        self._crop_hw, self._samples = crops.size_hw, samples
        self._size_hw = _cells_of_crop(crops.size_hw, sizes_hw)
        self.description: Mapping[str, Any] = {
            "kind": "heatmaps",
            "files": self._fingerprint(),
            "mapping": self._index.tolist(),
            "cells": list(self._size_hw),
        }
        self.keypoint_mask = tuple(self._keypoint_mask.tolist())
        self.tokens: TokenLayout | None = None
        self.reads_images = False

    def __call__(self, batch: Batch) -> HeatmapOutput[Tensor]:
        """B crops -> heatmaps (B, K, h, w), in cells of about the files' size; an `InputError` for a broken array."""
        assert batch.image_to_crop is not None
        matrices = batch.image_to_crop.cpu().double()  # Apple's GPUs have no float64
        rows = [self._warp(int(index), matrix) for index, matrix in zip(batch.sample_index, matrices, strict=True)]
        return HeatmapOutput(torch.stack(rows).to(batch.images.device))

    def _fingerprint(self) -> str:
        """Of the manifests, and names and sizes of the files: what is in the arrays is not read for it."""
        digest = hashlib.sha256()
        for folder in self._manifests:
            digest.update((folder / MANIFEST).read_bytes())
            for path in sorted(person.file for person in self._people if person.folder == folder):
                digest.update(f"{path.name} {path.stat().st_size}\n".encode())
        return digest.hexdigest()

    def _open(self, person: _Person) -> NDArray[Any]:
        """(K, h, w) float16 or float32 of one annotation, mapped into memory: only the header is read."""
        what = f"{person.file}: the heatmaps of annotation {person.annotation_id}"
        try:
            array = np.lib.format.open_memmap(person.file, mode="r")
        except FileNotFoundError as error:
            people = [each for each in self._people if each.folder == person.folder]
            missing = [each for each in people if not each.file.is_file()]
            raise InputError(
                f"{person.folder} lacks the heatmaps of {len(missing)} of {len(people)} training people, such as "
                f"annotation {person.annotation_id}: write them, or leave these people out of data.train"
            ) from error
        except (OSError, ValueError) as error:
            raise InputError(f"{what} cannot be read ({str(error)[:200]}): write them again") from error
        right = array.ndim == 3 and 0 not in array.shape and array.dtype.name in ("float16", "float32")
        if not right or len(array) != self._num_keypoints:
            expected = f"({self._num_keypoints}, h, w) float16 or float32"
            raise InputError(f"{what} must be {expected}, got {array.dtype} {array.shape}: write them again")
        return array

    def _warp(self, index: int, image_to_crop: Tensor) -> Tensor:
        """(K, h, w) of one crop."""
        person = self._people[index]
        heatmaps = torch.from_numpy(np.array(self._open(person), dtype=np.float32))
        if not heatmaps.isfinite().all():
            raise InputError(
                f"{person.file}: the heatmaps of annotation {person.annotation_id} must be finite, got NaN or "
                "infinity: write them again"
            )
        ordered = heatmaps[self._index.clamp(min=0)]
        ordered[~self._keypoint_mask] = 0
        if torch.linalg.det(image_to_crop[:, :2]) < 0:  # a mirrored crop: left is right there
            ordered = ordered[self._flip_index]
        image_to_map = self._image_to_map(index, (heatmaps.shape[1], heatmaps.shape[2]))
        return _read_at(ordered, image_to_map @ _square(image_to_crop).inverse(), self._crop_hw, self._size_hw)

    def _image_to_map(self, index: int, map_hw: Size) -> Tensor:
        """(3, 3) image pixels -> cells of a person's heatmap."""
        height, width = map_hw
        person = self._people[index]
        manifest = self._manifests[person.folder]
        box = manifest.boxes.get(str(person.annotation_id))
        if box is None:
            matrix = CropTransform.from_box(self._samples[index].box_xyxy, map_hw).matrix
        else:
            x1, y1, x2, y2 = box
            across, down = width / (x2 - x1), height / (y2 - y1)
            matrix = np.array([[across, 0, -x1 * across], [0, down, -y1 * down]])
        if manifest.udp:
            matrix = matrix * np.array([[(width - 1) / width], [(height - 1) / height]])
        return _square(torch.from_numpy(matrix))


def _people_of_folders(
    folders: Sequence[Path], samples: Sequence[PersonSample], set_sizes: Sequence[int]
) -> list[_Person]:
    if len(folders) not in (1, len(set_sizes)):
        raise ConfigError(
            f"teacher.folder must be one folder, or one for each of the {len(set_sizes)} sets of data.train, "
            f"got {len(folders)}"
        )
    by_sample = [folders[0]] * len(samples)
    if len(folders) > 1:
        by_sample = [folder for folder, size in zip(folders, set_sizes, strict=True) for _ in range(size)]
    people = [_Person(folder, each.annotation_id) for folder, each in zip(by_sample, samples, strict=True)]
    doubled = next((person for person, count in Counter(people).items() if count > 1), None)
    if doubled is not None:
        raise ConfigError(
            f"annotation id {doubled.annotation_id} stands for two people whose heatmaps would lie in "
            f"{doubled.folder}: give each training set a folder of its own, "
            "folder: [FIRST, SECOND, ...] in the order of data.train"
        )
    return people


def _cells_of_crop(crop_hw: Size, sizes_hw: Iterable[Size]) -> Size:
    """(h, w) for all crops: those of the finest heatmaps, as coarser ones miss peaks, less what lies beside a crop."""
    height, width = max(sizes_hw, key=lambda size: (size[0] * size[1], size))
    down, across = Placement.fit(crop_hw, (height, width)).share_hw
    return max(1, round(down * height)), max(1, round(across * width))


def _read_at(heatmaps: Tensor, crop_to_map: Tensor, crop_hw: Size, size_hw: Size) -> Tensor:
    """(K, H, W) read where the cells of the crop's heatmaps lie -> (K, h, w), bilinear, 0 outside."""
    height, width = size_hw
    x = torch.arange(width, dtype=torch.float64) * (crop_hw[1] / width)
    y = torch.arange(height, dtype=torch.float64) * (crop_hw[0] / height)
    x, y = torch.meshgrid(x, y, indexing="xy")
    crop = torch.stack([x, y, torch.ones_like(x)], dim=-1)
    cells = (crop @ crop_to_map.T)[..., :2]
    extent = torch.tensor([max(heatmaps.shape[2] - 1, 1), max(heatmaps.shape[1] - 1, 1)])
    grid = (2 * cells / extent - 1).float()
    return F.grid_sample(heatmaps[None], grid[None], mode="bilinear", padding_mode="zeros", align_corners=True)[0]


def _square(matrix: Tensor) -> Tensor:
    """(2, 3) affine matrix -> (3, 3)."""
    return torch.cat([matrix, matrix.new_tensor([[0.0, 0.0, 1.0]])])


def _check_sides(what: str, skeleton: Skeleton, known: Tensor) -> Tensor:
    """(K,) mask of the keypoints that are taught, those known on both sides; a `ConfigError` if there is none."""
    mask = known & known[torch.from_numpy(skeleton.flip_index)]
    one_sided = ", ".join(skeleton.keypoint_names[at] for at in (known & ~mask).nonzero().flatten().tolist())
    if not mask.any():
        raise ConfigError(
            f"{what} knows only one side of {one_sided}, and mirrored crops need both: name the other side in 'mapping'"
        )
    if one_sided:
        text = "%s knows %s, but not the other side, which mirrored crops need: they are learned from labels alone"
        logger.warning(text, what, one_sided)
    return mask
