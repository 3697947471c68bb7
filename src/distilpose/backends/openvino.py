"""Exported files in OpenVINO."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from distilpose.backends.base import (
    INPUT_NAME,
    NumpyOutput,
    check_digest,
    check_network_input,
    check_outputs,
    existing_file,
    output_of,
    probe,
    run_failed,
    unreadable,
)
from distilpose.backends.description import METADATA_KEY, ModelDescription, parse_description
from distilpose.backends.device import (
    AUTO,
    Compute,
    RuntimeInfo,
    check_compute,
    check_threads,
    default_threads,
    not_there,
    parse_device,
)
from distilpose.data.preprocess import NetworkInput
from distilpose.errors import CheckpointError, require_package

_HINTS: dict[Compute, str] = {"float32": "f32", "bfloat16": "bf16", "float16": "f16"}


class OpenVinoBackend:
    """An exported file in OpenVINO: ``.xml`` with its ``.bin`` beside it, or ``.onnx``.

    Args:
        path: written by ``distilpose export``.
        threads: of one run on the CPU; see `default_threads` when None.
        device: ``auto`` and ``cpu`` are the CPU; ``openvino:GPU``, ``openvino:GPU.1``, ``openvino:NPU``.
        compute: ``"bfloat16"`` and ``"float16"`` are faster where the processor can, and not the same numbers.

    Raises:
        ConfigError: openvino is not installed, or lacks the device.
        CheckpointError: a file is missing, broken, damaged, foreign or newer, or does not run.
    """

    def __init__(
        self, path: str | Path, threads: int | None = None, *, device: str = AUTO, compute: Compute = "float32"
    ) -> None:
        self._path = existing_file(path)
        files = [self._path]
        if self._path.suffix == ".xml":
            weights = self._path.with_suffix(".bin")
            if not weights.is_file():
                raise CheckpointError(f"{path} needs its weights beside it: expected {weights}, which is not there")
            files.append(weights)
        openvino = import_openvino(str(path))
        check_compute(compute)
        check_threads(threads)
        core = openvino.Core()
        name = _device_name(device, core.available_devices)
        # Left to itself, OpenVINO rounds to bfloat16 wherever the processor can.
        settings: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": _HINTS[compute]}
        if name == "CPU":
            settings["INFERENCE_NUM_THREADS"] = threads or default_threads()
        try:
            model = core.read_model(self._path)
            text = _description_text(model)
            names = [output.get_any_name() for output in model.outputs]
            self._request = openvino.compile_model(model, name, settings).create_infer_request()
        except Exception as error:  # RuntimeError for some faults, its own types for others
            raise unreadable(self._path, f"OpenVINO on {name}", error) from error
        self._description = parse_description(self._path, text)
        check_digest(text, files)
        self._names = names
        self._runtime = RuntimeInfo(
            f"OpenVINO {openvino.__version__.split('-')[0]}",
            f"openvino:{name}",
            settings.get("INFERENCE_NUM_THREADS"),
            compute,
        )
        check_outputs(self._path, names, self._description)
        probe(self, self._path)

    @property
    def description(self) -> ModelDescription:
        """What the model expects and returns."""
        return self._description

    def describe(self) -> RuntimeInfo:
        """What runs it."""
        return self._runtime

    def __call__(self, images: NetworkInput) -> NumpyOutput:
        """(B, 3, H, W) crops -> the model's output, without tokens."""
        check_network_input(images, self._description)
        try:
            values = self._request.infer({INPUT_NAME: images}, share_inputs=True)
        except Exception as error:
            raise run_failed(self._path, "OpenVINO", error) from error
        return output_of(dict(zip(self._names, values.values(), strict=True)))


def import_openvino(what: str) -> Any:
    """The openvino package, imported without its telemetry.

    ``import openvino`` sends an event with a persistent client id to its makers. Without the package
    ``openvino_telemetry`` it uses a stub that sends nothing, so that package is hidden from it (and from NNCF).

    Args:
        what: needs it, the start of the error.

    Raises:
        ConfigError: it is not installed.
    """
    require_package("openvino", what)
    if "openvino_telemetry" not in sys.modules:
        sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # import raises ImportError
    import openvino

    return openvino


def _device_name(device: str, there: list[str]) -> str:
    wanted = parse_device(device)
    name = "CPU" if wanted.kind in (AUTO, "cpu") else wanted.which.upper() or "CPU"
    names = {known.split(".")[0] for known in there} | set(there)
    if wanted.kind not in (AUTO, "cpu", "openvino") or name not in names:
        raise not_there(wanted, "OpenVINO", [f"openvino:{known}" for known in there])
    return name


def _description_text(model: Any) -> str | None:
    """The description in the file: of an ``.xml`` at the top, of an ONNX file among what its framework said."""
    for keys in ([METADATA_KEY], ["framework", METADATA_KEY]):
        if model.has_rt_info(keys):
            return str(model.get_rt_info(keys).value)
    return None
