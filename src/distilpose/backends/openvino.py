"""Exported files in OpenVINO."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from distilpose.backends.base import INPUT_NAME, ExportedBackend, existing_file, unreadable
from distilpose.backends.description import METADATA_KEY
from distilpose.backends.device import AUTO, Compute, RuntimeInfo, log_runtime, not_there, parse_device, run_threads
from distilpose.data.preprocess import NetworkInput
from distilpose.errors import CheckpointError, require_package

_HINTS: dict[Compute, str] = {"float32": "f32", "bfloat16": "bf16", "float16": "f16"}


class OpenVinoBackend(ExportedBackend):
    """An exported file in OpenVINO: ``.xml`` with its ``.bin`` beside it, or ``.onnx``.

    ``threads`` and errors are those of `OnnxRuntimeBackend`. ``device`` is ``auto`` or ``cpu`` for the CPU, or
    ``openvino:GPU``, ``openvino:GPU.1``, ``openvino:NPU``. ``compute`` of ``"bfloat16"`` and ``"float16"`` is faster
    where the processor can, and not the same numbers.
    """

    def __init__(
        self, path: str | Path, threads: int | None = None, *, device: str = AUTO, compute: Compute = "float32"
    ) -> None:
        files = [existing_file(path)]
        if files[0].suffix == ".xml":
            weights = files[0].with_suffix(".bin")
            if not weights.is_file():
                raise CheckpointError(f"{path} needs its weights beside it: expected {weights}, which is not there")
            files.append(weights)
        openvino = import_openvino(str(path))
        threads = run_threads(threads, compute)
        core = openvino.Core()
        name = _device_name(device, core.available_devices)
        # Left to itself, OpenVINO rounds to bfloat16 wherever the processor can.
        settings: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": _HINTS[compute]}
        used = threads if name == "CPU" else None
        if used is not None:
            settings["INFERENCE_NUM_THREADS"] = used
        try:
            model = core.read_model(files[0])
            text = _description_text(model)
            names = [output.get_any_name() for output in model.outputs]
            self._request = openvino.compile_model(model, name, settings).create_infer_request()
        except Exception as error:  # RuntimeError for some faults, its own types for others
            raise unreadable(files[0], f"OpenVINO on {name}", error) from error
        version = openvino.__version__.split("-")[0]
        runtime = RuntimeInfo(f"OpenVINO {version}", f"openvino:{name}", used, compute)
        super().__init__(files, text, names, log_runtime(path, runtime))

    def _run(self, images: NetworkInput) -> Any:
        return self._request.infer({INPUT_NAME: images}, share_inputs=True).values()


def import_openvino(what: str) -> Any:
    """The openvino package, imported without its telemetry; ``what`` needs it, the start of the error.

    ``import openvino`` sends an event with a persistent client id to its makers. Without the package
    ``openvino_telemetry`` it uses a stub that sends nothing, so that package is hidden from it (and from NNCF).
    """
    require_package("openvino", what)
    if "openvino_telemetry" not in sys.modules:
        sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # import raises ImportError
    import openvino

    return openvino


def _device_name(device: str, there: list[str]) -> str:
    wanted = parse_device(device)
    name = wanted.which.upper() or "CPU"
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
