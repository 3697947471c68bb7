"""Who imports whom, what is imported when, and what the package shows to the outside."""

import ast
import importlib
import pkgutil
import re
import subprocess
import sys
import tomllib
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import distilpose

SOURCE = Path(distilpose.__file__).parent

# Rings, from the inside out (docs/architecture.md): a package may import its own ring's row and every inner ring.
CORE = {"errors", "types", "files", "options", "compat", "__init__", "skeletons", "geometry", "models", "losses"}
FLOWS: dict[str, set[str]] = {
    "data": set(),
    "backends": {"data"},
    "visualization": {"data", "inference.result"},
    "formats": {"data", "inference.result", "inference.decoding"},
    "teachers": {"data", "backends"},
    "detection": {"data", "backends", "formats"},
    "video": {"data", "formats", "inference"},
    "inference": {"data", "backends", "detection", "formats", "video", "visualization"},
    "evaluation": {"data", "backends", "detection", "formats", "inference", "teachers", "visualization"},
    "training": {"data", "backends", "detection", "evaluation", "formats", "inference", "teachers", "visualization"},
    "export": {"data", "backends", "evaluation"},
}
APPLICATIONS = {"bulk", "serving", "benchmark", "cli", "__main__"}
# Inside the core, only models know outputs and only losses know models.
CORE_ROWS: dict[str, set[str]] = {"losses": {"models.outputs", "models.base"}}

# A result saves itself through the writers, which are imported when it does.
OUTWARD = {"formats.writers", "formats.openpose"}

NO_TORCH = [
    "errors", "types", "files", "options", "compat", "skeletons", "geometry", "geometry.oks", "models",
    "models.outputs", "data.images", "data.preprocess", "data.prefetch", "visualization.draw",
    "visualization.anonymize", "visualization.annotators", "formats.boxes", "formats.conversions", "formats.writers",
    "backends.description", "backends.hub", "backends.loading", "backends.base", "inference.result",
    "inference.decoding", "inference.predictor", "inference.predict", "inference.estimator", "detection.detectors",
    "detection.onnx", "detection.transformers", "video.tracking", "video.smoothing", "video.reader", "video.pipeline",
    "video.camera", "bulk.predict", "serving.server", "serving.web", "cli.doctor", "cli.main",
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


def allowed_imports(package: str) -> set[str] | None:
    """What a package may import beside itself, dotted names for single modules; None: everything."""
    if package in APPLICATIONS:
        return CORE | set(FLOWS) | {"export", "serving", "bulk", "benchmark", "cli"}
    if package in FLOWS:
        return CORE | FLOWS[package]
    return {"errors", "types", "files", "options", "compat"} | CORE_ROWS.get(package, set())


def test_imports_go_inward() -> None:
    for path in SOURCE.rglob("*.py"):
        package = path.relative_to(SOURCE).parts[0].removesuffix(".py")
        allowed = allowed_imports(package) | {package}
        for name in imports_of(path) if package != "__init__" else ():  # the door to all of them
            parts = name.split(".")
            assert {".".join(parts[:2]), parts[0]} & allowed, f"{path.relative_to(SOURCE)} may not import {name}"


def test_every_package_has_a_ring() -> None:
    packages = {path.name.removesuffix(".py") for path in SOURCE.iterdir() if path.suffix == ".py" or path.is_dir()}
    assert packages - {"__pycache__", "weights"} == CORE | set(FLOWS) | APPLICATIONS


def test_no_circles() -> None:
    """Of imports that are executed, those inside functions included."""
    names = {name.removeprefix("distilpose.") for name in modules()}
    graph: dict[str, set[str]] = {}
    for path in SOURCE.rglob("*.py"):
        module = ".".join(path.relative_to(SOURCE).with_suffix("").parts).removesuffix(".__init__")
        found = {name for name in executed_imports(path, names) if name != module}
        graph[module] = found - (OUTWARD if module == "inference.result" else set())
    TopologicalSorter(graph).prepare()  # raises CycleError


def executed_imports(path: Path, names: set[str]) -> set[str]:
    """Modules below ``distilpose`` that a file imports when it runs, without those for types alone."""
    tree = ast.parse(path.read_text())
    for node in [n for n in ast.walk(tree) if isinstance(n, ast.If) and getattr(n.test, "id", "") == "TYPE_CHECKING"]:
        node.body = [ast.Pass()]
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("distilpose."):
            package = node.module.removeprefix("distilpose.")
            found |= {inner if (inner := f"{package}.{alias.name}") in names else package for alias in node.names}
    return found


def imported_after(statement: str) -> set[str]:
    code = f"import sys\n{statement}\nprint(*sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    return {name.split(".")[0] for name in out.split()}


def test_prediction_path_imports_no_torch() -> None:
    loaded = imported_after("; ".join(f"import distilpose.{name}" for name in NO_TORCH))
    heavy = {"torch", "matplotlib", "transformers", "pandas", "pyarrow", "supervision", "av", "onnxruntime", "IPython"}
    assert not loaded & heavy


def test_public_surface() -> None:
    assert set(distilpose.__all__) == {
        "CheckpointError", "ConfigError", "DatasetError", "DistilPoseError", "InputError", "PoseEstimator",
        "PosePredictor", "PoseResult", "TrainingDivergedError", "__version__", "create_model", "list_models",
        "load_model", "predict",
    }  # fmt: skip
    for name in distilpose.__all__:
        assert getattr(distilpose, name) is not None
    assert set(dir(distilpose)) == set(distilpose.__all__)
    assert distilpose.list_models() == [
        "deeppose_r18", "deeppose_r50", "distilpose_l", "distilpose_lite0", "distilpose_m", "distilpose_mobilenet",
        "distilpose_p", "distilpose_s", "distilpose_t", "heatmap_mobilenet", "hrnet_w32", "hrnet_w48",
        "simplebaseline_r18", "simplebaseline_r50", "tokenpose_l", "tokenpose_lite2", "tokenpose_m",
        "tokenpose_mobilenet", "tokenpose_s",
    ]  # fmt: skip
    with pytest.raises(AttributeError, match="nothing_like_it"):
        _ = distilpose.nothing_like_it


def test_every_module_imports_and_its_public_names_are_documented() -> None:
    for name in modules():
        module = importlib.import_module(name)
        assert module.__doc__, name
        for attribute, value in vars(module).items():
            own = getattr(value, "__module__", None) == name and callable(value) and not attribute.startswith("_")
            assert not own or value.__doc__, f"{name}.{attribute}"


def test_the_lowest_versions_are_those_of_the_requirements() -> None:
    root = SOURCE.parent.parent
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    apart = {"all", "dev", "coreml", "imagenet", "litert", "litert-export"}  # not in one environment with the others
    listed = [*project["dependencies"], *(each for name in extras.keys() - apart for each in extras[name])]
    found = (re.match(r"([\w.-]+)(?:\[.*\])?>=([\d.]+)", requirement) for requirement in listed)
    bounds = {match[1]: match[2] for match in found if match}
    lines = (root / "constraints-lowest.txt").read_text().splitlines()[1:]
    assert dict(line.removesuffix(".*").split("==") for line in lines) == bounds


def test_makefile_and_ci_agree_with_the_readme() -> None:
    root = SOURCE.parent.parent
    makefile, readme, ci = (root.joinpath(name).read_text() for name in ("Makefile", "README.md", ".ci/run"))
    for target in ("demo", "test"):
        assert f"\n{target}:" in makefile
        assert f"make {target}" in readme
    assert "make check" in ci
    assert "make test" in ci


def test_the_page_on_the_architecture_names_files_that_exist() -> None:
    page = (SOURCE.parents[1] / "docs" / "architecture.md").read_text(encoding="utf-8")
    named = set(re.findall(r"\b(?:[a-z_0-9]+/)*[a-z_0-9]+\.(?:py|html)\b", page))
    files = [path.as_posix() for path in (*SOURCE.rglob("*.*"), SOURCE.parents[1] / "tests/test_architecture.py")]
    assert len(named) > 100
    assert [name for name in named if not any(file.endswith(f"/{name}") for file in files)] == []
