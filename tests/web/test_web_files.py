"""The folder of the page: what is in it, what it refers to, and what is said when something is missing."""

import hashlib
import json
import re
from pathlib import Path

import pytest

from distilpose.backends.description import METADATA_KEY, ModelDescription
from distilpose.cli import main as cli
from distilpose.errors import CheckpointError, ConfigError, InputError
from distilpose.serving import web
from distilpose.serving.web import (
    RUNTIME_FILES,
    RUNTIME_VERSION,
    STATIC,
    WebOptions,
    build_page,
    find_runtime,
    own_files,
)
from onnx_text import save_onnx, tensor

ROOT = Path(__file__).parents[2]


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A folder like that of the npm package."""
    folder = tmp_path / "node_modules" / "onnxruntime-web"
    (folder / "dist").mkdir(parents=True)
    for name in RUNTIME_FILES:
        (folder / "dist" / name).write_text(f"content of {name}")
    (folder / "package.json").write_text(json.dumps({"version": RUNTIME_VERSION}))
    return folder


def write_model(path: Path, output: str = "xy_norm", description: ModelDescription | None = None) -> Path:
    """A file that says it is a student and always sees the same."""
    inside = description or ModelDescription("tiny", "regression", (64, 48), (16, 12), normalization=None)
    kind = "uint8" if inside.normalization is None else "float"
    shape = [17, 2] if inside.output == "regression" else [17, 16, 12]
    nodes = [
        "batch = Shape <end = 1> (images)",
        "shape = Concat <axis = 0> (batch, rest)",
        f"{output} = ConstantOfShape (shape)",
    ]
    images, found = tensor("images", "batch", 3, 64, 48, kind=kind), tensor(output, "batch", *shape)
    metadata = {METADATA_KEY: json.dumps(inside.to_dict())}
    return save_onnx(path, [images], [found], nodes, {"rest": shape}, metadata=metadata)


def test_the_folder_has_all_that_the_page_asks_for(tmp_path: Path, package: Path) -> None:
    first, second = (write_model(tmp_path / f"{name}.onnx") for name in ("first", "second"))
    out = tmp_path / "site"
    build_page(WebOptions(out=out, models=[write_model(tmp_path / "old.onnx")], runtime=package))
    report = build_page(WebOptions(out=out, models=[first, second], runtime=package))
    manifest = json.loads((out / "manifest.json").read_text())
    assert [entry["name"] for entry in manifest["models"]] == ["first", "second"]
    detector = ["NOTICE_DETECTOR.md", "nanodet_g_person.onnx"]
    assert sorted(path.name for path in (out / "models").iterdir()) == sorted([*detector, "first.onnx", "second.onnx"])
    content = (out / manifest["detector"]["file"]).read_bytes()
    assert manifest["detector"]["bytes"] == len(content)
    assert manifest["detector"]["sha256"] == hashlib.sha256(content).hexdigest()
    for entry in manifest["models"]:
        content = (out / entry["file"]).read_bytes()
        assert entry["bytes"] == len(content)
        assert entry["sha256"] == hashlib.sha256(content).hexdigest()
        assert entry["input_size_hw"] == [64, 48]
        assert entry["normalization"] is None
        assert len(entry["skeleton"]["sides"]) == len(entry["skeleton"]["keypoint_names"]) == 17
    for name in ("script", "glue", "wasm"):
        assert (out / manifest["runtime"][name]).is_file()
    assert "MIT" in (out / "vendor" / "NOTICE.txt").read_text()
    assert {path.name for path in own_files()} <= {path.name for path in out.iterdir()}
    assert report.megabytes == pytest.approx(sum(p.stat().st_size for p in out.rglob("*") if p.is_file()) / 1e6)


def test_the_page_refers_to_its_own_files_only() -> None:
    for path in own_files():
        text = path.read_text()
        assert not re.findall(r"(?:https?:)?//[a-z0-9-]+\.[a-z]", text.replace("http://www.w3.org/2000/svg", "")), path
        for name in re.findall(r"(?:from |import )'([^']+)'|(?:src|href)=\"([^\"#]+)\"", text):
            found = "".join(name)
            assert not found.startswith("/"), (path, found)
            assert (STATIC / found).is_file(), (path, found)


def test_the_runtime_is_one_version_everywhere() -> None:
    package = json.loads((ROOT / "web" / "package.json").read_text())
    lock = json.loads((ROOT / "web" / "package-lock.json").read_text())
    assert package["dependencies"] == {"onnxruntime-web": RUNTIME_VERSION}
    assert lock["packages"]["node_modules/onnxruntime-web"]["version"] == RUNTIME_VERSION


def test_a_missing_or_other_runtime_is_said(tmp_path: Path, package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "NODE_MODULES", tmp_path / "nowhere")
    monkeypatch.setattr(web, "STATIC", tmp_path / "static")
    with pytest.raises(ConfigError, match=r"make web.*needs Node\.js"):
        find_runtime()
    (tmp_path / "static" / "vendor").mkdir(parents=True)
    for name in RUNTIME_FILES.values():
        (tmp_path / "static" / "vendor" / name).touch()
    assert list(find_runtime()) == list(RUNTIME_FILES.values())  # of an earlier build
    (package / "package.json").write_text('{"version": "0.1.0"}')
    with pytest.raises(ConfigError, match=r"got 0\.1\.0"):
        find_runtime(package)
    (package / "package.json").unlink()
    with pytest.raises(ConfigError, match=r"package\.json is not there"):
        find_runtime(package)


def test_unusable_models_are_refused(tmp_path: Path, package: Path) -> None:
    model = write_model(tmp_path / "tiny.onnx")
    (tmp_path / "other").mkdir()
    twin = write_model(tmp_path / "other" / "tiny.onnx")
    heatmap = ModelDescription("teacher", "heatmap", (64, 48), (16, 12))
    teacher = write_model(tmp_path / "teacher.onnx", "heatmaps", heatmap)
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"nothing")
    for models, error, message in (
        ([], ConfigError, "at least one model"),
        ([model, twin], ConfigError, "a name of its own"),
        ([teacher], ConfigError, "predicts heatmaps"),
        ([broken], CheckpointError, "cannot be read"),
        ([tmp_path / "none.onnx"], InputError, "is not a file"),
    ):
        with pytest.raises(error, match=message):
            build_page(WebOptions(out=tmp_path / "site", models=models, runtime=package))
    with pytest.raises(InputError, match="cannot be written"):
        build_page(WebOptions(out=broken, models=[model], runtime=package))


def test_the_command(tmp_path: Path, package: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, out = write_model(tmp_path / "tiny.onnx"), tmp_path / "site"
    assert cli.main(["web", "--out", str(out), "--models", str(model), "--runtime", str(package)]) == 0
    assert f"tiny -> {out}" in capsys.readouterr().out


@pytest.mark.slow
def test_the_shipped_student_is_exported_with_its_notice(tmp_path: Path, package: Path) -> None:
    build_page(WebOptions(out=tmp_path, runtime=package))
    (entry,) = json.loads((tmp_path / "manifest.json").read_text())["models"]
    assert entry["precision"] == "float16"
    assert entry["normalization"] is None
    assert entry["bytes"] < 15e6
    assert "not" in (tmp_path / "models" / "NOTICE.md").read_text()
