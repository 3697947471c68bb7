"""Load a model by name, path or hub id, and make an inference backend of any model."""

from __future__ import annotations

import difflib
import json
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, cast

from distilpose.backends.address import ForeignOptions, read_options, split_address
from distilpose.backends.base import InferenceBackend, existing_file
from distilpose.backends.device import AUTO, Compute, parse_device
from distilpose.backends.exported import LiteRtBackend, OnnxRuntimeBackend, OpenVinoBackend, is_exported
from distilpose.backends.foreign import ForeignBackend
from distilpose.backends.hub import CONNECT_SECONDS, MODEL_CONFIG
from distilpose.backends.torch import TorchBackend
from distilpose.errors import CheckpointError, ConfigError, InputError, require_package

if TYPE_CHECKING:
    from torch import nn

    from distilpose.models import PoseModel

# Weights inside the package, by name: a checkpoint, beside which an exported file of the same name lies, or that alone.
DEFAULT_MODEL = "distilpose_mobilenet"
FAST_MODEL = "distilpose_mobilenet_int8"
SHIPPED_MODELS = (DEFAULT_MODEL, FAST_MODEL)  # the names that lists and messages offer
_FOLDER = Path(__file__).parents[1] / "weights"
SHIPPED_WEIGHTS: dict[str, Path] = {
    DEFAULT_MODEL: _FOLDER / f"{DEFAULT_MODEL}.safetensors",
    FAST_MODEL: _FOLDER / f"{FAST_MODEL}.onnx",
    "distilpose_s_demo": _FOLDER / f"{DEFAULT_MODEL}.safetensors",  # its name in version 0.1
}
EXPORTED_SUFFIXES = (".onnx", ".xml", ".tflite")  # of files that run on every system


def shipped_file(name_or_path: str | Path, *, exported: bool = True) -> str:
    """The file of shipped weights, by their name; any other name or path as it is. See `load_model`."""
    name = str(name_or_path)
    if name not in SHIPPED_WEIGHTS:
        return name
    path = SHIPPED_WEIGHTS[name]
    return str(path.with_suffix(".onnx") if exported and path.with_suffix(".onnx").is_file() else path)


def load_model(
    name_or_path: str | Path,
    device: str = AUTO,
    *,
    threads: int | None = None,
    compute: Compute = "float32",
    exported: bool = True,
) -> PoseModel | InferenceBackend:
    """Load a model by name, path or hub id.

    Args:
        name_or_path: the name of shipped weights; a checkpoint (our ``.safetensors`` or a released ``.pth``); a folder
            written by ``save_pretrained``; a hub id such as ``"org/name"``; an exported ``.onnx``, ``.xml`` or
            ``.tflite``; or a foreign top-down network: an ONNX file of SimCC (RTMPose) or heatmaps, a ``.zip`` with
            one inside, a ViTPose folder or hub id, with `ForeignOptions`: ``"F.onnx?keypoints=halpe_26&color=bgr"``.
        device: of a file that does not run in torch; see `as_backend`.
        threads: likewise.
        compute: likewise.
        exported: take shipped weights as their ONNX file; False takes their checkpoint.

    Returns:
        Of a checkpoint, the torch model in evaluation mode, on the CPU. Of everything else, an `InferenceBackend`, for
        which torch is neither needed nor imported, ViTPose excepted. `PosePredictor` takes either.

    Raises:
        CheckpointError: the file is missing, broken, foreign, newer, or does not match its model.
        ConfigError: the name is a preset, which has no weights; an option or a device does not fit; or a package is
            not installed.
    """
    file, values = split_address(shipped_file(name_or_path, exported=exported))
    path, options = Path(file), read_options(file, values)
    if path.suffix in (*EXPORTED_SUFFIXES, ".zip"):
        return _open_file(path, options if values else None, device, threads, compute)
    if _is_vitpose(path):
        from distilpose.backends.vitpose import load_vitpose

        vitpose = load_vitpose(file, options)
        return TorchBackend(vitpose.module, vitpose.description, device, threads=threads, compute=compute)
    if values:
        raise ConfigError(f"{file} says itself how it is fed: leave out {', '.join(values)}")
    return _load_checkpoint(path)


def _open_file(
    path: Path, options: ForeignOptions | None, device: str, threads: int | None, compute: Compute
) -> InferenceBackend:
    existing_file(path)
    runs_openvino = path.suffix == ".xml" or parse_device(device).kind == "openvino"
    if not runs_openvino and compute != "float32":
        runtime = "LiteRT" if path.suffix == ".tflite" else "ONNX Runtime"
        raise ConfigError(f"{path} runs in {runtime}, which computes as it was exported: leave compute out")
    if path.suffix == ".zip" or (path.suffix == ".onnx" and not runs_openvino and not is_exported(path)):
        return ForeignBackend(path, options, threads=threads, device=device)
    if options is not None:
        raise ConfigError(f"{path} says itself how it is fed: leave the options out")
    if path.suffix == ".tflite":
        return LiteRtBackend(path, threads, device=device)
    if runs_openvino:
        return OpenVinoBackend(path, threads, device=device, compute=compute)
    return OnnxRuntimeBackend(path, threads, device=device)


def _load_checkpoint(path: Path) -> PoseModel:
    from distilpose.models import list_models

    if not path.exists():
        if str(path) in list_models():
            raise ConfigError(
                f"{path} is an architecture without weights: pass a checkpoint file or one of "
                f"{', '.join(SHIPPED_MODELS)}, or build it untrained with distilpose.create_model({str(path)!r})"
            )
        if near := difflib.get_close_matches(str(path), SHIPPED_MODELS, 1):
            raise ConfigError(f"no model is called {path}: did you mean {near[0]}?")
    if not path.exists() and not _is_hub_id(path):
        raise CheckpointError(f"{path} is not a file: expected a .safetensors or a released .pth checkpoint")
    require_package("torch", f"the checkpoint {path}")
    from distilpose.backends import checkpoint

    if path.is_dir():
        path = path / checkpoint.HUB_WEIGHTS_NAME
    elif _is_hub_id(path):
        return checkpoint.load_from_hub(str(path))
    return checkpoint.load_checkpoint(path)


def _is_hub_id(path: Path) -> bool:
    return not path.exists() and not path.suffix and len(path.parts) == 2 and not path.is_absolute()


def _is_vitpose(path: Path) -> bool:
    """Whether a folder or hub id holds a ViTPose model of transformers, by its ``config.json``."""
    config = path / MODEL_CONFIG
    if _is_hub_id(path) and find_spec("huggingface_hub") is not None:
        from huggingface_hub import hf_hub_download

        try:
            config = Path(hf_hub_download(str(path), MODEL_CONFIG, etag_timeout=CONNECT_SECONDS))
        except Exception:  # neither on the hub nor in the cache: loading says so
            return False
    try:
        content = json.loads(config.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(content, dict) and content.get("model_type") == "vitpose"


def as_backend(
    model: nn.Module | InferenceBackend | str | Path,
    device: str | None = None,
    *,
    threads: int | None = None,
    compute: Compute = "float32",
) -> InferenceBackend:
    """Any model as an `InferenceBackend` on numpy arrays.

    Args:
        model: a torch model from `create_model` or `load_model`, an `InferenceBackend`, or what `load_model` takes.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1`` and ``mps`` are for torch models and ONNX files; ``tensorrt``,
            ``coreml`` and ``directml`` for ONNX files; ``openvino:GPU`` for exported files. ``auto``, for what is
            loaded here, takes a GPU that the model's library can use, else the CPU. None leaves a torch model there.
        threads: of one run on the CPU; chosen by the library, or by `default_threads`, when None.
        compute: ``"bfloat16"`` and ``"float16"`` are faster for torch models on GPUs and for OpenVINO, and not the
            same numbers.

    Raises:
        InputError: it is none of these.
        ConfigError: the device is not there, or the options do not fit the model.
        CheckpointError: a file is unusable; see `load_model`.
    """
    if isinstance(model, str | Path):
        device = device or AUTO
        model = load_model(model, device, threads=threads, compute=compute)
    elif isinstance(model, InferenceBackend) and not hasattr(model, "parameters") and (device or threads):
        raise ConfigError(
            f"device and threads are chosen when a model is loaded, got {device or threads} for a "
            f"{type(model).__name__}: load_model(FILE, device=...)"
        )
    if not hasattr(model, "parameters"):
        if not isinstance(model, InferenceBackend):
            raise InputError(f"model must be a model, a backend, a name or a path, got {type(model).__name__}")
        return model
    from distilpose.backends import checkpoint

    module = cast("nn.Module", model)  # a loaded module also looks like an InferenceBackend
    return TorchBackend(module, checkpoint.describe(module), device, threads=threads, compute=compute)
