"""The matrix-product peak of this machine, in each library."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cache, partial
from importlib.util import find_spec
from typing import NamedTuple

import numpy as np
import torch

PEAK_SIDE = 2048


class Peaks(NamedTuple):
    """GFLOP/s of a float32 matrix product in each library; 0 where it is not installed.

    Attributes:
        torch: of torch, which on some processors leaves half of the vector units idle.
        onnxruntime: of ONNX Runtime.
        openvino: of OpenVINO.
    """

    torch: float
    onnxruntime: float
    openvino: float

    @property
    def highest(self) -> float:
        """What this machine can do, as far as any library here shows."""
        return max(self)


def measure_peaks() -> Peaks:
    """The float32 product of every library, best of three each."""
    return Peaks(measure_peak(), *(_peak_of(_product(runtime)) for runtime in ("onnxruntime", "openvino")))


def measure_peak(dtype: torch.dtype = torch.float32) -> float:
    """GFLOP/s of a matrix product in ``dtype``, best of three: what this machine can do right now."""
    a = torch.randn(PEAK_SIDE, PEAK_SIDE).to(dtype)
    return _peak_of(lambda: a @ a)


def _peak_of(product: Callable[[], object] | None) -> float:
    if product is None:
        return 0.0
    return 2 * PEAK_SIDE**3 / min(_seconds(product) for _ in range(3)) / 1e9


@cache
def _product(runtime: str) -> Callable[[], object] | None:
    """A matrix product in a runtime, run once already; None without the package."""
    if any(find_spec(package) is None for package in ("onnx", runtime)):
        return None
    from onnx import TensorProto, helper, numpy_helper

    matrix = np.random.default_rng(0).standard_normal((PEAK_SIDE, PEAK_SIDE)).astype(np.float32)
    shape = [PEAK_SIDE, PEAK_SIDE]
    inputs, outputs = ([helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)] for name in ("a", "c"))
    node = helper.make_node("MatMul", ["a", "b"], ["c"])
    graph = helper.make_graph([node], "product", inputs, outputs, [numpy_helper.from_array(matrix, "b")])
    opset = [helper.make_opsetid("", 17)]
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


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
