"""The matrix-product peak of this machine, in each library."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cache, partial
from importlib.util import find_spec

import numpy as np
import torch

PEAK_SIDE = 2048


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
