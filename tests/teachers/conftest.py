"""Small teachers of every kind, made here."""

from pathlib import Path

import numpy as np
import pytest
import torch
from teacher_parts import K


@pytest.fixture(scope="session")
def vitpose_folder(tmp_path_factory: pytest.TempPathFactory):
    """Function (number of experts) -> folder of a tiny ViTPose with random weights."""
    transformers = pytest.importorskip("transformers")
    from transformers.models.vitpose.image_processing_pil_vitpose import VitPoseImageProcessorPil

    def make(num_experts: int = 1) -> Path:
        folder = tmp_path_factory.mktemp("vitpose")
        torch.manual_seed(3)
        backbone = transformers.VitPoseBackboneConfig(
            image_size=(64, 48), patch_size=(16, 16), hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
            num_experts=num_experts, part_features=8, out_indices=[2],
        )  # fmt: skip
        config = transformers.VitPoseConfig(backbone_config=backbone, num_labels=K, initializer_range=0.3)
        transformers.VitPoseForPoseEstimation(config).save_pretrained(folder)
        VitPoseImageProcessorPil(size={"height": 64, "width": 48}).save_pretrained(folder)
        return folder

    return make


@pytest.fixture(scope="session")
def weights() -> np.ndarray:
    """(K, 3, 4, 4) of the convolution in `heatmap_file`."""
    return np.random.default_rng(0).normal(0, 0.1, (K, 3, 4, 4)).astype(np.float32)


@pytest.fixture(scope="session")
def onnx_file(tmp_path_factory: pytest.TempPathFactory, weights: np.ndarray):
    """Function (kind "heatmaps" or "axes", batch, size) -> ONNX file: a convolution, or its means along both axes."""
    onnx = pytest.importorskip("onnx")
    from onnx import TensorProto, helper, numpy_helper

    def make(
        kind: str = "heatmaps", batch: int | str = "batch", size_hw: tuple[int | str, int | str] = (64, 48)
    ) -> Path:
        def value(name: str, *shape: int | str):
            return helper.make_tensor_value_info(name, TensorProto.FLOAT, list(shape))

        arrays = [numpy_helper.from_array(weights, "w")]
        nodes = [helper.make_node("Conv", ["images", "w"], ["heatmaps"], strides=[4, 4])]
        outputs = [value("heatmaps", batch, K, "h", "w")]
        if kind == "axes":
            arrays = [numpy_helper.from_array(10 * weights[:, :, :1, :1], "w")]
            nodes = [
                helper.make_node("Conv", ["images", "w"], ["maps"]),
                helper.make_node("ReduceMean", ["maps"], ["simcc_x"], axes=[2], keepdims=0),
                helper.make_node("ReduceMean", ["maps"], ["simcc_y"], axes=[3], keepdims=0),
            ]
            outputs = [value("simcc_x", batch, K, "w"), value("simcc_y", batch, K, "h")]
        graph = helper.make_graph(nodes, "teacher", [value("images", batch, 3, *size_hw)], outputs, arrays)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
        path = tmp_path_factory.mktemp("onnx") / f"{kind}.onnx"
        onnx.save(model, path)
        return path

    return make
