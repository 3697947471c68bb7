"""Fixtures that several test files share."""

import gc
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from filelock import FileLock
from numpy.typing import NDArray

from distilpose.data.augment import AugmentOptions
from distilpose.export.export import export_model
from distilpose.models import PoseModel, create_model
from distilpose.training.config import DataConfig, DatasetConfig, OptimizerConfig, TrainConfig
from distilpose.training.train import train
from known_model import BRIGHT_XY, BrightestPixel
from synthetic_people import write_synthetic_dataset

TESTS = Path(__file__).parent
SMALL = {"input_size_hw": [64, 48], "patch_size_hw": [4, 3], "dim": 16, "depth": 1, "num_heads": 2}
sys.path.insert(0, str(TESTS / "reference"))
torch.set_num_threads(1)  # tests run in several processes
os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(prefix="distilpose-cache-")


def pytest_collection_finish() -> None:
    """What is imported stays: the garbage collector need not look at it again and again."""
    gc.freeze()


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
def shaken() -> Callable[[torch.nn.Module], torch.nn.Module]:
    """Function that makes a model's batch norms and last layers matter as in a trained one."""

    def shake(model: torch.nn.Module) -> torch.nn.Module:
        for part in model.modules():
            if isinstance(part, torch.nn.BatchNorm2d):
                part.running_mean.normal_(std=0.1)
                part.running_var.uniform_(0.5, 2)
            elif isinstance(part, torch.nn.Linear | torch.nn.ConvTranspose2d):
                torch.nn.init.normal_(part.weight, std=part.weight.shape[1] ** -0.5)
        return model.eval()

    return shake


@pytest.fixture(scope="session")
def golden_images() -> torch.Tensor:
    """(2, 3, 256, 192): the input of the released code's golden outputs."""
    values = np.random.default_rng([0, 99]).standard_normal((2, 3, 256, 192))
    return torch.from_numpy(values.astype(np.float32))


@pytest.fixture(scope="session")
def small_model() -> PoseModel:
    """The smallest student, with random weights, in every process the same."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return create_model("distilpose_s", **SMALL).eval()


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that the processes of one run share: what takes seconds is made there once, under a lock."""
    folder = tmp_path_factory.getbasetemp()
    return folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder


@pytest.fixture(scope="session")
def small_onnx(small_model: PoseModel, run_folder: Path) -> Path:
    """``small_model`` as an ONNX file."""
    file = run_folder / "small.onnx"
    with FileLock(f"{file}.lock"):
        if not file.exists():
            export_model(small_model, file, format="onnx")
    return file


@pytest.fixture
def backend() -> BrightestPixel:
    return BrightestPixel()


@pytest.fixture
def bare_backend() -> BrightestPixel:
    return BrightestPixel(bare=True)


@pytest.fixture
def image() -> NDArray[np.uint8]:
    """(300, 400, 3), black but for a soft spot at pixel (211, 143)."""
    rows, columns = np.ogrid[:300, :400]
    squared = (columns - BRIGHT_XY[0]) ** 2 + (rows - BRIGHT_XY[1]) ** 2
    return np.rint(250 * np.exp(-squared / 50))[..., None].repeat(3, axis=2).astype(np.uint8)


@pytest.fixture(scope="session")
def drawn_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with drawn people."""
    folder = tmp_path_factory.mktemp("drawn")
    write_synthetic_dataset(folder, 16, seed=5)
    return folder


def small_run(people_folder: Path, **changes: object) -> TrainConfig:
    """A small run on drawn people, into ``out``."""
    people = DatasetConfig("person_keypoints.json", "images")
    data = DataConfig([people], people, root=str(people_folder), batch_size=8, workers=0, samples_per_epoch=16)
    values: dict[str, object] = {
        "data": data,
        "model_options": dict(SMALL),
        "epochs": 2,
        "evaluate_every": 1,
        "log_every": 1,
        "optimizer": OptimizerConfig(warmup_steps=2, schedule="cosine"),
        "augment": AugmentOptions(color_jitter=0.2),
        "accelerator": "cpu",
    }
    return TrainConfig(**{**values, **changes})


@pytest.fixture
def make_config(drawn_data: Path, tmp_path: Path):
    """Function (name of the run, changes) -> a small run on drawn people."""
    return lambda name, **changes: small_run(drawn_data, **{"out": str(tmp_path / name), **changes})


@pytest.fixture(scope="session")
def trained_teacher(drawn_data: Path, run_folder: Path) -> str:
    """A tokenpose_s of one epoch, which tests only read."""
    out = run_folder / "trained_teacher"
    with FileLock(f"{out}.lock"):
        if not out.exists():
            train(small_run(drawn_data, out=str(out), model="tokenpose_s", epochs=1, evaluate_every=9))
    return str(out / "last.safetensors")
