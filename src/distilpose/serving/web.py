"""The browser page as a folder for `serve` or any static host: to its own files come runtime, models and a manifest."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from distilpose.backends.base import INPUT_NAME
from distilpose.backends.description import ModelDescription
from distilpose.backends.exported import OnnxRuntimeBackend
from distilpose.backends.loading import DEFAULT_MODEL, SHIPPED_WEIGHTS
from distilpose.detection import nanodet
from distilpose.errors import ConfigError, InputError
from distilpose.files import disk_errors
from distilpose.geometry import CROP_PADDING
from distilpose.inference.decoding import KEYPOINT_SCORE_THRESHOLD
from distilpose.options import option
from distilpose.video.pose_boxes import BOX_MARGIN, DUPLICATE_OKS
from distilpose.video.tracking import TrackingOptions
from distilpose.visualization.draw import SIDE_COLORS

STATIC = Path(__file__).parent / "static"
MANIFEST_NAME = "manifest.json"
MODELS_NAME, VENDOR_NAME = "models", "vendor"
RUNTIME_PACKAGE = "onnxruntime-web"
RUNTIME_VERSION = "1.30.0"  # also in web/package.json; a test holds them together
NODE_MODULES = Path(__file__).parents[3] / "web" / "node_modules"  # of a clone, after `make web`
DEFAULT_MODELS = (DEFAULT_MODEL,)
if TYPE_CHECKING:
    ModelFiles = Sequence[str | Path]
else:  # what a command line can say
    ModelFiles = tuple[str, ...]
# Files of the npm package that computing on the CPU takes -> their names here: not every host serves .mjs as a script.
RUNTIME_FILES = {
    "ort.wasm.min.mjs": "ort.wasm.min.js",
    "ort-wasm-simd-threaded.mjs": "ort-wasm-simd-threaded.js",
    "ort-wasm-simd-threaded.wasm": "ort-wasm-simd-threaded.wasm",
}
_OWN_SUFFIXES = (".html", ".css", ".js", ".svg")


class PageReport(NamedTuple):
    """What `build_page` wrote."""

    folder: Path  # of the page
    models: tuple[Path, ...]  # their files
    megabytes: float  # of all files, in 1e6 bytes


@dataclass(frozen=True)
class WebOptions:
    """What `build_page` writes.

    Attributes:
        out: folder to write, for any static host; by default the one that serve takes its page from
        models: students to choose from: names, checkpoints, exported with 16-bit weights and uint8 input, or .onnx
            files of distilpose export, taken as they are; the first is loaded when the page opens
        runtime: folder of the npm package onnxruntime-web; by default where make web puts it
    """

    out: str | Path | None = option(metavar="DIR")
    models: ModelFiles = option(DEFAULT_MODELS, metavar="NAME|FILE")
    runtime: str | Path | None = option(metavar="DIR")


def build_page(options: WebOptions) -> PageReport:
    """Write everything the page needs into one folder; files of an earlier build are replaced.

    To the page's own files in ``serving/static`` come the runtime, from npm, in ``vendor/``, models in ``models/``, and
    ``manifest.json``, from which the page knows both and every number that it shares with the package.

    Raises:
        ConfigError: the runtime is not there or another version, a model predicts heatmaps, or two have one name.
        CheckpointError: a model file is unusable.
        InputError: ``out`` cannot be written.
    """
    out = STATIC if options.out is None else Path(options.out)
    files = find_runtime(options.runtime)
    models, vendor = out / MODELS_NAME, out / VENDOR_NAME
    with disk_errors(out):
        models.mkdir(parents=True, exist_ok=True)
        vendor.mkdir(exist_ok=True)
        for path in own_files():
            _copy(path, out / path.name)
        for name, source in files.items():
            _copy(source, vendor / name)
        (vendor / "NOTICE.txt").write_text(
            f"{RUNTIME_PACKAGE} {RUNTIME_VERSION} from npm, unchanged, files renamed. "
            "Copyright (c) Microsoft Corporation. MIT license.\n"
        )
        written = tuple(_write_models(options.models, models))
        detector = models / nanodet.WEIGHTS.name
        for name in (detector.name, "NOTICE_DETECTOR.md"):
            _copy(nanodet.WEIGHTS.with_name(name), models / name)
        content = json.dumps(manifest(written, detector), indent=1) + "\n"
        for old in set(models.glob("*.onnx")) - {*written, detector}:
            old.unlink()
        (out / MANIFEST_NAME).write_text(content)
        size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    return PageReport(out, written, size / 1e6)


def _copy(source: Path, target: Path) -> None:
    if source.resolve() != target.resolve():
        shutil.copyfile(source, target)


def own_files() -> list[Path]:
    """The page's own files, which are part of the package."""
    return sorted(path for path in STATIC.iterdir() if path.suffix in _OWN_SUFFIXES)


def find_runtime(package: str | Path | None = None) -> dict[str, Path]:
    """The files of ONNX Runtime Web by the names that they have in ``vendor/``.

    Without the folder ``package`` of the npm package it looks where ``make web`` puts it, and into an earlier build.

    Raises:
        ConfigError: they are not there, or of another version.
    """
    folder = NODE_MODULES / RUNTIME_PACKAGE if package is None else Path(package)
    if package is None and not folder.is_dir():
        built = {name: STATIC / VENDOR_NAME / name for name in RUNTIME_FILES.values()}
        if all(path.is_file() for path in built.values()):
            return built
    found = {name: folder / "dist" / original for original, name in RUNTIME_FILES.items()}
    missing = [str(path) for path in (*found.values(), folder / "package.json") if not path.is_file()]
    if missing:
        raise ConfigError(
            f"the page needs {RUNTIME_PACKAGE} {RUNTIME_VERSION} from npm, and {missing[0]} is not there: run make web "
            f"in a clone (needs Node.js), or npm install {RUNTIME_PACKAGE}@{RUNTIME_VERSION} and --runtime "
            f"node_modules/{RUNTIME_PACKAGE}"
        )
    version = json.loads((folder / "package.json").read_text())["version"]
    if version != RUNTIME_VERSION:
        raise ConfigError(f"the page is tested with {RUNTIME_PACKAGE} {RUNTIME_VERSION}, got {version} in {folder}")
    return found


def manifest(models: Sequence[Path], detector: Path) -> dict[str, Any]:
    """What the page knows: where runtime and models are, what each model is, and the rules around them.

    Raises:
        ConfigError: a model predicts heatmaps.
        CheckpointError: a model file is unusable.
    """
    script, glue, wasm = (f"{VENDOR_NAME}/{name}" for name in RUNTIME_FILES.values())
    return {
        "runtime": {"name": f"{RUNTIME_PACKAGE} {RUNTIME_VERSION}", "script": script, "glue": glue, "wasm": wasm},
        "rules": shared_rules(),
        "detector": {**_file_entry(detector), **detector_rules()},
        "side_colors": {side: list(color) for side, color in SIDE_COLORS.items()},
        "models": [{**_file_entry(path), **_model_entry(path)} for path in models],
    }


def shared_rules() -> dict[str, Any]:
    """The numbers of cropping, scoring and following that the page shares with the package."""
    return {
        "crop_padding": CROP_PADDING,
        "keypoint_score_threshold": KEYPOINT_SCORE_THRESHOLD,
        "box_margin": BOX_MARGIN.tolist(),
        "least_pose_score": TrackingOptions().keep,
        "duplicate_oks": DUPLICATE_OKS,
    }


def model_entry(description: ModelDescription) -> dict[str, Any]:
    """What the page must know to feed a model and to read its output."""
    return {
        "precision": description.precision,
        "input": INPUT_NAME,
        "input_size_hw": list(description.input_size_hw),
        "heatmap_size_hw": list(description.heatmap_size_hw),
        "normalization": None if description.normalization is None else asdict(description.normalization),
        "skeleton": {**description.skeleton.to_dict(), "sides": list(description.skeleton.sides)},
    }


def detector_rules() -> dict[str, Any]:
    """The numbers of the built-in detector that the page shares with the package."""
    size, cell = nanodet.INPUT_SIZE, nanodet.CELL
    return {
        "sizes": [size, round(nanodet.SECOND_LOOK * size / cell) * cell],
        "cell": cell,
        "threshold": nanodet.NANODET_THRESHOLD,
        "nms_iou": nanodet.NANODET_NMS_IOU,
    }


def _model_entry(path: Path) -> dict[str, Any]:
    description = OnnxRuntimeBackend(path, threads=1).description
    if description.output != "regression":
        raise ConfigError(f"{path} predicts heatmaps; the page reads coordinates: choose a student (distilpose_*)")
    title = f"{path.stem}, {path.stat().st_size / 1e6:.0f} MB"
    return {"name": path.stem, "title": title, **model_entry(description)}


def _file_entry(path: Path) -> dict[str, Any]:
    content = path.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    return {"file": f"{MODELS_NAME}/{path.name}", "bytes": len(content), "sha256": digest}


def _write_models(models: Sequence[str | Path], folder: Path) -> list[Path]:
    names = [f"{Path(model).stem}.onnx" for model in models]
    if not names or len(set(names)) < len(names):
        raise ConfigError(f"expected at least one model, each with a name of its own, got {', '.join(names) or 'none'}")
    written = []
    for model, name in zip(models, names, strict=True):
        path = folder / name
        if Path(model).suffix != ".onnx":
            from distilpose.export.export import export_model

            export_model(model, path, format="onnx", precision="float16", uint8_input=True)
        elif Path(model).is_file():
            _copy(Path(model), path)
        else:
            raise InputError(f"{model} is not a file: expected a model written by distilpose export --format onnx")
        if str(model) in SHIPPED_WEIGHTS:  # they have a license of their own
            _copy(SHIPPED_WEIGHTS[str(model)].with_name("NOTICE.md"), folder / "NOTICE.md")
        written.append(path)
    return written
