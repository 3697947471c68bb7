"""Exported files in ONNX Runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from distilpose.backends.base import (
    INPUT_NAME,
    NumpyOutput,
    check_network_input,
    check_outputs,
    existing_file,
    need_package,
    output_of,
    unreadable,
    usable_cores,
)
from distilpose.backends.description import METADATA_KEY, ModelDescription, parse_description
from distilpose.data.preprocess import NetworkInput


class OnnxRuntimeBackend:
    """An exported ``.onnx`` file in ONNX Runtime, on the CPU.

    Args:
        path: written by ``distilpose export``.
        threads: of one run; every core this process may use when None.

    Raises:
        ConfigError: onnxruntime is not installed.
        CheckpointError: the file is missing, broken, foreign or newer.
    """

    def __init__(self, path: str | Path, threads: int | None = None) -> None:
        path = existing_file(path)
        self._session = open_onnx_session(path, threads)
        self._description = parse_description(path, self._session.get_modelmeta().custom_metadata_map.get(METADATA_KEY))
        self._names = [output.name for output in self._session.get_outputs()]
        check_outputs(path, self._names, self._description)

    @property
    def description(self) -> ModelDescription:
        """What the model expects and returns."""
        return self._description

    def __call__(self, images: NetworkInput) -> NumpyOutput:
        """(B, 3, H, W) crops -> the model's output, without tokens."""
        check_network_input(images, self._description)
        values = self._session.run(self._names, {INPUT_NAME: images})
        return output_of(dict(zip(self._names, values, strict=True)))


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
    need_package("onnxruntime", path)
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or usable_cores()
    options.log_severity_level = 3  # errors come as exceptions; warnings are about its own optimizer
    providers: list[Any] = ["CPUExecutionProvider"]
    if gpu is not None and "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        providers.insert(0, ("CUDAExecutionProvider", {"device_id": gpu}))
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=providers)
    except Exception as error:  # its exceptions share no base class
        raise unreadable(path, "ONNX Runtime", error) from error
