"""ViTPose in the layout of transformers as a source of heatmaps."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from distilpose.backends.hub import MODEL_CONFIG, PROCESSOR_CONFIG, check_complete, find_model_folder, load_whole
from distilpose.data.preprocess import IMAGENET_MEAN, IMAGENET_STD, Normalization
from distilpose.errors import CheckpointError, ConfigError
from distilpose.models.outputs import HeatmapOutput
from distilpose.skeletons import Skeleton
from distilpose.teachers.base import SourceSpec
from distilpose.teachers.checkpoint import NetworkSource, file_hash
from distilpose.types import Size

KIND = "a ViTPose model"
EXAMPLE_ID = "usyd-community/vitpose-base-simple"


def load_vitpose_source(id_or_folder: str, *, skeleton: Skeleton, dataset_index: int | None = None) -> NetworkSource:
    """Load a ViTPose model with its own input size and normalization; torchvision is not needed.

    Args:
        id_or_folder: folder written by ``save_pretrained`` (model and image processor), or a hub id.
        skeleton: of its heatmaps.
        dataset_index: which expert answers, for mixture-of-experts models.

    Raises:
        ConfigError: transformers is not installed, or the options do not fit the model.
        InputError: there is no such folder or hub id.
        CheckpointError: the folder is incomplete or holds another model.

    Source:
        ViTPose (arXiv:2204.12484), ViTPose+ (arXiv:2212.04246). Both are trained with unbiased data processing.
    """
    if find_spec("transformers") is None:
        raise ConfigError(
            f'teacher {id_or_folder} runs in transformers, which is not installed: pip install "distilpose[detect]"'
        )
    import transformers

    folder = find_model_folder(id_or_folder, f"teacher {id_or_folder}", EXAMPLE_ID)
    check_complete(folder, KIND, CheckpointError)
    input_size_hw, normalization = read_processor(folder)
    model = load_whole(transformers.VitPoseForPoseEstimation, folder, KIND, CheckpointError)
    config = model.config
    if config.num_labels != skeleton.num_keypoints:
        raise ConfigError(
            f"{folder} gives {config.num_labels} heatmaps, its keypoints are {skeleton.num_keypoints}: name all of "
            "them, in order, in teacher.keypoints"
        )
    own_size = tuple(config.backbone_config.image_size)
    if own_size != input_size_hw:
        raise CheckpointError(
            f"{folder}: its {PROCESSOR_CONFIG} makes inputs of {input_size_hw}, its model reads {own_size}: copy the "
            "folder again"
        )
    _check_dataset_index(folder, config.backbone_config.num_experts, dataset_index)
    files = [folder / MODEL_CONFIG, folder / PROCESSOR_CONFIG, *sorted(folder.glob("model*.safetensors"))]
    spec = SourceSpec(
        input_size_hw=input_size_hw,
        skeleton=skeleton,
        normalization=normalization,
        udp=True,
        description={"kind": "vitpose", "weights": file_hash(files), "dataset_index": dataset_index},
    )
    return NetworkSource(_VitPose(model, dataset_index), spec)


class _VitPose(nn.Module):
    def __init__(self, model: nn.Module, dataset_index: int | None) -> None:
        super().__init__()
        self.model = model
        self.dataset_index = dataset_index

    def forward(self, images: Tensor) -> HeatmapOutput[Tensor]:
        index = None
        if self.dataset_index is not None:
            index = torch.full((len(images),), self.dataset_index, device=images.device)
        return HeatmapOutput(self.model(pixel_values=images, dataset_index=index).heatmaps)


def read_processor(folder: Path) -> tuple[Size, Normalization]:
    """Input size and normalization out of a folder's image processor.

    Raises:
        CheckpointError: it is broken or asks for something else than a normalized image.
    """
    file = folder / PROCESSOR_CONFIG
    try:
        values: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        size = (int(values["size"]["height"]), int(values["size"]["width"]))
        scale = 255 * float(values.get("rescale_factor", 1 / 255)) if values.get("do_rescale", True) else 255.0
        mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
        if values.get("do_normalize", True):
            mean = _triple(values.get("image_mean", IMAGENET_MEAN))
            std = _triple(values.get("image_std", IMAGENET_STD))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{file} cannot be read as an image processor ({error!r}): copy it again") from error
    # (pixel / 255 * scale - mean) / std, in units of pixel / 255
    return size, Normalization(_scaled(mean, scale), _scaled(std, scale))


def _triple(values: Sequence[float]) -> tuple[float, float, float]:
    a, b, c = (float(value) for value in values)
    return a, b, c


def _scaled(values: tuple[float, float, float], scale: float) -> tuple[float, float, float]:
    return values if abs(scale - 1) < 1e-9 else _triple([value / scale for value in values])


def _check_dataset_index(folder: Path, num_experts: int, dataset_index: int | None) -> None:
    if num_experts == 1 and dataset_index is not None:
        raise ConfigError(f"{folder} has one expert: leave teacher.dataset_index out, got {dataset_index}")
    if num_experts > 1 and dataset_index is None:
        raise ConfigError(
            f"{folder} has {num_experts} experts, one for each data set: set teacher.dataset_index, which is 0 for COCO"
        )
    if dataset_index is not None and not 0 <= dataset_index < num_experts:
        raise ConfigError(f"teacher.dataset_index must lie in 0..{num_experts - 1} for {folder}, got {dataset_index}")
