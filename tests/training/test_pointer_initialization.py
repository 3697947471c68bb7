"""Pointer initialization: the head reads places, attention differs between patches, nothing else changes."""

import pytest
import torch

from distilpose.models import create_model
from distilpose.training.initialization import initialize_pointer
from distilpose.training.train import train

OPTIONS = {"input_size_hw": (64, 48), "patch_size_hw": (4, 3), "dim": 32, "depth": 2, "num_heads": 4}


@pytest.mark.parametrize("name", ["distilpose_s", "tokenpose_s"])
def test_the_head_learns_to_read_a_patch_s_place(name) -> None:
    torch.manual_seed(0)
    model = create_model(name, **OPTIONS)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    error = initialize_pointer(model, torch.randn(4, 3, 64, 48), seed=1)
    # Saying "the middle" for places spread over the crop errs by about 1/12 squared, in both coordinates.
    assert error < (0.02 if name == "distilpose_s" else 0.05)
    changed = {key for key, value in model.state_dict().items() if not torch.equal(value, before[key])}
    assert all(key.startswith(("head.", "encoder.blocks.1.")) for key in changed)
    assert "encoder.blocks.1.qkv.weight" in changed


def test_same_seed_same_start() -> None:
    images = torch.randn(4, 3, 64, 48)
    weights = []
    for _ in range(2):
        torch.manual_seed(0)
        model = create_model("distilpose_s", **OPTIONS)
        initialize_pointer(model, images, seed=3)
        weights.append(torch.cat([p.flatten() for p in model.parameters()]))
    assert torch.equal(*weights)


def test_a_run_may_start_pointing_and_resume(make_config) -> None:
    config = make_config("run", start="pointer", epochs=1)
    assert train(config).last.exists()
    train(config, resume=True)
