"""ViTPose in the layout of transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from distilpose.backends.address import ForeignOptions
from distilpose.backends.description import ModelDescription, Triple, triple
from distilpose.backends.foreign import foreign_skeleton
from distilpose.backends.hub import MODEL_CONFIG, PROCESSOR_CONFIG, check_complete, find_model_folder, load_whole
from distilpose.data.preprocess import IMAGENET_MEAN, IMAGENET_STD, Normalization
from distilpose.errors import CheckpointError, ConfigError, require_package
from distilpose.models.outputs import HeatmapOutput
from distilpose.types import Size

KIND = "a ViTPose model"
EXAMPLE_ID = "usyd-community/vitpose-base-simple"
_USUAL = (("image_mean", IMAGENET_MEAN), ("image_std", IMAGENET_STD))


class VitPose(NamedTuple):
    """A ViTPose model: a module (B, 3, H, W) -> `HeatmapOutput`, its description, and the files that it depends on."""

    module: nn.Module
    description: ModelDescription
    files: tuple[Path, ...]


def load_vitpose(id_or_folder: str, options: ForeignOptions | None = None) -> VitPose:
    """Load a ViTPose model with its own input size and normalization; torchvision is not needed.

    It is a folder written by ``save_pretrained`` (model and image processor), or a hub id. Of the options
    ``keypoints``, ``padding`` and ``dataset_index`` are read; models with several experts need the last.

    Raises:
        ConfigError: transformers is not installed, or the options do not fit the model.
        InputError: there is no such folder or hub id.
        CheckpointError: the folder is incomplete or holds another model.

    Source:
        ViTPose (arXiv:2204.12484), ViTPose+ (arXiv:2212.04246); both are trained with unbiased data processing.
    """
    require_package("transformers", id_or_folder)
    import transformers

    options = options or ForeignOptions()
    folder = find_model_folder(id_or_folder, id_or_folder, EXAMPLE_ID)
    check_complete(folder, KIND, CheckpointError)
    input_size_hw, normalization = read_processor(folder)
    model = load_whole(transformers.VitPoseForPoseEstimation, folder, KIND, CheckpointError)
    config = model.config
    own_size = tuple(config.backbone_config.image_size)
    if own_size != input_size_hw:
        raise CheckpointError(
            f"{folder}: its {PROCESSOR_CONFIG} makes inputs of {input_size_hw}, its model reads {own_size}: copy the "
            "folder again"
        )
    experts, index = config.backbone_config.num_experts, options.dataset_index
    if (index is None) != (experts == 1) or not 0 <= (index or 0) < experts:
        raise ConfigError(
            f"{folder} has one expert: leave dataset_index out, got {index}"
            if experts == 1
            else f"{folder} has {experts} experts, one for each data set: set dataset_index in 0..{experts - 1}, which "
            f"is 0 for COCO, got {index}"
        )
    module = _Heatmaps(model, options.dataset_index).eval()
    with torch.inference_mode():
        heatmaps = module(torch.zeros(1, 3, *input_size_hw)).heatmaps
    description = ModelDescription(
        model=f"vitpose {folder.name}",
        output="heatmap",
        input_size_hw=input_size_hw,
        heatmap_size_hw=(heatmaps.shape[-2], heatmaps.shape[-1]),
        normalization=normalization,
        skeleton=foreign_skeleton(str(folder), options.keypoints, heatmaps.shape[1]),
        padding=options.padding,
        udp=True,
    )
    files = (folder / MODEL_CONFIG, folder / PROCESSOR_CONFIG, *sorted(folder.glob("model*.safetensors")))
    return VitPose(module, description, files)


class _Heatmaps(nn.Module):
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
    """Input size and normalization out of a folder's image processor; a broken one is a `CheckpointError`."""
    file = folder / PROCESSOR_CONFIG
    try:
        values: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        size = (int(values["size"]["height"]), int(values["size"]["width"]))
        scale = 255 * float(values.get("rescale_factor", 1 / 255)) if values.get("do_rescale", True) else 255.0
        mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
        if values.get("do_normalize", True):
            mean, std = (triple(values.get(key, usual)) for key, usual in _USUAL)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{file} cannot be read as an image processor ({error!r:.200}): copy it again") from error
    # (pixel / 255 * scale - mean) / std, in units of pixel / 255
    return size, Normalization(_scaled(mean, scale), _scaled(std, scale))


def _scaled(values: Triple, scale: float) -> Triple:
    return values if abs(scale - 1) < 1e-9 else triple(value / scale for value in values)
