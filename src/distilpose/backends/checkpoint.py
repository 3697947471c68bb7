"""Model files: our own self-describing safetensors, hub folders, and the released ``.pth`` layout."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import torch
from huggingface_hub import PyTorchModelHubMixin, hf_hub_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from distilpose.backends.base import check_digest, described, first_line, stamp_digest
from distilpose.backends.description import METADATA_KEY, ModelDescription, parse_description
from distilpose.data.preprocess import Normalization
from distilpose.errors import CheckpointError, ConfigError
from distilpose.files import write_file_atomically
from distilpose.models import create_model
from distilpose.models.base import HeatmapModel, PoseModel
from distilpose.models.outputs import CELL
from distilpose.skeletons import COCO_17, Skeleton

HUB_WEIGHTS_NAME = "model.safetensors"
HUB_CONFIG_NAME = "config.json"
_MAX_LISTED = 12
# Released name -> own name.
_RELEASED_NAMES = [
    (r"^keypoint_head\.tokenpose\.mlp_head\.1\.", "head.up."),
    (r"^keypoint_head\.(?:tokenhead|tokenpose)\.", ""),
    (r"^keypoint_token$", "encoder.keypoint_tokens"),
    (r"^pos_embedding$", "encoder.position"),
    (r"^patch_to_embedding\.", "encoder.patch_embedding."),
    (r"^transformer\.layers\.(\d+)\.", r"encoder.blocks.\1."),
    (r"\.0\.fn\.norm\.", ".attention_norm."),
    (r"\.0\.fn\.fn\.to_qkv\.", ".qkv."),
    (r"\.0\.fn\.fn\.to_out\.0\.", ".attention_out."),
    (r"\.1\.fn\.norm\.", ".mlp_norm."),
    (r"\.1\.fn\.fn\.net\.0\.", ".mlp_up."),
    (r"\.1\.fn\.fn\.net\.3\.", ".mlp_down."),
    (r"^mlp_head\.0\.", "head.norm."),
    (r"^mlp_head\.1\.", "head.linear."),
    (r"^mlp_head\.2\.", "head.hidden_norm."),
    (r"^mlp_head\.3\.", "head.out."),
]


def describe(
    model: nn.Module, *, skeleton: Skeleton | None = None, training: Mapping[str, Any] | None = None
) -> ModelDescription:
    """What a model expects and returns, and the keypoints (COCO's when None) and facts of its training.

    A model that was loaded keeps the description of its file; one from `create_model` gets the defaults.

    Raises:
        ConfigError: the model did not come from `create_model`, or the skeleton does not fit it.
    """
    if not isinstance(model, PoseModel) or model.preset is None:
        raise ConfigError(
            f"only models from distilpose.create_model or load_model describe themselves, got {type(model).__name__}"
        )
    known = getattr(model, "description", None)
    if not isinstance(known, ModelDescription):
        height, width = model.input_size_hw
        known = ModelDescription(
            model=model.preset,
            output="heatmap" if isinstance(model, HeatmapModel) else "regression",
            input_size_hw=(height, width),
            heatmap_size_hw=model.heatmap_size_hw
            if isinstance(model, HeatmapModel)
            else (height // CELL, width // CELL),
            options=dict(model.preset_options),
            normalization=Normalization(*model.backbone.normalization or ()),
            skeleton=skeleton or COCO_17,
        )
    known = replace(known, skeleton=skeleton or known.skeleton, training=dict(training or known.training))
    if known.skeleton.num_keypoints != model.num_keypoints:
        raise ConfigError(
            f"the model has {model.num_keypoints} keypoints, the skeleton {known.skeleton.name!r} has "
            f"{known.skeleton.num_keypoints}: pass the skeleton that the model was built for, "
            "describe(model, skeleton=...); trained checkpoints know theirs"
        )
    return known


def save_checkpoint(
    model: PoseModel,
    path: str | Path,
    *,
    skeleton: Skeleton | None = None,
    training: Mapping[str, Any] | None = None,
    half: bool = False,
) -> Path:
    """Write a model with its description into one safetensors file, atomically, and return its path.

    Args:
        model: from `create_model` or `load_checkpoint`.
        path: the file to write; its folder is made.
        skeleton: of the training data, when it is not COCO's.
        training: JSON values worth knowing about the run (data, steps, measured AP).
        half: write float16, half the size; loading gives float32 again.

    Raises:
        ConfigError: the model cannot describe itself (see `describe`).
        InputError: the file cannot be written.
    """
    path = Path(path)
    metadata = {METADATA_KEY: described(describe(model, skeleton=skeleton, training=training))}
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    if half:
        tensors = {name: value.half() if value.is_floating_point() else value for name, value in tensors.items()}
    with write_file_atomically(path) as part:
        try:
            save_file(tensors, part, metadata=metadata)
        except SafetensorError as error:  # its own type, for a full disk too
            raise OSError(str(error)) from error
        stamp_digest([part])
    return path


def load_checkpoint(path: str | Path) -> PoseModel:
    """Build a model from our safetensors or a released ``.pth``: in evaluation mode, float32, on the CPU.

    Raises:
        CheckpointError: the file is missing, broken, foreign, newer, or does not match its model.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path} is not a file: expected a .safetensors or a released .pth checkpoint")
    if path.suffix in (".pth", ".pt", ".ckpt"):
        return convert_released(path)
    tensors, description = _read_safetensors(path)
    return _build(path, description, tensors)


def read_description(path: str | Path) -> ModelDescription:
    """The description inside one of our safetensors files, without its weights."""
    return _read_safetensors(Path(path), weights=False)[1]


class HubModel(nn.Module, PyTorchModelHubMixin, library_name="distilpose", tags=["pose-estimation"]):
    """A pose model with Hugging Face's ``save_pretrained``, ``from_pretrained`` and ``push_to_hub``.

    A folder holds one self-describing ``model.safetensors``; ``config.json`` repeats its description for readers and
    for the hub, and is not read back.

    Example:
        >>> HubModel(model).save_pretrained("my-model")  # doctest: +SKIP
        >>> model = HubModel.from_pretrained("my-model").model  # doctest: +SKIP
    """

    def __init__(self, model: PoseModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Any:
        """What the model returns."""
        return self.model(images)

    def _save_pretrained(self, save_directory: Path) -> None:
        save_checkpoint(self.model, save_directory / HUB_WEIGHTS_NAME)
        config = {METADATA_KEY: describe(self.model).to_dict()}
        with write_file_atomically(save_directory / HUB_CONFIG_NAME) as part:
            part.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def _from_pretrained(cls, *, model_id: str, **options: Any) -> Self:
        if Path(model_id).is_dir():
            return cls(load_checkpoint(Path(model_id) / HUB_WEIGHTS_NAME))
        known = ("revision", "cache_dir", "force_download", "local_files_only", "token")
        download = {name: options[name] for name in known if name in options}
        return cls(load_checkpoint(hf_hub_download(model_id, HUB_WEIGHTS_NAME, **download)))


def load_from_hub(hub_id: str) -> PoseModel:
    """Load a model from a hub id such as ``"org/name"``, or from the cache when the hub cannot be reached.

    A `CheckpointError` says that it is in neither.
    """
    try:
        return HubModel.from_pretrained(hub_id).model
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        raise CheckpointError(
            f"{hub_id!r} is no file or folder here, and no model of that id could be fetched ({type(error).__name__}): "
            "check the spelling and the network, or pass a file"
        ) from error


def _read_safetensors(path: Path, *, weights: bool = True) -> tuple[dict[str, Tensor], ModelDescription]:
    try:
        with safe_open(path, "pt") as file:
            text = (file.metadata() or {}).get(METADATA_KEY)
            description = parse_description(path, text)
            tensors = {name: file.get_tensor(name) for name in (file.keys() if weights else ())}
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path} cannot be read as safetensors ({first_line(error)}): broken, cut short, or another format"
        ) from error
    if weights:
        check_digest(text, [path])
    return tensors, description


def _build(path: Path, description: ModelDescription, tensors: Mapping[str, Tensor]) -> PoseModel:
    try:
        with torch.device("meta"):  # without memory: what a description asks for may not be what the file holds
            shapes = {name: value.shape for name, value in _create(description).state_dict().items()}
        check_tensors(path, f"a {description.model}", shapes, tensors)
        model = _create(description)
    except (ConfigError, RuntimeError, TypeError, ValueError, MemoryError) as error:
        raise CheckpointError(f"{path} describes a model that cannot be built: {str(error)[:600]}") from error
    model = fill_model(path, model, {name: t.float() if t.is_floating_point() else t for name, t in tensors.items()})
    own = describe(model, skeleton=description.skeleton)
    for field in ("output", "input_size_hw", "heatmap_size_hw"):
        if getattr(description, field) != getattr(own, field):
            raise CheckpointError(
                f"{path} says of itself {field} {getattr(description, field)}, its model has {getattr(own, field)}: "
                "write the file again"
            )
    model.description = description  # type: ignore[assignment]  # a plain attribute: `describe` reads it
    return model


def _create(description: ModelDescription) -> PoseModel:
    return create_model(description.model, **description.options)


def fill_model(path: Path, model: PoseModel, tensors: Mapping[str, Tensor]) -> PoseModel:
    """Put a file's weights into a model, which is returned in evaluation mode.

    Raises:
        CheckpointError: tensors are extra, missing, misshaped or not finite.
    """
    check_tensors(path, f"a {model.preset}", {k: v.shape for k, v in model.state_dict().items()}, tensors)
    for name, values in tensors.items():
        if not torch.isfinite(values).all():
            raise CheckpointError(f"{path}: {name} has NaN or infinite numbers: its training diverged, or it is broken")
    model.load_state_dict(tensors, strict=True)
    return model.eval()


def check_tensors(path: Path, what: str, expected: Mapping[str, torch.Size], tensors: Mapping[str, Tensor]) -> None:
    """Refuse tensors of a file that are not exactly those expected of ``what``, by name and shape.

    Raises:
        CheckpointError: names what is missing, extra or misshaped.
    """
    faults = [f"missing {name}" for name in expected if name not in tensors]
    faults += [f"extra {name}" for name in tensors if name not in expected]
    faults += [
        f"{name} has shape {list(tensors[name].shape)}, expected {list(shape)}"
        for name, shape in expected.items()
        if name in tensors and tensors[name].shape != shape
    ]
    if faults:
        more = f", and {len(faults) - _MAX_LISTED} more" if len(faults) > _MAX_LISTED else ""
        raise CheckpointError(f"{path} does not hold {what}: {'; '.join(faults[:_MAX_LISTED])}{more}")


def convert_released(path: str | Path) -> PoseModel:
    """Build a model from a released checkpoint; which of the four presets it is follows from its tensors.

    Raises:
        CheckpointError: the file is not such a checkpoint, or tensors are extra, missing or misshaped.
    """
    path = Path(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises many unrelated types on foreign bytes
        code = re.search(r"GLOBAL ([\w.]+)", str(error))
        reason = first_line(error) if code is None else f"it would call {code[1]}, which is not done"
        raise CheckpointError(
            f"{path} cannot be read as a PyTorch checkpoint ({reason}): is it complete, and one of weights alone?"
        ) from error
    state = content.get("state_dict", content) if isinstance(content, dict) else None
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise CheckpointError(f"{path} must hold a 'state_dict' of tensors, as the released checkpoints do")
    name = _recognize_released(path, state)
    tensors = {_released_to_own(key): value for key, value in state.items()}
    model: Any = create_model(name)
    position = tensors.pop("encoder.position", None)
    if position is None or position.shape != model.encoder.position.shape:
        raise CheckpointError(f"{path} has no usable pos_embedding; a released {name} holds {[1, 256, 192]}")
    if not torch.allclose(position.float(), model.encoder.position, atol=1e-4):
        raise CheckpointError(f"{path} has a pos_embedding that is not the sine code: not a released {name}")
    return fill_model(path, model, tensors)


def _released_to_own(name: str) -> str:
    for pattern, replacement in _RELEASED_NAMES if name.startswith("keypoint_head.") else ():
        name = re.sub(pattern, replacement, name)
    return name


def _recognize_released(path: Path, state: Mapping[str, Tensor]) -> str:
    student = any(name.startswith("keypoint_head.tokenhead.") for name in state)
    teacher = any(name.startswith("keypoint_head.tokenpose.") for name in state)
    if student == teacher:
        raise CheckpointError(
            f"{path} is no released DistilPose or TokenPose checkpoint: expected tensors under "
            f"'keypoint_head.tokenhead' or 'keypoint_head.tokenpose', got {sorted(state)[:3]}"
        )
    large = any(name.startswith("backbone.stage") for name in state)
    return ("distilpose_" if student else "tokenpose_") + ("l" if large else "s")
