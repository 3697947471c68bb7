"""ONNX files from ONNX's own text form."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest


def tensor(name: str, *sides: int | str, kind: str = "float") -> str:
    """An input or output in ONNX's text form; a side that is a text is free."""
    return f"{kind}[{', '.join(map(str, sides))}] {name}"


def save_onnx(
    file: Path,
    inputs: Iterable[str],
    outputs: Iterable[str],
    nodes: Iterable[str],
    arrays: Mapping[str, Any] | None = None,
    *,
    opset: int = 18,
    metadata: dict[str, str] | None = None,
) -> Path:
    """Write a graph of these nodes, with these constant arrays."""
    onnx = pytest.importorskip("onnx")
    graph = f"graph ({', '.join(inputs)}) => ({', '.join(outputs)}) {{ {' '.join(nodes)} }}"
    model = onnx.parser.parse_model(f'<ir_version: 9, opset_import: ["" : {opset}]> {graph}')
    named = (arrays or {}).items()
    model.graph.initializer.extend(onnx.numpy_helper.from_array(np.asarray(value), name) for name, value in named)
    onnx.helper.set_model_props(model, metadata or {})
    onnx.checker.check_model(model)
    onnx.save(model, file)
    return file
