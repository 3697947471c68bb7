"""Small foreign networks as ONNX files."""

from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

SIZE_HW = (64, 48)


def write_network(
    path: Path,
    outputs: dict[str, tuple[int, ...]],
    *,
    batch: int | str = "batch",
    weights: dict[str, NDArray[np.float32]] | None = None,
) -> Path:
    """A linear network: every output is the image, thinned out to 8 x 6 cells, times random weights."""
    nodes = [
        helper.make_node("Resize", ["images", "", "scales"], ["small"], mode="nearest"),
        helper.make_node("Flatten", ["small"], ["flat"]),
    ]
    constants = [numpy_helper.from_array(np.array([1, 1, 8 / SIZE_HW[0], 6 / SIZE_HW[1]], np.float32), "scales")]
    for seed, (name, shape) in enumerate(outputs.items()):
        values = np.random.default_rng(seed).standard_normal((3 * 8 * 6, int(np.prod(shape)))).astype(np.float32)
        values = values if weights is None else weights[name]
        constants.append(numpy_helper.from_array(values, f"{name}_weights"))
        constants.append(numpy_helper.from_array(np.array([0, *shape]), f"{name}_shape"))
        nodes.append(helper.make_node("MatMul", ["flat", f"{name}_weights"], [f"{name}_flat"]))
        nodes.append(helper.make_node("Reshape", [f"{name}_flat", f"{name}_shape"], [name]))
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [batch, 3, *SIZE_HW])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [batch, *shape]) for name, shape in outputs.items()],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, path)
    return path


def simcc(path: Path, count: int = 17) -> Path:
    return write_network(path, {"simcc_x": (count, 96), "simcc_y": (count, 128)})
