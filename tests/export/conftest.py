"""Small models and their exported files, made once."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from filelock import FileLock
from numpy.typing import NDArray

from distilpose.backends.checkpoint import save_checkpoint
from distilpose.backends.description import ModelDescription
from distilpose.export import onnx_file, openvino_file
from distilpose.export.export import SUFFIXES, calibration_crops, export_model
from distilpose.export.rewrite import ExportForm
from distilpose.models import PoseModel, create_model
from distilpose.types import Size
from synthetic_people import write_synthetic_dataset

SIZE_HW = (64, 48)


def small(name: str) -> PoseModel:
    """A model whose batch norms and position codes matter as in a trained one."""
    torch.manual_seed(3)
    model = create_model(name, input_size_hw=SIZE_HW, depth=2).eval()
    generator = torch.Generator().manual_seed(4)
    for part in model.modules():
        if isinstance(part, torch.nn.BatchNorm2d):
            part.running_mean.normal_(generator=generator, std=0.1)
            part.running_var.uniform_(0.5, 2, generator=generator)
        elif isinstance(part, torch.nn.Linear):
            part.weight.data.normal_(generator=generator, std=part.in_features**-0.5)
    return model


@pytest.fixture(scope="session")
def student() -> PoseModel:
    return small("distilpose_s")


@pytest.fixture(scope="session")
def teacher() -> PoseModel:
    return small("tokenpose_s")


@pytest.fixture(scope="session")
def checkpoint(student: PoseModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_checkpoint(student, tmp_path_factory.mktemp("checkpoint") / "student.safetensors")


@pytest.fixture(scope="session")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """COCO file of drawn people, images beside it."""
    return write_synthetic_dataset(tmp_path_factory.mktemp("people"), 16)


@pytest.fixture(scope="session")
def crops(people: Path) -> NDArray[np.uint8]:
    return calibration_crops(people, ModelDescription("any", "regression", SIZE_HW, SIZE_HW))


@pytest.fixture(scope="session")
def traced_once(run_folder: Path) -> Callable[[str], AbstractContextManager[None]]:
    """Function (key) -> block in which exports take the graph that torch traced for the first export of that key.

    Every format and precision starts from the same float32 graph, whose tracing takes most of the time.
    """
    trace = onnx_file.export_onnx

    @contextmanager
    def block(key: str) -> Iterator[None]:
        graph = run_folder / f"traced_{key}.onnx"

        def copy(form: ExportForm, input_size_hw: Size, path: Path) -> None:
            with FileLock(f"{graph}.lock"):
                if not graph.exists():
                    trace(form, input_size_hw, graph)
            shutil.copy(graph, path)

        with pytest.MonkeyPatch.context() as patch:
            for module in (onnx_file, openvino_file):
                patch.setattr(module, "export_onnx", copy)
            yield

    return block


@pytest.fixture(scope="session")
def exported(
    student: PoseModel,
    teacher: PoseModel,
    crops: NDArray[np.uint8],
    traced_once: Callable[[str], AbstractContextManager[None]],
    run_folder: Path,
) -> Callable[..., Path]:
    """Function (kind, format, precision, uint8_input) -> the exported file."""

    def make(kind: str, format: str, precision: str = "float32", uint8_input: bool = False) -> Path:
        path = run_folder / f"{kind}_{precision}_{uint8_input}_{format}{SUFFIXES[format]}"
        model, calibration = {"student": student, "teacher": teacher}[kind], crops if precision == "int8" else None
        with FileLock(f"{path}.lock"), traced_once(f"{kind}_{uint8_input}"):
            if not path.exists():
                export_model(
                    model, path, format=format, precision=precision, calibration=calibration, uint8_input=uint8_input
                )
        return path

    return make
