"""Torch networks as sources of heatmaps: our own, ViTPose, and any module that says how it is fed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor, nn

from distilpose.backends.address import ForeignOptions
from distilpose.backends.checkpoint import load_checkpoint
from distilpose.backends.description import ModelDescription
from distilpose.data.preprocess import Normalization
from distilpose.errors import ConfigError
from distilpose.models.base import HeatmapModel
from distilpose.models.outputs import HeatmapOutput
from distilpose.teachers.base import SourceSpec
from distilpose.teachers.config import VitPoseTeacher
from distilpose.teachers.keypoints import unnamed_skeleton


class NetworkSource:
    """A torch module (images -> `HeatmapOutput`) as a source: frozen, in evaluation mode, channels last."""

    def __init__(self, module: nn.Module, spec: SourceSpec) -> None:
        self._module = module.eval().requires_grad_(False)
        self._module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stub lacks it
        self.spec = spec

    def __call__(self, images: Tensor) -> HeatmapOutput[Tensor]:
        """(B, 3, H, W) -> what the module says."""
        output: HeatmapOutput[Tensor] = self._module(images)
        return output

    def to(self, device: torch.device) -> None:
        """Move the module."""
        self._module.to(device)


def load_checkpoint_source(file: str | Path) -> NetworkSource:
    """A heatmap model of our own.

    Raises:
        DistilPoseError: the file is unusable, or holds a student.
    """
    model = load_checkpoint(file)
    if not isinstance(model, HeatmapModel):
        raise ConfigError(
            f"teacher must be a heatmap model, such as tokenpose_*, got the {type(model).__name__} in {file}: name the "
            "teacher's checkpoint"
        )
    return model_source(model, file_hash([Path(file)]))


def load_vitpose_source(config: VitPoseTeacher) -> NetworkSource:
    """ViTPose in the layout of transformers, with the errors of `load_vitpose`."""
    from distilpose.backends.vitpose import load_vitpose

    keypoints = config.keypoints if isinstance(config.keypoints, str) else ",".join(config.keypoints)
    options = ForeignOptions(keypoints=keypoints, dataset_index=config.dataset_index)
    try:
        loaded = load_vitpose(config.model, options)
    except ConfigError as error:
        raise ConfigError(f"teacher {error}") from error
    known = loaded.description
    description = {"kind": "vitpose", "weights": file_hash(loaded.files), "dataset_index": config.dataset_index}
    normalization = known.normalization or Normalization()
    spec = SourceSpec(known.input_size_hw, known.skeleton, normalization, udp=known.udp, description=description)
    return NetworkSource(loaded.module, spec)


def model_source(model: HeatmapModel, weights: str | None = None) -> NetworkSource:
    """A heatmap model that is already there; ``weights`` tells its weights from others."""
    skeleton, normalization = unnamed_skeleton(model.num_keypoints), Normalization()
    known = getattr(model, "description", None)
    if isinstance(known, ModelDescription):
        skeleton, normalization = known.skeleton, known.normalization or normalization
    description = {"kind": "checkpoint", "weights": weights}
    spec = SourceSpec(model.input_size_hw, skeleton, normalization, tokens=model.token_layout, description=description)
    return NetworkSource(model, spec)


def file_hash(files: Iterable[Path]) -> str:
    """SHA-256 of what the files hold, one after the other."""
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            hashlib.file_digest(file, lambda: digest)  # in blocks: weights may be larger than what memory is left
    return digest.hexdigest()
