"""What a crop costs a model, and the matrix-product peak of this machine in each library."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cache, partial
from importlib.util import find_spec
from math import prod
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.func import functional_call
from torch.utils.flop_counter import FlopCounterMode

from distilpose.models import PoseModel

PEAK_SIDE = 2048
aten = torch.ops.aten


class Complexity(NamedTuple):
    """What one crop costs, in 1e9 multiply-accumulates: convolutions, linear and norm layers, and more."""

    parameters: int  # trainable numbers
    gmacs_published: float  # as the paper's counter has them: one per rectified value, no attention products
    gmacs: float  # with the two matrix products of every attention


BATCH_NORMS = (aten.native_batch_norm, aten._native_batch_norm_legit_no_training)
ACTIVATIONS = (aten.relu, aten.relu_)
# Like `torch.utils.flop_counter`, whose formulas give two operations for each multiply-accumulate.
FORMULAS: dict[Any, Callable[..., int]] = {
    **dict.fromkeys(BATCH_NORMS, lambda x, *_, **__: 2 * 2 * prod(x)),
    aten.native_layer_norm: lambda x, *_, **__: 2 * 5 * prod(x),
    **dict.fromkeys(ACTIVATIONS, lambda *_, out_shape, **__: 2 * prod(out_shape)),
}


def measure_complexity(model: PoseModel) -> Complexity:
    """Count one crop at the model's input size; only shapes are computed, so it takes no time and no memory.

    Source:
        Products and convolutions: `torch.utils.flop_counter`. Norm layers as the published counts have them: two
        multiply-accumulates for each value of a batch norm, five of a layer norm.
    """
    was_training = model.training
    shapes = {name: value.to("meta") for name, value in (*model.named_parameters(), *model.named_buffers())}
    images = torch.zeros(1, 3, *model.input_size_hw, device="meta")
    with FlopCounterMode(display=False, custom_mapping=FORMULAS) as counter, torch.no_grad():
        functional_call(model.eval(), shapes, (images,))
    model.train(was_training)
    macs = {operation: count / 2 for operation, count in counter.get_flop_counts()["Global"].items()}
    total = sum(macs.values())
    attention = macs.get(aten.bmm, 0)  # on shapes alone, attention is its two batched products
    activations = sum(macs.get(operation, 0) for operation in ACTIVATIONS)
    parameters = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return Complexity(parameters, (total - attention) / 1e9, (total - activations) / 1e9)


def highest_peak() -> float:
    """GFLOP/s of a float32 matrix product in the library where it is fastest: torch, ONNX Runtime or OpenVINO."""
    products = filter(None, map(_product, ("onnxruntime", "openvino")))
    return max(measure_peak(), *map(_peak_of, products))


def measure_peak(dtype: torch.dtype = torch.float32) -> float:
    """GFLOP/s of a matrix product of torch in ``dtype``, best of three: what this machine can do right now."""
    a = torch.randn(PEAK_SIDE, PEAK_SIDE).to(dtype)
    return _peak_of(lambda: a @ a)


def _peak_of(product: Callable[[], object]) -> float:
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        product()
        seconds.append(time.perf_counter() - start)
    return 2 * PEAK_SIDE**3 / min(seconds) / 1e9


@cache
def _product(runtime: str) -> Callable[[], object] | None:
    """A matrix product in a runtime, run once already; None without the package."""
    if any(find_spec(package) is None for package in ("onnx", runtime)):
        return None
    from onnx import TensorProto, helper, numpy_helper

    matrix = np.random.default_rng(0).standard_normal((PEAK_SIDE, PEAK_SIDE)).astype(np.float32)
    inputs, outputs = ([helper.make_tensor_value_info(name, TensorProto.FLOAT, matrix.shape)] for name in "ac")
    node, weights = helper.make_node("MatMul", ["a", "b"], ["c"]), [numpy_helper.from_array(matrix, "b")]
    graph, opset = helper.make_graph([node], "product", inputs, outputs, weights), [helper.make_opsetid("", 17)]
    content = helper.make_model(graph, opset_imports=opset, ir_version=9).SerializeToString()
    product: Callable[[], object]
    if runtime == "onnxruntime":
        import onnxruntime

        session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
        product = partial(session.run, None, {"a": matrix})
    else:
        import openvino

        settings = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
        request = openvino.compile_model(openvino.Core().read_model(content), "CPU", settings).create_infer_request()
        product = partial(request.infer, {"a": matrix}, share_inputs=True)
    product()
    return product
