"""Fixtures that several test files share."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

TESTS = Path(__file__).parent
sys.path.insert(0, str(TESTS / "reference"))
torch.set_num_threads(1)  # tests run in several processes


@pytest.fixture(scope="session")
def reference_dir() -> Path:
    """Numbers of the released code, with the script that makes its checkpoints."""
    return TESTS / "reference"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real images and people, which are not part of the repository."""
    folder = TESTS.parent.parent / "shared" / "data"
    if not (folder / "coco_fixture" / "test_coco.json").is_file():
        pytest.skip(f"real images are not part of the repository and {folder} is not there")
    return folder


@pytest.fixture(scope="session")
def released_file(tmp_path_factory: pytest.TempPathFactory):
    """Function (model name, seed) -> a checkpoint in the released layout with reproducible weights."""
    import make_checkpoint

    folder = tmp_path_factory.mktemp("released")

    def make(model: str, seed: int = 0) -> Path:
        path = folder / f"{model}_{seed}.pth"
        if not path.exists():
            state = {k: torch.from_numpy(np.array(v)) for k, v in make_checkpoint.state_dict(model, seed).items()}
            torch.save({"meta": {"epoch": 300}, "state_dict": state}, path)
        return path

    return make


@pytest.fixture(scope="session")
def golden_images() -> torch.Tensor:
    """(2, 3, 256, 192): the input of the released code's golden outputs."""
    values = np.random.default_rng([0, 99]).standard_normal((2, 3, 256, 192))
    return torch.from_numpy(values.astype(np.float32))
