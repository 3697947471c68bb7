"""Exported files in OpenVINO."""

from __future__ import annotations

from pathlib import Path

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
from distilpose.errors import CheckpointError


class OpenVinoBackend:
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
        path = existing_file(path)
        weights = path.with_suffix(".bin")
        if not weights.is_file():
            raise CheckpointError(f"{path} needs its weights beside it: expected {weights}, which is not there")
        need_package("openvino", path)
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
            raise unreadable(path, "OpenVINO", error) from error
        self._description = parse_description(path, text)
        self._names = names
        check_outputs(path, names, self._description)

    @property
    def description(self) -> ModelDescription:
        """What the model expects and returns."""
        return self._description

    def __call__(self, images: NetworkInput) -> NumpyOutput:
        """(B, 3, H, W) crops -> the model's output, without tokens."""
        check_network_input(images, self._description)
        values = self._request.infer({INPUT_NAME: images}, share_inputs=True)
        return output_of(dict(zip(self._names, values.values(), strict=True)))
