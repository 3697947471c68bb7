"""The conversion of MoveNet on a small graph of the same operations, against torch."""

from __future__ import annotations

import base64
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))
from convert_movenet import FADING, add_fading, add_layers
from onnx import TensorProto, helper
from tensorflow_js import GraphBuilder, Model

CELLS = 4
PREFIX = "StatefulPartitionedCall/"
WEIGHTS = f"ConstantFolding/{PREFIX}truediv_2_recip"


def fused(name: str, operator: str, source: str, kernel: str, bias: str, stride: int, *activations: str) -> dict:
    operations = [base64.b64encode(text.encode()).decode() for text in ("BiasAdd", *activations)]
    attributes = {"strides": {"list": {"i": ["1", str(stride), str(stride), "1"]}}}
    attributes["fused_ops"] = {"list": {"s": operations}}
    return {"name": name, "op": operator, "input": [source, kernel, bias], "attr": attributes}


def small_model(generator: np.random.Generator) -> Model:
    """8 x 8 images -> a convolution of stride 2, a depthwise one, an enlarged sum and three heads of 4 x 4 cells."""
    shapes = {
        "first": (3, 3, 3, 6), "narrow": (3, 3, 6, 1), "heat": (1, 1, 6, 17), "regress": (1, 1, 6, 34),
        "center": (1, 1, 6, 1), "half": (3, 3, 6, 6),
    }  # fmt: skip
    tensors = {name: generator.normal(0, 0.5, shape).astype(np.float32) for name, shape in shapes.items()}
    biases = {"first": 6, "narrow": 6, "heat": 17, "regress": 34, "center": 1, "half": 6}
    tensors |= {f"{name}_bias": generator.normal(0, 0.5, n).astype(np.float32) for name, n in biases.items()}
    tensors[f"ConstantFolding/{PREFIX}truediv_2_recip"] = generator.uniform(0.5, 1, (CELLS, CELLS, 1)).astype(
        np.float32
    )
    heads = {"heat": f"{PREFIX}heat", "center": f"{PREFIX}center", "regress": f"{PREFIX}kpt_regress_0/conv2d_6/BiasAdd"}
    nodes = [
        fused("a", "_FusedConv2D", f"{PREFIX}sub_1", "first", "first_bias", 2, "Relu6"),
        fused("b", "FusedDepthwiseConv2dNative", "a", "narrow", "narrow_bias", 1, "Relu"),
        fused("coarse", "_FusedConv2D", "b", "half", "half_bias", 2),
        {"name": "large", "op": "ResizeBilinear", "input": ["coarse", "size"]},
        {"name": "sum", "op": "AddV2", "input": ["large", "b"]},
        *(fused(name, "_FusedConv2D", "sum", head, f"{head}_bias", 1) for head, name in heads.items()),
        {"name": f"{PREFIX}Sigmoid", "op": "Sigmoid", "input": [heads["heat"]]},
        {"name": f"{PREFIX}Sigmoid_1", "op": "Sigmoid", "input": [heads["center"]]},
    ]
    return Model(nodes, tensors, "")


def expected(model: Model, images: torch.Tensor) -> torch.Tensor:
    def kernel(name: str) -> torch.Tensor:
        axes = (2, 3, 0, 1) if name == "narrow" else (3, 2, 0, 1)
        return torch.from_numpy(model.tensors[name].transpose(axes).copy())

    def bias(name: str) -> torch.Tensor:
        return torch.from_numpy(model.tensors[f"{name}_bias"])

    a = F.conv2d(F.pad(images, (0, 1, 0, 1)), kernel("first"), bias("first"), stride=2).clamp(0, 6)
    b = F.conv2d(a, kernel("narrow"), bias("narrow"), padding=1, groups=6).relu()
    half = F.conv2d(F.pad(b, (0, 1, 0, 1)), kernel("half"), bias("half"), stride=2)
    total = F.interpolate(half, scale_factor=2, mode="bilinear", align_corners=False) + b
    heat, regress, center = (F.conv2d(total, kernel(name), bias(name)) for name in ("heat", "regress", "center"))
    weights = torch.from_numpy(model.tensors[WEIGHTS][..., 0].copy())
    result = heat.sigmoid()
    for sample in range(len(images)):
        row, column = divmod(int((center[sample, 0].sigmoid() * weights).argmax()), CELLS)
        for k in range(17):
            y, x = row + regress[sample, 2 * k, row, column], column + regress[sample, 2 * k + 1, row, column]
            rows, columns = torch.meshgrid(torch.arange(CELLS), torch.arange(CELLS), indexing="ij")
            result[sample, k] *= FADING / (FADING + torch.hypot(rows - y, columns - x))
    return result


def test_layers_and_fading_are_those_of_torch() -> None:
    generator = np.random.default_rng(0)
    model, graph = small_model(generator), GraphBuilder()
    graph.add("Identity", "images", output=f"{PREFIX}sub_1")
    add_layers(graph, model)
    add_fading(graph, model, CELLS)
    images = helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", 3, 8, 8])
    heatmaps = helper.make_tensor_value_info("heatmaps", TensorProto.FLOAT, ["batch", 17, CELLS, CELLS])
    file = graph.build("small", [images], [heatmaps], {}).SerializeToString()
    pixels = generator.normal(0, 1, (3, 3, 8, 8)).astype(np.float32)
    (found,) = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"]).run(None, {"images": pixels})
    np.testing.assert_allclose(found, expected(model, torch.from_numpy(pixels)).numpy(), atol=1e-5)
