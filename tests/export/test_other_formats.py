"""LiteRT and Core ML files, where their packages are installed; without them, the command that installs them."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from distilpose.backends.base import runtime_of
from distilpose.backends.loading import as_backend, load_model
from distilpose.data.preprocess import network_input
from distilpose.errors import CheckpointError, ConfigError
from distilpose.export.export import export_model
from distilpose.export.onnx_file import quiet
from distilpose.export.rewrite import ExportForm
from distilpose.models import PoseModel, create_model


@pytest.fixture(scope="module")
def litert_file(student: PoseModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("litert_torch", reason='needs pip install "distilpose[litert-export]"')
    return export_model(student, tmp_path_factory.mktemp("litert") / "student.tflite").files[0]


@pytest.mark.parametrize(
    ("format", "package", "extra"),
    [
        ("litert", "litert_torch", "litert-export"),
        ("litert", "ai_edge_litert", "litert"),
        ("coreml", "coremltools", "coreml"),
    ],
)
def test_a_missing_package_names_its_extra(
    student: PoseModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, format: Any, package: str, extra: str
) -> None:
    for name in ("litert_torch", "ai_edge_litert", "ai_edge_quantizer"):
        monkeypatch.setitem(sys.modules, name, type(sys)(name))
        sys.modules[name].__spec__ = sys.__spec__  # as if it were installed
    monkeypatch.setitem(sys.modules, package, None)
    out = tmp_path / {"litert": "x.tflite", "coreml": "x.mlpackage"}[format]
    with pytest.raises(ConfigError, match=rf'needs {package}, .*: pip install "distilpose\[{extra}\]"'):
        export_model(student, out, format=format)
    assert not list(tmp_path.iterdir())


def test_a_litert_file_is_the_model_and_says_what_it_is(litert_file: Path, student: PoseModel) -> None:
    backend = load_model(litert_file, threads=1)
    assert str(runtime_of(backend)).startswith("LiteRT 2")
    assert backend.description.model == "distilpose_s"
    images = np.random.default_rng(0).standard_normal((3, 3, 64, 48)).astype(np.float32)
    found, expected = backend(images), as_backend(student)(images)
    for name in ("xy_norm", "sigma", "score"):
        np.testing.assert_allclose(getattr(found, name), getattr(expected, name), rtol=1e-3, atol=1e-4)
    with pytest.raises(ConfigError, match="device cuda is not there for LiteRT: it has cpu here"):
        load_model(litert_file, "cuda")
    with pytest.raises(ConfigError, match="runs in LiteRT, which computes as it was exported"):
        load_model(litert_file, compute="bfloat16")


def test_broken_litert_files(litert_file: Path, tmp_path: Path) -> None:
    content, bad = litert_file.read_bytes(), tmp_path / "bad.tflite"
    flipped = bytearray(content)
    flipped[len(content) // 2] ^= 1
    for data, message in ((b"", "cannot be read by LiteRT"), (b"hello" * 9, "by LiteRT"), (bytes(flipped), "damaged")):
        bad.write_bytes(data)
        with pytest.raises(CheckpointError, match=message):
            load_model(bad)


@pytest.mark.slow
def test_litert_in_half_and_int8(student: PoseModel, crops: NDArray[np.uint8], tmp_path: Path) -> None:
    pytest.importorskip("litert_torch", reason='needs pip install "distilpose[litert-export]"')
    whole = export_model(student, tmp_path / "whole.tflite", uint8_input=True).megabytes
    half = export_model(student, tmp_path / "half.tflite", precision="float16").megabytes
    int8 = export_model(student, tmp_path / "int8.tflite", precision="int8", calibration=crops)
    assert half < 0.6 * whole
    assert int8.megabytes < 0.4 * whole
    backend, torch_backend = as_backend(tmp_path / "int8.tflite"), as_backend(student)
    images = network_input(crops[8:16], torch_backend.description.normalization)
    expected = torch_backend(images).xy_norm
    assert 0 < np.abs(backend(images).xy_norm - expected).mean() < 0.25 * expected.std()


def test_the_graph_that_coreml_is_given_has_no_operations_that_it_lacks() -> None:
    model = create_model("distilpose_mobilenet", input_size_hw=(64, 48), depth=2).eval()
    with quiet(), torch.inference_mode():
        traced = torch.jit.trace(ExportForm(model).eval(), torch.zeros(2, 3, 64, 48))
    used = {node.kind() for node in traced.inlined_graph.nodes()}
    assert "aten::_convolution" in used
    assert not used & {"aten::Int", "aten::mT"}  # coremltools 9 fails on constant sizes with numpy 2.4


def test_a_coreml_file_has_the_inputs_and_outputs(tmp_path: Path) -> None:
    coremltools = pytest.importorskip("coremltools", reason='needs pip install "distilpose[coreml]"')
    student = create_model("distilpose_mobilenet", input_size_hw=(64, 48), depth=2)
    for _ in range(2):  # the second replaces the first
        report = export_model(student, tmp_path / "x.mlpackage", precision="float16")
    assert (report.errors, report.megabytes > 1) == ((), True)
    spec = coremltools.utils.load_spec(str(tmp_path / "x.mlpackage")).description
    assert [value.name for value in spec.input] == ["images"]
    assert {value.name for value in spec.output} == {"xy_norm", "sigma", "score"}
    assert '"precision": "float16"' in spec.metadata.userDefined["distilpose"]
    with pytest.raises(ConfigError, match="coreml files are written in float32 and float16"):
        export_model(
            student, tmp_path / "y.mlpackage", precision="int8", calibration=np.zeros((8, 64, 48, 3), np.uint8)
        )
    with pytest.raises(ConfigError, match="no uint8 input"):
        export_model(student, tmp_path / "y.mlpackage", uint8_input=True)
