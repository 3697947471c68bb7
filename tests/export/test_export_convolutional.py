"""Exported networks without tokens: the same numbers in both runtimes, int8 with a head in floating point."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray

import distilpose
from distilpose.backends.description import ModelDescription
from distilpose.backends.loading import as_backend
from distilpose.data.preprocess import network_input
from distilpose.export.export import SUFFIXES, calibration_crops, export_model
from distilpose.models import PoseModel, create_model

SIZE_HW = (64, 64)


@pytest.fixture(scope="module", params=[pytest.param("deeppose_r18", marks=pytest.mark.slow), "simplebaseline_r18"])
def model(request: pytest.FixtureRequest, shaken: Callable[[PoseModel], PoseModel]) -> PoseModel:
    torch.manual_seed(3)
    return shaken(create_model(request.param, input_size_hw=SIZE_HW))


@pytest.fixture(scope="module")
def crops(people: Path) -> NDArray[np.uint8]:
    return calibration_crops(people, ModelDescription("any", "regression", SIZE_HW, SIZE_HW))


def test_onnx_file_predicts_what_the_model_predicts(model: PoseModel, tmp_path: Path) -> None:
    report = export_model(model, tmp_path / "model.onnx", format="onnx", uint8_input=True)  # compares every output
    assert report.batches == (1, 3, 8)
    image = np.random.default_rng(0).integers(0, 256, (120, 160, 3), dtype=np.uint8)
    boxes = [[10, 10, 70, 110], [60, 5, 150, 100]]
    found = distilpose.PosePredictor(tmp_path / "model.onnx", flip_test="aligned")(image, boxes)
    expected = distilpose.PosePredictor(model, flip_test="aligned")(image, boxes)
    np.testing.assert_allclose(found.xy, expected.xy, rtol=1e-3, atol=0.05)  # unclear peaks may lie far out


@pytest.mark.slow
@pytest.mark.parametrize("format", ["onnx", "openvino"])
def test_int8_leaves_the_head_alone(model: PoseModel, crops: NDArray[np.uint8], format: str, tmp_path: Path) -> None:
    path = tmp_path / f"model{SUFFIXES[format]}"
    export_model(model, path, format=format, precision="int8", calibration=crops)
    images = network_input(crops[:4], as_backend(model).description.normalization)
    found, expected = as_backend(path)(images)[0], as_backend(model)(images)[0]
    assert np.abs(found - expected).mean() < 0.25 * expected.std()
    if format != "onnx":
        return
    graph = onnx.load(path).graph
    maker = {name: node for node in graph.node for name in node.output}
    last = maker[graph.output[0].name]
    while last.op_type not in ("Conv", "Gemm", "MatMul"):
        last = maker[last.input[0]]
    assert not any(maker[name].op_type == "DequantizeLinear" for name in last.input if name in maker)
    assert sum(node.op_type == "QuantizeLinear" for node in graph.node) > 15
