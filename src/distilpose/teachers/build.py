"""From a configuration to a teacher, and what it is worth on its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from distilpose.backends.description import ModelDescription
from distilpose.backends.device import AUTO, check_settings, log_runtime, torch_device
from distilpose.backends.torch import torch_runtime
from distilpose.data.coco import PersonSample
from distilpose.data.dataset import Batch
from distilpose.data.preprocess import NetworkInput, Normalization
from distilpose.errors import ConfigError
from distilpose.models.outputs import HeatmapOutput
from distilpose.skeletons import COCO_17, name_key
from distilpose.teachers.adapter import SourceTeacher
from distilpose.teachers.base import CropSpec, HeatmapSource, SourceSpec, Teacher, teacher_skeleton
from distilpose.teachers.config import (
    CheckpointTeacher,
    EnsembleTeacher,
    HeatmapFilesTeacher,
    OnnxTeacher,
    SimccTeacher,
    TeacherConfig,
    VitPoseTeacher,
    teacher_config_from,
)
from distilpose.teachers.ensemble import Ensemble, FlipAverage
from distilpose.teachers.networks import OnnxSource, load_checkpoint_source, load_vitpose_source
from distilpose.teachers.stored_heatmaps import HeatmapFiles
from distilpose.types import Float32Array

TeacherValues = str | Mapping[str, Any]
_NETWORKS = CheckpointTeacher | VitPoseTeacher | OnnxTeacher | SimccTeacher


def open_teacher(
    values: TeacherValues,
    crops: CropSpec,
    samples: Sequence[PersonSample] = (),
    *,
    set_sizes: Sequence[int] = (),
    flip: bool = False,
) -> Teacher:
    """The teacher that stands under ``teacher`` in a configuration.

    Args:
        values: what stands there.
        crops: of the student.
        samples: the training people, for heatmaps on disk.
        set_sizes: how many of them belong to each training set, for heatmaps in a folder for each set.
        flip: average its heatmaps with those of the mirrored crops.

    Raises:
        DistilPoseError: it contradicts itself, does not fit the student, or a file or folder is unusable.
    """
    return _open(teacher_config_from(values), crops, samples, set_sizes, flip)


def _open(
    config: TeacherConfig,
    crops: CropSpec,
    samples: Sequence[PersonSample],
    set_sizes: Sequence[int],
    flip: bool,
    first: HeatmapSource | None = None,
    load: Callable[[_NETWORKS], HeatmapSource] | None = None,
) -> Teacher:
    """See `open_teacher`; ``first`` is the source of its first network, where that is loaded already."""
    load = load or load_source
    teacher: Teacher
    if isinstance(config, EnsembleTeacher):
        members = [teacher_config_from(member) for member in config.members]
        firsts = [first, *[None] * (len(members) - 1)]
        opened = [
            _open(member, crops, samples, set_sizes, False, one, load)
            for member, one in zip(members, firsts, strict=True)
        ]
        teacher = Ensemble(opened, config.weights)
    elif isinstance(config, HeatmapFilesTeacher):
        folders = [config.folder] if isinstance(config.folder, str) else config.folder
        teacher = HeatmapFiles(list(map(Path, folders)), crops, samples, config.mapping, set_sizes)
    else:
        teacher = SourceTeacher(first or load(config), crops, config.mapping, _what(config))
        flip |= config.flip
    return FlipAverage(teacher, crops.skeleton.flip_index) if flip else teacher


def load_source(config: _NETWORKS, *, device: str = AUTO, threads: int | None = None) -> HeatmapSource:
    """The network of a teacher, in its own terms; ``device`` and ``threads`` are of ONNX files, see `as_backend`.

    Raises:
        DistilPoseError: what is declared does not fit it, or its file is unusable.
    """
    if isinstance(config, CheckpointTeacher):
        return load_checkpoint_source(config.file)
    return load_vitpose_source(config) if isinstance(config, VitPoseTeacher) else OnnxSource(config, device, threads)


def _what(config: _NETWORKS) -> str:
    return f"teacher {config.model if isinstance(config, VitPoseTeacher) else config.file}"


class TeacherBackend:
    """A teacher alone as an `InferenceBackend`, to be evaluated like any model: on crops of its own size.

    Its keypoints are COCO's 17 in COCO's order if it has them all, else its own. An ensemble is asked at the crops of
    its first member. ``flip`` averages its heatmaps with those of the mirrored crops. ``device`` and ``threads`` are
    those of `as_backend`.

    Raises:
        ConfigError: it contradicts itself, is no network, or its keypoints are neither a known set nor all of COCO's.
        DistilPoseError: a model file or folder is unusable.
    """

    def __init__(
        self, values: TeacherValues, *, flip: bool = False, device: str | None = None, threads: int | None = None
    ) -> None:
        config = teacher_config_from(values)
        network = _first_network(config)
        check_settings(threads)
        self._device = torch.device(torch_device(device or AUTO))
        if threads is not None:
            torch.set_num_threads(threads)
        load = partial(load_source, device=device or AUTO, threads=threads)
        source = load(network)
        crops = _own_crops(network, source.spec)
        self._teacher = _open(config, crops, (), (), flip, source, load)
        self._teacher.to(self._device)
        if isinstance(network, CheckpointTeacher | VitPoseTeacher):  # ONNX Runtime says it of itself
            log_runtime(_what(network), torch_runtime(self._device))
        if not all(self._teacher.keypoint_mask):
            raise ConfigError(
                f"a teacher is evaluated on all keypoints of {crops.skeleton.name}, it lacks some of them: "
                "name them in 'mapping', or train with it only"
            )
        heatmaps = self._ask(torch.zeros(1, 3, *crops.size_hw))
        self.teacher_description = self._teacher.description
        self.description = ModelDescription(
            model="teacher",
            output="heatmap",
            input_size_hw=crops.size_hw,
            heatmap_size_hw=(heatmaps.shape[-2], heatmaps.shape[-1]),
            normalization=crops.normalization,
            skeleton=crops.skeleton,
        )

    def __call__(self, images: NetworkInput) -> HeatmapOutput[Float32Array]:
        """(B, 3, H, W) normalized crops -> heatmaps."""
        return HeatmapOutput(self._ask(torch.from_numpy(images)).float().numpy())

    def _ask(self, images: torch.Tensor) -> torch.Tensor:
        images = images.to(self._device)
        nothing = torch.zeros(len(images), len(self._teacher.keypoint_mask), device=self._device)
        index = torch.zeros(len(images), dtype=torch.int64, device=self._device)
        batch = Batch(images, nothing[..., None].expand(-1, -1, 2), nothing, nothing > 0, index, index)
        with torch.inference_mode():
            return self._teacher(batch).heatmaps.cpu()


def _first_network(config: TeacherConfig) -> _NETWORKS:
    """Of a teacher or of an ensemble, perhaps of ensembles, all of whose members must be networks."""
    if isinstance(config, HeatmapFilesTeacher):
        raise ConfigError("heatmaps on disk belong to training people: there is no network to evaluate")
    if isinstance(config, EnsembleTeacher):
        first, *_ = [_first_network(teacher_config_from(member)) for member in config.members]
        return first
    return config


def _own_crops(config: _NETWORKS, spec: SourceSpec) -> CropSpec:
    own = {name_key(name) for name in spec.skeleton.keypoint_names}
    if all(name in config.mapping or name_key(name) in own for name in COCO_17.keypoint_names):
        return CropSpec(spec.input_size_hw, COCO_17, Normalization())
    if not isinstance(config, CheckpointTeacher) and config.keypoints is not None:
        # It is measured with what its keypoints leave out: now that is said.
        teacher_skeleton(config.keypoints, _what(config), only_labels=False)
    return CropSpec(spec.input_size_hw, spec.skeleton, Normalization())
