"""Blocks that only read survive the way into an exported file, at every batch size."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from distilpose.backends.loading import as_backend
from distilpose.data.preprocess import network_input
from distilpose.export.export import SUFFIXES, Format, export_model
from distilpose.models import create_model

SIZE_HW = (64, 48)


@pytest.mark.parametrize(
    ("name", "format", "options"),
    [
        ("distilpose_mobilenet", "onnx", {"depth": 2}),  # the second block only reads
        ("distilpose_mobilenet", "openvino", {"depth": 2}),
        pytest.param("distilpose_m", "onnx", {"depth": 3, "visual_depth": 2}, marks=pytest.mark.slow),
        pytest.param("distilpose_lite0", "onnx", {"depth": 1}, marks=pytest.mark.slow),
        pytest.param("distilpose_t", "openvino", {"depth": 2}, marks=pytest.mark.slow),
    ],
)
def test_exported_files_agree_with_torch(
    name: str, format: Format, options: dict[str, Any], traced_once: Any, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    model = create_model(name, input_size_hw=SIZE_HW, **options).eval()
    for part in model.encoder.modules():
        if isinstance(part, torch.nn.Linear):
            part.weight.data.normal_(std=part.in_features**-0.5)  # attention that chooses
    with traced_once(name):
        export_model(model, tmp_path / f"m{SUFFIXES[format]}", format=format)
    backend = as_backend(tmp_path / f"m{SUFFIXES[format]}")
    assert dict(backend.description.options).items() >= options.items()
    images = torch.randn(5, 3, *SIZE_HW)  # a batch size that `verify` does not try
    with torch.inference_mode():
        expected = model(images)
    torch.testing.assert_close(torch.from_numpy(backend(images.numpy()).xy_norm), expected.xy_norm, rtol=0, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("format", ["onnx", "openvino"])
@pytest.mark.parametrize("name", ["distilpose_mobilenet", "distilpose_lite0"])
def test_depthwise_convolutions_in_int8(name: str, format: Format, crops: Any, shaken: Any, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = shaken(create_model(name, input_size_hw=SIZE_HW, depth=1))
    path = tmp_path / f"m{SUFFIXES[format]}"
    export_model(model, path, format=format, precision="int8", calibration=crops)
    images = network_input(crops[:4], as_backend(model).description.normalization)
    found, expected = as_backend(path)(images).xy_norm, as_backend(model)(images).xy_norm
    assert np.abs(found - expected).mean() < 0.25 * expected.std()
