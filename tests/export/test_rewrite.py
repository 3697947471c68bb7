"""The exported form is the model, to the last digits of float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from distilpose.data.preprocess import Normalization, normalize
from distilpose.export.rewrite import ExportForm
from distilpose.models import create_model

SIZE_HW = (64, 48)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("distilpose_s", {}),
        ("distilpose_s", {"num_sigmas": 1, "num_keypoints": 5}),
        ("distilpose_s", {"num_sigmas": 0, "with_score": False, "patch_size_hw": (2, 4)}),
        ("distilpose_p", {"num_heads": 4}),
        ("distilpose_t", {}),
        ("distilpose_m", {"visual_depth": 1}),
        ("distilpose_m", {"visual_depth": 3}),
        ("tokenpose_s", {}),
        ("tokenpose_m", {}),
    ],
)
def test_same_numbers(name: str, options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    model = create_model(name, input_size_hw=SIZE_HW, **{"depth": 3, **options}).double().eval()
    for part in model.modules():
        if isinstance(part, torch.nn.Linear):
            part.weight.data.normal_(std=part.in_features**-0.5)  # attention that attends
    images = torch.randn(3, 3, *SIZE_HW, dtype=torch.float64)
    with torch.no_grad():
        expected = [v for v in model(images)._replace(keypoint_tokens=None, visual_tokens=None) if v is not None]
        form = ExportForm(model)
        found = form(images)
    assert len(found) == len(expected) == len(form.output_names)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


def test_the_model_is_not_changed() -> None:
    model = create_model("distilpose_s", input_size_hw=SIZE_HW, depth=1).eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    ExportForm(model, Normalization())(torch.zeros(1, 3, *SIZE_HW, dtype=torch.uint8))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_pixels_are_normalized_as_outside() -> None:
    normalization = Normalization(mean=(0.1, 0.5, 0.9), std=(0.2, 0.3, 0.4))
    model = create_model("distilpose_s", input_size_hw=SIZE_HW, depth=1).eval()
    pixels = torch.randint(0, 256, (2, *SIZE_HW, 3), dtype=torch.uint8)
    with torch.no_grad():
        found = ExportForm(model, normalization)(pixels.permute(0, 3, 1, 2))
        expected = model(torch.from_numpy(normalize(pixels.numpy(), normalization)))
    torch.testing.assert_close(found[0], expected.xy_norm, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found[2], expected.score, rtol=1e-4, atol=1e-5)
