"""A torch model as one ``.tflite`` file for LiteRT, which runs on Android, iOS and small Linux boards."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from distilpose.backends.base import INPUT_NAME, described
from distilpose.backends.description import METADATA_KEY, ModelDescription
from distilpose.data.preprocess import network_input
from distilpose.export.onnx_file import quiet
from distilpose.export.rewrite import ExportForm
from distilpose.types import ImageArray

_QUANTIZED = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")
# Arrays are named after their module: ``.../distilpose.models.heads.RegressionHead_head/...Linear_linear;1``.
# The head and the first layers of networks with depthwise convolutions stay in floating point.
_QUANTIZED_NAMES = "^(?!.*(_head[/;]|ConvBlock_stem|InvertedResidual_[0-2]/))"


def write(form: ExportForm, path: Path, description: ModelDescription, crops: ImageArray | None) -> list[Path]:
    """Write a file for one crop at a time; see `onnx_file.write`."""
    import litert_torch

    dtype = torch.float32 if form.pixels is None else torch.uint8
    images = torch.zeros(1, 3, *description.input_size_hw, dtype=dtype)
    with quiet(), redirect_stdout(sys.stderr):  # the quantizer's report
        litert_torch.convert(_Named(form).eval(), sample_kwargs={INPUT_NAME: images}).export(str(path))
        if description.precision != "float32":
            _compress(path, description, crops)
    _describe(path, description)
    return [path]


class _Named(nn.Module):
    """The arrays of an `ExportForm` by their names, which the converter gives the outputs of the file."""

    def __init__(self, form: ExportForm) -> None:
        super().__init__()
        self.form = form

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return dict(zip(self.form.output_names, self.form(images), strict=True))


def _compress(path: Path, description: ModelDescription, crops: ImageArray | None) -> None:
    """Weights to float16; or convolutions and products with weights, the head apart, to int8 by the crops' ranges."""
    from ai_edge_quantizer import qtyping
    from ai_edge_quantizer.quantizer import Quantizer

    quantizer = Quantizer(str(path))
    half = qtyping.TensorQuantizationConfig(num_bits=16, dtype=qtyping.TensorDataType.FLOAT)
    for operation in map(qtyping.TFLOperationName, _QUANTIZED):
        if crops is None:
            config = qtyping.OpQuantizationConfig(
                weight_tensor_config=half, compute_precision=qtyping.ComputePrecision.FLOAT
            )
            quantizer.update_quantization_recipe(".*", operation, config, "float_casting")
        else:
            quantizer.add_static_config(_QUANTIZED_NAMES, operation, activation_num_bits=8, weight_num_bits=8)
    ranges = None
    if crops is not None:
        inputs = [{INPUT_NAME: network_input(crop[None], description.normalization)} for crop in crops]
        ranges = quantizer.calibrate({"serving_default": inputs}, num_threads=1)
    quantizer.quantize(ranges).export_model(str(path), overwrite=True)


def _describe(path: Path, description: ModelDescription) -> None:
    """Write what the model is into the metadata of its file, in place."""
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    content = path.read_bytes()
    model = schema.ModelT.InitFromPackedBuf(content)
    for known in model.buffers:  # the quantizer puts arrays behind the flatbuffer, where packing would lose them
        if known.offset:
            known.data = np.frombuffer(content, np.uint8, known.size, known.offset)
            known.offset = known.size = 0
    buffer, entry = schema.BufferT(), schema.MetadataT()
    buffer.data = np.frombuffer(described(description).encode(), dtype=np.uint8)
    entry.name, entry.buffer = METADATA_KEY, len(model.buffers)
    model.buffers.append(buffer)
    model.metadata = [*(model.metadata or []), entry]
    builder = flatbuffers.Builder()
    builder.Finish(model.Pack(builder), b"TFL3")
    path.write_bytes(builder.Output())
