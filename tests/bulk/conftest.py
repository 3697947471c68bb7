"""A few images, tiny models, and one Ray for all tests."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from distilpose.backends.checkpoint import save_checkpoint
from distilpose.data.images import write_image
from distilpose.models import PoseModel


@pytest.fixture(scope="session")
def model_file(small_onnx: Path) -> Path:
    """A tiny exported model."""
    return small_onnx


@pytest.fixture(scope="session")
def checkpoint_file(small_model: PoseModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What it was exported from."""
    return save_checkpoint(small_model, tmp_path_factory.mktemp("bulk_checkpoint") / "tiny.safetensors")


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Folder of 12 images of different sizes in two folders, the fifth of them broken."""
    folder = tmp_path / "images"
    for name in ("b", "a/deep"):
        (folder / name).mkdir(parents=True)
    rng = np.random.default_rng(4)
    for number in range(12):
        place = folder / ("a/deep" if number < 7 else "b") / f"{number:02}.jpg"
        if number == 4:
            place.write_bytes(b"no image")
        else:
            write_image(place, rng.integers(0, 255, (60 + number, 80, 3), dtype=np.uint8))
    return folder


@pytest.fixture(scope="session")
def ray_here() -> Iterator[None]:
    """Ray on this machine for all tests that need it: starting it takes seconds."""
    from distilpose.bulk.engine import ray_session

    with ray_session(None):
        yield
