"""Small teachers of every kind, made here."""

from pathlib import Path

import numpy as np
import pytest
import torch
from teacher_parts import K

from onnx_text import save_onnx, tensor


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

    def make(
        kind: str = "heatmaps", batch: int | str = "batch", size_hw: tuple[int | str, int | str] = (64, 48)
    ) -> Path:
        nodes, outputs = ["heatmaps = Conv <strides = [4, 4]> (images, w)"], [tensor("heatmaps", batch, K, "h", "w")]
        if kind == "axes":
            means = (
                f"simcc_{axis} = ReduceMean <axes = [{at}], keepdims = 0> (maps)" for axis, at in (("x", 2), ("y", 3))
            )
            nodes = ["maps = Conv (images, w)", *means]
            outputs = [tensor("simcc_x", batch, K, "w"), tensor("simcc_y", batch, K, "h")]
        arrays = {"w": 10 * weights[:, :, :1, :1] if kind == "axes" else weights}
        path = tmp_path_factory.mktemp("onnx") / f"{kind}.onnx"
        return save_onnx(path, [tensor("images", batch, 3, *size_hw)], outputs, nodes, arrays, opset=13)

    return make
