"""Servers that really run, over loopback."""

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
from onnx_text import save_onnx, tensor


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
    rows = np.zeros((3, 34), np.float32)
    rows[0, 0::2] = rows[1, 1::2] = 1
    nodes = [
        "mean = GlobalAveragePool (images)",
        "flat = Flatten (mean)",
        "xy = MatMul (flat, rows)",
        "xy_norm = Reshape (xy, shape)",
    ]
    inputs, outputs = [tensor("images", "B", 3, *SIZE_HW)], [tensor("xy_norm", "B", 17, 2)]
    description = ModelDescription("tiny", "regression", SIZE_HW, (16, 12))
    metadata = {METADATA_KEY: json.dumps(description.to_dict())}
    path, arrays = tmp_path_factory.mktemp("tiny") / "tiny.onnx", {"rows": rows, "shape": [-1, 17, 2]}
    return save_onnx(path, inputs, outputs, nodes, arrays, metadata=metadata)
