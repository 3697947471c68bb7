"""Servers that really run, over loopback."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Generator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from serving_client import SIZE_HW, Telltale

from background_server import BackgroundServer
from distilpose.backends.description import METADATA_KEY, ModelDescription
from distilpose.serving.options import ServeOptions
from distilpose.serving.server import PoseServer


@pytest.fixture(scope="session")
def address() -> Generator[str]:
    """A server with the default options, shared by tests that leave it as it is."""
    server = PoseServer(ServeOptions(model=Telltale(), port=0, detector="whole-image"))
    with BackgroundServer(server):
        yield server.address


@pytest.fixture
def start() -> Generator[Callable[..., PoseServer]]:
    """Function (backend, detector, options ...) -> a server of its own, ended after the test."""
    with ExitStack() as stack:

        def make(
            backend: Any = None, detector: Any = "whole-image", api_key: str | None = None, **options: Any
        ) -> PoseServer:
            model = backend or Telltale()
            server = PoseServer(ServeOptions(model=model, port=0, detector=detector, **options), api_key)
            stack.enter_context(BackgroundServer(server))
            if isinstance(model, Telltale):
                stack.callback(model.gate.set)  # before the server ends
            return server

        yield make


@pytest.fixture(scope="session")
def tiny_onnx(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An exported file in miniature: the mean red and green of a crop, in the network's numbers, at each keypoint."""
    from onnx import TensorProto, helper, numpy_helper, save

    rows = np.zeros((3, 34), np.float32)
    rows[0, 0::2] = rows[1, 1::2] = 1
    nodes = [
        helper.make_node("GlobalAveragePool", ["images"], ["mean"]),
        helper.make_node("Flatten", ["mean"], ["flat"]),
        helper.make_node("MatMul", ["flat", "rows"], ["xy"]),
        helper.make_node("Reshape", ["xy", "shape"], ["xy_norm"]),
    ]
    constants = [numpy_helper.from_array(rows, "rows"), numpy_helper.from_array(np.array([-1, 17, 2]), "shape")]
    inputs = [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["B", 3, *SIZE_HW])]
    outputs = [helper.make_tensor_value_info("xy_norm", TensorProto.FLOAT, ["B", 17, 2])]
    model = helper.make_model(
        helper.make_graph(nodes, "tiny", inputs, outputs, constants),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=9,
    )
    description = ModelDescription("tiny", "regression", SIZE_HW, (16, 12))
    helper.set_model_props(model, {METADATA_KEY: json.dumps(description.to_dict())})
    path = tmp_path_factory.mktemp("tiny") / "tiny.onnx"
    save(model, path)
    return path
