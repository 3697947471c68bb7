"""One door for every model: a preset's shipped weights, a file, a hub id."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, cast

from distilpose.backends.base import InferenceBackend
from distilpose.backends.onnxruntime import OnnxRuntimeBackend
from distilpose.backends.openvino import OpenVinoBackend
from distilpose.backends.torch import TorchBackend
from distilpose.errors import ConfigError, InputError

if TYPE_CHECKING:
    from torch import nn

    from distilpose.models import PoseModel

# Weights inside the package, by name; their license notice lies beside them.
DEFAULT_MODEL = "distilpose_s_demo"
SHIPPED_WEIGHTS: dict[str, Path] = {
    DEFAULT_MODEL: Path(__file__).parents[1] / "weights" / "distilpose_s_demo.safetensors",
}


# Which runtime reads an exported file, by its suffix.
FILE_BACKENDS: dict[str, Callable[[str | Path], InferenceBackend]] = {
    ".onnx": OnnxRuntimeBackend,
    ".xml": OpenVinoBackend,
}


def load_model(name_or_path: str | Path) -> PoseModel | InferenceBackend:
    """Load a model with its weights.

    Args:
        name_or_path: a name of `SHIPPED_WEIGHTS`, a checkpoint (our ``.safetensors`` or a released ``.pth``), a
            folder written by ``save_pretrained``, a hub id such as ``"org/name"``, or an exported ``.onnx`` or
            ``.xml``.

    Returns:
        Of a checkpoint, the torch model in evaluation mode, on the CPU. Of an exported file, an `InferenceBackend`
        from numpy arrays to numpy arrays, for which torch is neither needed nor imported. `PosePredictor` takes
        either.

    Raises:
        CheckpointError: the file is missing, broken, foreign, newer, or does not match its model.
        ConfigError: the name is a preset, which has no weights of its own, or the file's runtime is not installed.
    """
    if Path(name_or_path).suffix in FILE_BACKENDS:
        return FILE_BACKENDS[Path(name_or_path).suffix](name_or_path)
    from distilpose.backends import checkpoint
    from distilpose.models import list_models

    path = Path(name_or_path)
    if str(name_or_path) in SHIPPED_WEIGHTS:
        path = SHIPPED_WEIGHTS[str(name_or_path)]
    elif path.is_dir():
        path = path / checkpoint.HUB_WEIGHTS_NAME
    elif not path.exists() and str(name_or_path) in list_models():
        raise ConfigError(
            f"{name_or_path} is an architecture without weights: pass a checkpoint file or one of "
            f"{', '.join(SHIPPED_WEIGHTS)}, or build it untrained with "
            f"distilpose.create_model({str(name_or_path)!r})"
        )
    elif not path.exists() and not path.suffix and len(path.parts) == 2:
        return checkpoint.load_from_hub(str(name_or_path))
    return checkpoint.load_checkpoint(path)


def as_backend(model: nn.Module | InferenceBackend | str | Path, device: str | None = None) -> InferenceBackend:
    """Any model as an `InferenceBackend` on numpy arrays.

    Args:
        model: a torch model from `create_model` or `load_model`, an `InferenceBackend`, or what `load_model` takes.
        device: torch device; where the weights are when None.

    Raises:
        InputError: it is none of these.
        ConfigError: a device was named for a model that does not run in torch.
    """
    if isinstance(model, str | Path):
        model = load_model(model)
    if not hasattr(model, "parameters"):
        if not isinstance(model, InferenceBackend):
            raise InputError(f"model must be a model, a backend, a name or a path, got {type(model).__name__}")
        if device is not None:
            raise ConfigError(f"device is for torch models, got {device!r} for a {type(model).__name__}: leave it out")
        return model
    from distilpose.backends import checkpoint

    module = cast("nn.Module", model)  # a loaded module also looks like an InferenceBackend
    return TorchBackend(module, checkpoint.describe(module), device)
