"""Models as callables on numpy arrays, whatever runs them: torch, ONNX Runtime or OpenVINO.

Exported files run without torch: nothing here imports it but `TorchRunner`, when it is called.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from distilpose.description import METADATA_KEY, ModelDescription, parse_description
from distilpose.errors import CheckpointError, ConfigError, InputError
from distilpose.models.outputs import HeatmapOutput, PoseOutput
from distilpose.preprocess import NetworkInput

if TYPE_CHECKING:
    from torch import nn

FloatArray = NDArray[np.float32]
NumpyOutput = PoseOutput[FloatArray] | HeatmapOutput[FloatArray]

# What an exported file is made of: `export` writes these names, the runners read them.
INPUT_NAME = "images"
POSE_OUTPUTS = ("xy_norm", "sigma", "score")  # a model without sigma or score lacks that output
HEATMAP_OUTPUT = "heatmaps"


@runtime_checkable
class Runner(Protocol):
    """A model that reads and returns numpy arrays and knows what it is."""

    @property
    def description(self) -> ModelDescription:
        """What the model expects and returns."""
        ...

    def __call__(self, images: NetworkInput) -> NumpyOutput:
        """(B, 3, H, W) crops, as `preprocess.network_input` makes them -> the model's output, B >= 1."""
        ...


class TorchRunner:
    """A torch model as a `Runner`: evaluation mode, no gradients.

    Args:
        model: a module returning `PoseOutput` or `HeatmapOutput`. It is put into evaluation mode.
        description: of the model.
        device: where to run; where the weights are when None.
    """

    def __init__(self, model: nn.Module, description: ModelDescription, device: str | None = None) -> None:
        self._model = (model if device is None else model.to(device)).eval()
        self._description = description

    @property
    def description(self) -> ModelDescription:
        """What the model expects and returns."""
        return self._description

    def __call__(self, images: NetworkInput) -> NumpyOutput:
        """(B, 3, H, W) normalised crops -> the model's output as float32 arrays."""
        import torch

        parameter = next(self._model.parameters())
        with torch.inference_mode():
            # Channels last: convolutions run up to 1.4 times as fast.
            batch = torch.from_numpy(images).to(parameter.device, parameter.dtype, memory_format=torch.channels_last)
            output: Any = self._model(batch)
        arrays = [None if value is None else value.float().cpu().numpy() for value in output]
        numpy_output: NumpyOutput = type(output)(*arrays)
        return numpy_output


class OnnxRunner:
    """An exported ``.onnx`` file in ONNX Runtime, on the CPU.

    Args:
        path: written by ``distilpose export``.
        threads: of one run; every core this process may use when None.

    Raises:
        ConfigError: onnxruntime is not installed.
        CheckpointError: the file is missing, broken, foreign or newer.
    """

    def __init__(self, path: str | Path, threads: int | None = None) -> None:
        path = _existing(path)
        self._session = open_onnx_session(path, threads)
        self._description = parse_description(path, self._session.get_modelmeta().custom_metadata_map.get(METADATA_KEY))
        self._names = [output.name for output in self._session.get_outputs()]
        _check_outputs(path, self._names, self._description)

    @property
    def description(self) -> ModelDescription:
        """What the model expects and returns."""
        return self._description

    def __call__(self, images: NetworkInput) -> NumpyOutput:
        """(B, 3, H, W) crops -> the model's output, without tokens."""
        check_network_input(images, self._description)
        values = self._session.run(self._names, {INPUT_NAME: images})
        return _output(dict(zip(self._names, values, strict=True)))


class OpenVinoRunner:
    """An exported ``.xml`` file, with its ``.bin`` beside it, in OpenVINO on the CPU.

    Args:
        path: written by ``distilpose export``.
        threads: of one run; every core this process may use when None.
        bfloat16: compute in bfloat16 where the processor can: faster, and no longer the same numbers.

    Raises:
        ConfigError: openvino is not installed.
        CheckpointError: a file is missing, broken, foreign or newer.
    """

    def __init__(self, path: str | Path, threads: int | None = None, *, bfloat16: bool = False) -> None:
        path = _existing(path)
        weights = path.with_suffix(".bin")
        if not weights.is_file():
            raise CheckpointError(f"{path} needs its weights beside it: expected {weights}, which is not there")
        _need("openvino", path)
        import openvino

        # Left to itself, OpenVINO rounds to bfloat16 wherever the processor can.
        settings = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "bf16" if bfloat16 else "f32",
            "INFERENCE_NUM_THREADS": threads or usable_cores(),
        }
        try:
            model = openvino.Core().read_model(path)
            known = METADATA_KEY in model.get_rt_info()
            text = model.get_rt_info([METADATA_KEY]).value if known else None
            names = [output.get_any_name() for output in model.outputs]
            self._request = openvino.compile_model(model, "CPU", settings).create_infer_request()
        except Exception as error:  # RuntimeError for some faults, its own types for others
            raise _unreadable(path, "OpenVINO", error) from error
        self._description = parse_description(path, text)
        self._names = names
        _check_outputs(path, names, self._description)

    @property
    def description(self) -> ModelDescription:
        """What the model expects and returns."""
        return self._description

    def __call__(self, images: NetworkInput) -> NumpyOutput:
        """(B, 3, H, W) crops -> the model's output, without tokens."""
        check_network_input(images, self._description)
        values = self._request.infer({INPUT_NAME: images}, share_inputs=True)
        return _output(dict(zip(self._names, values.values(), strict=True)))


# Which runtime reads an exported file, by its suffix.
FILE_RUNNERS: dict[str, Callable[[str | Path], Runner]] = {".onnx": OnnxRunner, ".xml": OpenVinoRunner}


def open_onnx_session(path: Path, threads: int | None = None, gpu: int | None = None) -> Any:
    """Any ONNX file as a session of ONNX Runtime.

    Args:
        path: of the file.
        threads: of one run; every core this process may use when None.
        gpu: which one runs it, if ONNX Runtime's GPU build is installed; the CPU runs it when None.

    Raises:
        ConfigError: onnxruntime is not installed.
        CheckpointError: the file is broken.
    """
    _need("onnxruntime", path)
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or usable_cores()
    options.log_severity_level = 3  # errors come as exceptions; warnings are about its own optimiser
    providers: list[Any] = ["CPUExecutionProvider"]
    if gpu is not None and "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        providers.insert(0, ("CUDAExecutionProvider", {"device_id": gpu}))
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=providers)
    except Exception as error:  # its exceptions share no base class
        raise _unreadable(path, "ONNX Runtime", error) from error


def check_network_input(images: NetworkInput, description: ModelDescription) -> None:
    """Refuse an array that the model cannot read.

    Raises:
        InputError: wrong shape or number format.
    """
    height, width = description.input_size_hw
    dtype = np.uint8 if description.normalisation is None else np.float32
    if images.ndim != 4 or images.shape[1:] != (3, height, width) or images.dtype != dtype or len(images) == 0:
        raise InputError(
            f"{description.model} reads (B, 3, {height}, {width}) {np.dtype(dtype)}, B >= 1, got {images.dtype} of "
            f"shape {images.shape}: make it with distilpose.preprocess.network_input"
        )


def usable_cores() -> int:
    """Cores that this process may use; a container or ``taskset`` may allow fewer than there are."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS and Windows
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _existing(path: str | Path) -> Path:
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path} is not a file: expected a model written by distilpose export")
    return path


def _need(package: str, path: Path) -> None:
    if find_spec(package) is None:
        raise ConfigError(f"{path} runs in {package}, which is not installed: pip install {package}")


def _unreadable(path: Path, runtime: str, error: Exception) -> CheckpointError:
    reason = str(error).strip().splitlines()
    return CheckpointError(
        f"{path} cannot be read by {runtime} ({reason[-1].strip() if reason else type(error).__name__}): broken, cut "
        "short, or another format; export it again"
    )


def _check_outputs(path: Path, names: Sequence[str], description: ModelDescription) -> None:
    needed = HEATMAP_OUTPUT if description.output == "heatmap" else POSE_OUTPUTS[0]
    if needed not in names:
        raise CheckpointError(f"{path} must have an output {needed!r}, got {', '.join(names)}: export it again")


def _output(values: Mapping[str, FloatArray]) -> NumpyOutput:
    if HEATMAP_OUTPUT in values:
        return HeatmapOutput(values[HEATMAP_OUTPUT])
    xy_norm, sigma, score = (values.get(name) for name in POSE_OUTPUTS)
    assert xy_norm is not None
    return PoseOutput(xy_norm, sigma, score)
