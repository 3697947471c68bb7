"""A torch model as a ``.mlpackage`` for Core ML; it can be written everywhere, and runs on macOS and iOS alone."""

from __future__ import annotations

from pathlib import Path

import torch

from distilpose.backends.base import INPUT_NAME, described
from distilpose.backends.description import METADATA_KEY, ModelDescription
from distilpose.errors import CheckpointError, ConfigError
from distilpose.export.onnx_file import quiet
from distilpose.export.rewrite import ExportForm
from distilpose.types import ImageArray

MAX_BATCH = 64


def write(form: ExportForm, path: Path, description: ModelDescription, crops: ImageArray | None) -> list[Path]:
    """Write a folder for batches of 1 to `MAX_BATCH` crops, and compare its inputs and outputs with what was asked.

    See `onnx_file.write`; nothing is run.

    Raises:
        ConfigError: uint8 input, which Core ML does not have.
        CheckpointError: the file has other inputs or outputs.
    """
    import coremltools

    if form.pixels is not None:
        raise ConfigError("Core ML files have no uint8 input: leave uint8_input out")
    size = (3, *description.input_size_hw)
    precision = coremltools.precision.FLOAT16 if description.precision == "float16" else coremltools.precision.FLOAT32
    batch = coremltools.RangeDim(1, MAX_BATCH, default=1)
    with quiet(), torch.inference_mode():
        traced = torch.jit.trace(form.eval(), torch.zeros(2, *size))  # type: ignore[no-untyped-call]
        model = coremltools.convert(
            traced,
            inputs=[coremltools.TensorType(INPUT_NAME, shape=(batch, *size))],
            outputs=[coremltools.TensorType(name) for name in form.output_names],
            convert_to="mlprogram",
            compute_precision=precision,
            minimum_deployment_target=coremltools.target.iOS16,
        )
    model.user_defined_metadata[METADATA_KEY] = described(description)
    model.save(str(path))
    spec = model.get_spec().description
    found = [value.name for value in (*spec.input, *spec.output)]
    if sorted(found) != sorted([INPUT_NAME, *form.output_names]):
        raise CheckpointError(f"the Core ML file has inputs and outputs {found}, expected {list(form.output_names)}")
    return [path]
