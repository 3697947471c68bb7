"""A torch model as one ONNX file; its weights in float32, float16 or int8."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import NodeProto, TensorProto, numpy_helper

from distilpose.backends.base import INPUT_NAME, described
from distilpose.backends.description import METADATA_KEY, ModelDescription
from distilpose.data.preprocess import network_input
from distilpose.export.rewrite import ExportForm
from distilpose.types import ImageArray, Size

OPSET = 20  # the first with Gelu
_TRACED_BATCH = 2
_BEFORE_HEAD = ("LayerNormalization", "GlobalAveragePool", "ReduceMean", "Relu")
_FLOAT_DEPTHWISE = 3
# Quantized with the convolution before them, whose range then is the smaller one behind them.
_ACTIVATIONS = ("Clip", "Relu")
_SMALLEST_HALVED = 64  # numbers; shorter constants stay as they are


def write(form: ExportForm, path: Path, description: ModelDescription, crops: ImageArray | None) -> list[Path]:
    """Write a file, as every module of a format does; returns its files, the one with the description first.

    The ``description`` says the precision; int8 is calibrated with ``crops`` (N, H, W, 3) uint8.
    """
    export_onnx(form, description.input_size_hw, path)
    if crops is not None:
        quantize_onnx(path, description, crops)
    elif description.precision == "float16":
        halve_onnx(path)
    describe_onnx(path, description)
    return [path]


def export_onnx(form: ExportForm, input_size_hw: Size, path: Path) -> None:
    """Write the graph in float32 with a free batch size."""
    dtype = torch.float32 if form.pixels is None else torch.uint8
    images = torch.zeros(_TRACED_BATCH, 3, *input_size_hw, dtype=dtype)
    with quiet():
        program = torch.onnx.export(
            form.eval(),
            (images,),
            dynamo=True,
            dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=65536)},),
            input_names=[INPUT_NAME],
            output_names=list(form.output_names),
            opset_version=OPSET,
            verbose=False,
        )
    assert program is not None
    program.save(str(path))


def describe_onnx(path: Path, description: ModelDescription) -> None:
    """Write what the model is into its file, in place."""
    model = onnx.load(path)
    for node in model.graph.node:  # torch notes the source lines that made it, with the paths of this machine
        del node.metadata_props[:]
    onnx.helper.set_model_props(model, {METADATA_KEY: described(description)})
    model.producer_name = "distilpose"
    onnx.save(model, path)


def halve_onnx(path: Path) -> None:
    """Store weights as float16, in place; runtimes widen them once, at loading, and compute in float32."""
    model = onnx.load(path)
    casts = []
    for tensor in model.graph.initializer:
        if tensor.data_type != TensorProto.FLOAT or np.prod(tensor.dims, dtype=int) < _SMALLEST_HALVED:
            continue
        half = f"{tensor.name}_half"
        casts.append(onnx.helper.make_node("Cast", [half], [tensor.name], to=TensorProto.FLOAT, name=f"{half}_cast"))
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), half))
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    onnx.save(model, path)


def quantize_onnx(path: Path, description: ModelDescription, crops: ImageArray) -> None:
    """Turn convolutions and products with weights into int8, in place.

    Weights are signed per channel, activations unsigned per array over the range that ``crops`` need. The head, the
    first convolutions of networks with depthwise ones, the last ones of a top-down path, the norms and what attention
    does with itself stay in float.

    Source:
        ONNX Runtime's static quantization, QDQ format.
    """
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    inputs = ({INPUT_NAME: network_input(crop[None], description.normalization)} for crop in crops)

    class Crops(CalibrationDataReader):  # type: ignore[misc]  # untyped package
        def get_next(self) -> dict[str, Any] | None:
            return next(inputs, None)

    graph = onnx.load(path).graph
    excluded = [*float_nodes(graph), *_other_activations(graph, head_nodes(graph)), *_products(graph)]
    with quiet():
        quantize_static(
            str(path),
            str(path),
            Crops(),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            op_types_to_quantize=["Conv", "MatMul", *_ACTIVATIONS],
            nodes_to_exclude=excluded,
        )


def float_nodes(graph: onnx.GraphProto) -> list[str]:
    """Names of the nodes that stay in floating point in int8 files: the head, the first and the last convolutions."""
    return [*head_nodes(graph), *_first_convolutions(graph), *_last_convolutions(graph)]


def head_nodes(graph: onnx.GraphProto) -> list[str]:
    """Names of the nodes from the last norm, pooling or ReLU to the outputs: in 8 bits a coordinate moves in steps."""
    maker = {output: node for node in graph.node for output in node.output}
    found: dict[str, NodeProto] = {}
    waiting = [output.name for output in graph.output]
    while waiting:
        node = maker.get(waiting.pop())
        if node is None or node.name in found or node.op_type in _BEFORE_HEAD:
            continue
        found[node.name] = node
        waiting += node.input
    return list(found)


def _other_activations(graph: onnx.GraphProto, head: Sequence[str]) -> Sequence[str]:
    """Activations that stay in floating point: not behind a convolution, or read by the head."""
    read = {value for node in graph.node if node.name in head for value in node.input}
    convolved = {node.output[0] for node in graph.node if node.op_type == "Conv"}
    activations = (node for node in graph.node if node.op_type in _ACTIVATIONS)
    return [node.name for node in activations if node.input[0] not in convolved or read & set(node.output)]


def _first_convolutions(graph: onnx.GraphProto) -> Sequence[str]:
    """Those up to the third depthwise one: in 8 bits they cost the shipped student 1.0 AP."""
    names, depthwise = [], 0
    for node in graph.node:
        if node.op_type == "Conv" and depthwise < _FLOAT_DEPTHWISE:
            names.append(node.name)
            depthwise += any(attribute.name == "group" and attribute.i > 1 for attribute in node.attribute)
    return names if depthwise else []


def _last_convolutions(graph: onnx.GraphProto) -> Sequence[str]:
    """Those on the finest map, behind the last upsampling of a top-down path: cheap, and in 8 bits they cost 12 AP."""
    nodes = graph.node
    upsampled = max((at for at, node in enumerate(nodes) if node.op_type == "Resize"), default=len(nodes))
    return [node.name for node in nodes[upsampled:] if node.op_type == "Conv" and not _is_strided(node)]


def _is_strided(node: NodeProto) -> bool:
    return any(attribute.name == "strides" and max(attribute.ints) > 1 for attribute in node.attribute)


def _products(graph: onnx.GraphProto) -> Sequence[str]:
    weights = {tensor.name for tensor in graph.initializer}
    return [node.name for node in graph.node if node.op_type == "MatMul" and not weights & set(node.input)]


@contextmanager
def quiet() -> Iterator[None]:
    """Without the exporters' advice, which is about their own inner works."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
