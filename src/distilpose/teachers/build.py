"""From a configuration to a teacher, and what it is worth on its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from distilpose.backends.description import ModelDescription
from distilpose.backends.device import AUTO, check_settings, log_runtime, torch_device
from distilpose.backends.foreign import foreign_skeleton
from distilpose.backends.torch import torch_runtime
from distilpose.data.coco import PersonSample
from distilpose.data.dataset import Batch
from distilpose.data.preprocess import NetworkInput, Normalization
from distilpose.errors import ConfigError
from distilpose.models.outputs import HeatmapOutput
from distilpose.skeletons import COCO_17, name_key
from distilpose.teachers import config as kinds
from distilpose.teachers.adapter import Ensemble, FlipAverage, SourceTeacher
from distilpose.teachers.base import CropSpec, HeatmapSource, SourceSpec, Teacher
from distilpose.teachers.networks import OnnxSource, load_checkpoint_source, load_vitpose_source
from distilpose.teachers.stored_heatmaps import HeatmapFiles
from distilpose.types import Float32Array

TeacherValues = str | Mapping[str, Any]
_Network = kinds.CheckpointTeacher | kinds.VitPoseTeacher | kinds.OnnxTeacher | kinds.SimccTeacher


def open_teacher(
    values: TeacherValues,
    crops: CropSpec,
    samples: Sequence[PersonSample] = (),
    *,
    set_sizes: Sequence[int] = (),
    flip: bool = False,
    load: Callable[[_Network], HeatmapSource] | None = None,
) -> Teacher:
    """The teacher that stands under ``teacher`` in a configuration, for the ``crops`` of a student.

    Heatmaps on disk need the training people, and in a folder for each training set how many of them belong to each.
    ``flip`` averages its heatmaps with those of the mirrored crops. ``load`` gives the networks, in the order in which
    they are named; `load_source` does when None.

    Raises:
        DistilPoseError: it contradicts itself, does not fit the student, or a file or folder is unusable.
    """
    config = kinds.teacher_config_from(values)
    teacher: Teacher
    if isinstance(config, kinds.EnsembleTeacher):
        members = [open_teacher(each, crops, samples, set_sizes=set_sizes, load=load) for each in config.members]
        teacher = Ensemble(members, config.weights)
    elif isinstance(config, kinds.HeatmapFilesTeacher):
        folders = [config.folder] if isinstance(config.folder, str) else config.folder
        teacher = HeatmapFiles(list(map(Path, folders)), crops, samples, config.mapping, set_sizes)
    else:
        teacher = SourceTeacher((load or load_source)(config), crops, config.mapping, _what(config))
        flip |= config.flip
    return FlipAverage(teacher, crops.skeleton.flip_index) if flip else teacher


def load_source(config: _Network, *, device: str = AUTO, threads: int | None = None) -> HeatmapSource:
    """The network of a teacher, in its own terms (device, threads: of ONNX files); a `DistilPoseError` if unusable."""
    if isinstance(config, kinds.CheckpointTeacher):
        return load_checkpoint_source(config.file)
    if isinstance(config, kinds.VitPoseTeacher):
        return load_vitpose_source(config)
    return OnnxSource(config, device, threads)


def _what(config: _Network) -> str:
    return f"teacher {config.model if isinstance(config, kinds.VitPoseTeacher) else config.file}"


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
        network = _first_network(kinds.teacher_config_from(values))
        check_settings(threads)
        self._device = torch.device(torch_device(device or AUTO))
        if threads is not None:
            torch.set_num_threads(threads)
        load = partial(load_source, device=device or AUTO, threads=threads)
        first = [load(network)]
        crops = _own_crops(network, first[0].spec)
        self._teacher = open_teacher(values, crops, flip=flip, load=lambda each: first.pop() if first else load(each))
        if isinstance(network, kinds.CheckpointTeacher | kinds.VitPoseTeacher):  # ONNX Runtime says it of itself
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


def _first_network(config: kinds.TeacherConfig) -> _Network:
    """Of a teacher or of an ensemble, perhaps of ensembles, all of whose members must be networks."""
    if isinstance(config, kinds.HeatmapFilesTeacher):
        raise ConfigError("heatmaps on disk belong to training people: there is no network to evaluate")
    if isinstance(config, kinds.EnsembleTeacher):
        first, *_ = [_first_network(kinds.teacher_config_from(member)) for member in config.members]
        return first
    return config


def _own_crops(config: _Network, spec: SourceSpec) -> CropSpec:
    own = {name_key(name) for name in spec.skeleton.keypoint_names}
    if all(name in config.mapping or name_key(name) in own for name in COCO_17.keypoint_names):
        return CropSpec(spec.input_size_hw, COCO_17, Normalization())
    if not isinstance(config, kinds.CheckpointTeacher) and config.keypoints is not None:
        # It is measured with what its keypoints leave out: now that is said.
        foreign_skeleton(_what(config), config.keypoints, None, only_labels=False)
    return CropSpec(spec.input_size_hw, spec.skeleton, Normalization())
