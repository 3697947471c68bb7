"""Who imports whom, what is imported when, and what the package shows to the outside."""

from __future__ import annotations

import ast
import importlib
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import distilpose

SOURCE = Path(distilpose.__file__).parent

# Low layers do not know high ones (docs/architecture.md). "models.outputs" means that file alone.
ALLOWED = {
    "errors": set(),
    "skeleton": set(),
    "geometry": set(),
    "images": set(),
    "models": set(),
    "hub": set(),
    "boxes_file": {"geometry"},
    "oks": {"skeleton"},
    "paint": {"skeleton"},
    "draw": {"images", "paint", "skeleton"},
    "anonymise": {"draw", "images", "skeleton"},
    "conversions": {"skeleton"},
    "results": {"anonymise", "conversions", "draw", "images", "skeleton"},
    "preprocess": {"geometry"},
    "description": {"__init__", "preprocess", "skeleton"},
    "postprocess": {"geometry", "models.outputs", "oks", "preprocess", "results", "runtimes", "skeleton"},
    "losses": {"models.outputs"},
    "checkpoint": {"description", "models", "preprocess", "skeleton"},
    "runtimes": {"description", "models.outputs", "preprocess", "skeleton"},
    "loading": {"checkpoint", "models", "runtimes"},
    "data": {"geometry", "images", "preprocess", "skeleton"},
    "evaluation": {
        "boxes_file", "data", "draw", "geometry", "images", "loading", "models", "oks", "postprocess", "preprocess",
        "results", "runtimes", "skeleton",
    },
    "inference": {
        "anonymise", "boxes_file", "draw", "geometry", "hub", "images", "loading", "models.outputs", "oks",
        "postprocess", "preprocess", "results", "runtimes", "skeleton",
    },
    "training": {
        "checkpoint", "data", "description", "draw", "evaluation", "geometry", "hub", "loading", "losses", "models",
        "postprocess", "preprocess", "runtimes", "skeleton", "__init__",
    },
    "export": {
        "checkpoint", "data", "description", "evaluation", "geometry", "images", "loading", "models", "preprocess",
        "runtimes", "skeleton",
    },
    "bulk": {"__init__", "export", "images", "inference", "loading", "postprocess", "results", "runtimes"},
    "serving": {
        "__init__", "boxes_file", "description", "draw", "export", "geometry", "images", "inference", "loading",
        "postprocess", "preprocess", "results", "runtimes",
    },
    "bench": None,  # may import everything
    "commands": None,
    "cli": None,
    "__init__": None,
}  # fmt: skip

NO_TORCH = [
    "errors", "skeleton", "geometry", "images", "oks", "draw", "anonymise", "conversions", "results", "models",
    "models.outputs", "preprocess", "description", "postprocess", "runtimes", "loading", "boxes_file", "hub",
    "inference", "inference.predictor", "inference.predict", "inference.detectors", "inference.hog_detector",
    "inference.hf_detector", "inference.onnx_detector", "inference.tracking", "inference.smoothing", "inference.video",
    "inference.film", "inference.live", "bulk.predict", "serving.server", "serving.web", "cli",
]  # fmt: skip


def modules() -> list[str]:
    return [m.name for m in pkgutil.walk_packages([str(SOURCE)], "distilpose.")]


def imports_of(path: Path) -> list[str]:
    """Dotted names below ``distilpose`` that a file imports anywhere."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "distilpose":
            names = [node.module] if node.module != "distilpose" else [f"distilpose.{a.name}" for a in node.names]
            found += [name.removeprefix("distilpose.") for name in names]
        elif isinstance(node, ast.Import):
            found += [a.name.removeprefix("distilpose.") for a in node.names if a.name.startswith("distilpose")]
    return ["__init__" if name == "__version__" else name for name in found]


@pytest.mark.parametrize("path", sorted(SOURCE.rglob("*.py")), ids=lambda p: str(p.relative_to(SOURCE)))
def test_imports_go_one_way(path: Path) -> None:
    layer = path.relative_to(SOURCE).parts[0].removesuffix(".py")
    allowed = ALLOWED[layer]
    if allowed is None:
        return
    for name in imports_of(path):
        top = name.split(".")[0]
        fine = {top, ".".join(name.split(".")[:2])} & (allowed | {layer, "errors"})
        assert fine, f"{path.relative_to(SOURCE)} may not import {name}"


def test_the_import_test_can_fail(tmp_path: Path) -> None:
    file = tmp_path / "x.py"
    file.write_text("from distilpose.training import train\nfrom distilpose import cli\nimport distilpose.data.coco\n")
    assert imports_of(file) == ["training", "cli", "data.coco"]


@pytest.mark.parametrize("name", modules())
def test_every_module_imports(name: str) -> None:
    importlib.import_module(name)


def imported_after(statement: str) -> set[str]:
    code = f"import sys\n{statement}\nprint(*sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    return {name.split(".")[0] for name in out.split()}


def test_prediction_path_imports_no_torch_and_no_lightning() -> None:
    loaded = imported_after("; ".join(f"import distilpose.{name}" for name in NO_TORCH))
    assert not loaded & {"torch", "lightning", "matplotlib", "transformers", "pandas", "supervision", "av"}


def test_predicting_with_a_checkpoint_imports_no_lightning() -> None:
    statement = (
        "import numpy as np, distilpose\n"
        "m = distilpose.create_model('distilpose_s', input_size_hw=(64, 48), depth=1)\n"
        "distilpose.PosePredictor(m)(np.zeros((80, 60, 3), np.uint8), np.array([[5.0, 5, 50, 70]]))"
    )
    assert "lightning" not in imported_after(statement)


def test_public_surface() -> None:
    assert set(distilpose.__all__) == {
        "CheckpointError", "ConfigError", "DatasetError", "DistilPoseError", "InputError", "PosePredictor",
        "PoseResult", "TrainingDivergedError", "__version__", "create_model", "list_models", "load_model",
    }  # fmt: skip
    for name in distilpose.__all__:
        assert getattr(distilpose, name) is not None
    assert set(dir(distilpose)) == set(distilpose.__all__)
    assert distilpose.list_models() == [
        "deeppose_r18", "deeppose_r50", "distilpose_l", "distilpose_m", "distilpose_p", "distilpose_s", "distilpose_t",
        "hrnet_w32", "hrnet_w48", "simplebaseline_r18", "simplebaseline_r50", "tokenpose_l", "tokenpose_m",
        "tokenpose_s",
    ]  # fmt: skip
    with pytest.raises(AttributeError, match="nothing_like_it"):
        _ = distilpose.nothing_like_it


@pytest.mark.parametrize("name", modules())
def test_public_names_are_documented(name: str) -> None:
    module = importlib.import_module(name)
    assert module.__doc__, name
    for attribute, value in vars(module).items():
        own = getattr(value, "__module__", None) == name and callable(value) and not attribute.startswith("_")
        assert not own or value.__doc__, f"{name}.{attribute}"


def test_makefile_and_ci_agree_with_the_readme() -> None:
    root = SOURCE.parent.parent
    makefile, readme, ci = (root.joinpath(name).read_text() for name in ("Makefile", "README.md", ".ci/run"))
    for target in ("demo", "test"):
        assert f"\n{target}:" in makefile
        assert f"make {target}" in readme
    assert "make check" in ci
    assert "make test" in ci
