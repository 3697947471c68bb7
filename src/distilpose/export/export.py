"""Model -> file that describes itself -> the same numbers: ``distilpose export``."""

from __future__ import annotations

import copy
import shutil
import tempfile
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import NamedTuple, get_args

import numpy as np

from distilpose.backends.base import HEATMAP_OUTPUT, POSE_OUTPUTS, InferenceBackend, stamp_digest
from distilpose.backends.checkpoint import describe
from distilpose.backends.description import ModelDescription, Precision
from distilpose.backends.device import AUTO
from distilpose.backends.loading import EXPORTED_SUFFIXES, as_backend, load_model
from distilpose.backends.torch import TorchBackend
from distilpose.data.images import list_images, read_image
from distilpose.data.preprocess import crop_image, network_input
from distilpose.errors import CheckpointError, ConfigError, InputError, require_package
from distilpose.evaluation.evaluation_set import EvaluationSet
from distilpose.export.options import CALIBRATION_RULE, FORMATS, SUFFIXES, ExportOptions, Format, format_of
from distilpose.export.rewrite import ExportForm
from distilpose.files import disk_errors
from distilpose.geometry import CropTransform
from distilpose.models.base import PoseModel
from distilpose.types import Float32Array, ImageArray, Size

BATCH_SIZES = (1, 3, 8)  # none is the one that is traced

# Error allowed in any number of float files, as a share of the output's largest; of int8 files, whose single numbers
# may stray, in the mean: a wrong graph is off by more, and what int8 costs in accuracy `distilpose evaluate` says.
TOLERANCE: dict[Precision, float] = {"float32": 1e-4, "float16": 2e-2, "int8": 0.15}
CALIBRATION_CROPS = 300
FEWEST_CROPS = 8


class OutputError(NamedTuple):
    """How far an exported file is from its model in one output and batch."""

    output: str
    batch: int  # crops
    largest: float  # absolute difference, as a share of the output's largest absolute value
    mean: float  # likewise


class ExportReport(NamedTuple):
    """What `export_model` wrote."""

    files: tuple[Path, ...]  # one, or for OpenVINO graph and weights
    description: ModelDescription  # what the file says about itself
    # every output of the file against torch, on several batch sizes; none of Core ML, which needs a Mac
    errors: tuple[OutputError, ...]

    @property
    def largest_error(self) -> OutputError:
        """The worst of them."""
        return max(self.errors, key=lambda error: error.largest)

    @property
    def batches(self) -> tuple[int, ...]:
        """The batch sizes compared."""
        return tuple(sorted({error.batch for error in self.errors}))

    @property
    def megabytes(self) -> float:
        """Size of the files in 1e6 bytes."""
        parts = [part for path in self.files for part in (path, *path.rglob("*"))]  # a Core ML file is a folder
        return sum(part.stat().st_size for part in parts if part.is_file()) / 1e6


def export_model(
    model: PoseModel | str | Path,
    out: str | Path,
    *,
    format: Format | None = None,
    precision: Precision = "float32",
    calibration: ImageArray | None = None,
    uint8_input: bool = False,
    device: str = AUTO,
    threads: int | None = None,
) -> ExportReport:
    """Write a model as a file that needs no torch, and hold the file against torch before it takes its place.

    Args:
        model: a torch model, or a name or checkpoint that `load_model` takes.
        out: the file, ending as its format does (`SUFFIXES`); OpenVINO writes a ``.bin`` beside its ``.xml``.
        format: the file's ending says it when None.
        precision: of the weights. ``"float16"`` halves the file and computes in float32; ``"int8"`` computes in
            int8, the head apart.
        calibration: (N, H, W, 3) uint8 crops of people as the model will see them, for int8;
            see `calibration_crops`.
        uint8_input: read (B, 3, H, W) uint8 pixels and normalize inside the file.
        device: where the file runs to be compared; see `as_backend`.
        threads: likewise.

    Raises:
        ConfigError: options that do not fit together, an exported file as ``model``, or a missing package.
        InputError: crops of the wrong shape, or a file that cannot be written.
        CheckpointError: the model file is unusable, or the exported file does not compute what the model computes;
            then nothing is written.
    """
    out = Path(out)
    format = format_of(out, format)
    check_export_packages(format, precision)
    for place in (out, out.with_suffix(".bin")) if format == "openvino" else (out,):
        if place.is_dir() and not (format == "coreml" and (place / "Manifest.json").is_file()):
            raise InputError(f"{place} is a folder: expected the name of a file to write, choose another")
    if (precision == "int8") != (calibration is not None):
        raise ConfigError(CALIBRATION_RULE.format("none" if calibration is None else f"{len(calibration)} crops"))
    model = copy.deepcopy(torch_model(model)).float().cpu()  # the caller's stays as and where it is
    inside = describe(model)
    if calibration is not None:
        _check_crops(calibration, inside.input_size_hw)
    description = replace(inside, precision=precision, normalization=None if uint8_input else inside.normalization)
    backend = TorchBackend(model, inside)
    form = ExportForm(model, inside.normalization if uint8_input else None)
    with disk_errors(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=out.parent, prefix=".exporting-") as folder:
            part = Path(folder) / out.name
            files = import_module(f"distilpose.export.{format}_file").write(form, part, description, calibration)
            errors: tuple[OutputError, ...] = ()
            if part.suffix in EXPORTED_SUFFIXES:  # Core ML runs on macOS alone
                stamp_digest(files)
                crops = _random_crops(inside.input_size_hw) if calibration is None else calibration
                errors = verify(as_backend(part, device, threads=threads), backend, crops[: max(BATCH_SIZES)])
            for file in files:
                if (out.parent / file.name).is_dir():  # a Core ML package, which no rename replaces
                    shutil.rmtree(out.parent / file.name)
            written = tuple(file.replace(out.parent / file.name) for file in reversed(files))
    return ExportReport(written, description, errors)


def export_file(options: ExportOptions) -> ExportReport:
    """`export_model` from files, as the command line has it; raises the same, and `DatasetError` for calibration."""
    check_export_packages(format_of(Path(options.out), options.format), options.precision)
    model = torch_model(options.model)
    crops = None
    if options.calibration is not None:
        crops = calibration_crops(options.calibration, describe(model), images=options.images)
    return export_model(
        model,
        options.out,
        format=options.format,
        precision=options.precision,
        calibration=crops,
        uint8_input=options.uint8_input,
        device=options.device,
        threads=options.threads,
    )


def torch_model(model: PoseModel | str | Path) -> PoseModel:
    """A model that can be exported; an exported file is a `ConfigError`."""
    loaded = load_model(model, exported=False) if isinstance(model, str | Path) else model
    if not isinstance(loaded, PoseModel):
        raise ConfigError(f"{model} is exported already: pass the checkpoint it was made from")
    return loaded


def verify(exported: InferenceBackend, model: InferenceBackend, crops: ImageArray) -> tuple[OutputError, ...]:
    """Run a file and its model on (B, H, W, 3) uint8 crops in `BATCH_SIZES`; a `CheckpointError` if they differ."""
    precision = exported.description.precision
    errors = []
    for batch in BATCH_SIZES:
        found, expected = _arrays(exported, crops[:batch]), _arrays(model, crops[:batch])
        ours, theirs = ({name: value.shape for name, value in each.items()} for each in (found, expected))
        if ours != theirs:
            raise CheckpointError(f"the exported file returns arrays of shapes {ours}, the model {theirs}")
        for name, values in expected.items():
            error = np.abs(found[name].astype(np.float64) - values) / max(float(np.abs(values).max()), 1e-12)
            errors.append(OutputError(name, batch, float(error.max()), float(error.mean())))

    def judged(error: OutputError) -> float:
        return error.mean if precision == "int8" else error.largest

    worst = max(errors, key=lambda error: (not judged(error) <= TOLERANCE[precision], judged(error)))  # NaN is worst
    if not judged(worst) <= TOLERANCE[precision]:
        raise CheckpointError(
            f"the exported file is not the model: {worst.output} at batch {worst.batch} is off by {judged(worst):.1e} "
            f"of its largest value, expected at most {TOLERANCE[precision]:.0e} for {precision}. Please report it, "
            "with the versions of torch and of the runtime"
        )
    return tuple(errors)


def _arrays(backend: InferenceBackend, crops: ImageArray) -> dict[str, Float32Array]:
    output = backend(network_input(crops, backend.description.normalization))
    values = {name: getattr(output, name, None) for name in (*POSE_OUTPUTS, HEATMAP_OUTPUT)}
    return {name: value for name, value in values.items() if value is not None}


def check_export_packages(format: Format, precision: str) -> None:
    """Raise a `ConfigError` where the format has no such precision, or a package that writes or runs it is missing."""
    if precision not in get_args(Precision):
        raise ConfigError(f"precision must be one of {', '.join(get_args(Precision))}, got {precision!r}")
    known = FORMATS[format]
    if precision == "int8" and known.int8 is None:
        raise ConfigError(f"{format} files are written in float32 and float16, got int8: leave it out")
    for package in (*known.packages, *((known.int8 or ()) if precision == "int8" else ())):
        require_package(package, "export")


def _check_crops(crops: ImageArray, input_size_hw: Size) -> None:
    expected = (*input_size_hw, 3)
    if crops.dtype != np.uint8 or crops.ndim != 4 or crops.shape[1:] != expected or len(crops) < max(BATCH_SIZES):
        raise InputError(
            f"calibration crops must be uint8 of shape (N, {', '.join(map(str, expected))}) with N >= "
            f"{max(BATCH_SIZES)}, got {crops.dtype} of shape {crops.shape}"
        )


def _random_crops(input_size_hw: Size) -> ImageArray:
    return np.random.default_rng(0).integers(0, 256, (max(BATCH_SIZES), *input_size_hw, 3), dtype=np.uint8)


def calibration_crops(
    source: str | Path,
    description: ModelDescription,
    *,
    images: str | Path | None = None,
    count: int = CALIBRATION_CROPS,
) -> ImageArray:
    """``count`` person crops (N, H, W, 3) uint8 for a model, or all there are, spread evenly over a data set.

    ``source`` is a folder of images of one person each, or a COCO keypoint file, whose ``images`` are in a folder of
    that name beside it when None.

    Raises:
        ConfigError: ``source`` is neither file nor folder, or ``count`` is too small.
        InputError: there are too few crops, or an image cannot be read.
        DatasetError: the annotations or their images are unusable.
    """
    source = Path(source)
    if count < FEWEST_CROPS:
        raise ConfigError(f"calibration needs at least {FEWEST_CROPS} crops, got {count}")
    if source.is_dir():
        crops = _from_folder(source, description.input_size_hw, count)
    elif source.is_file():
        folder = source.parent / "images" if images is None else Path(images)
        people = EvaluationSet.load(source, folder, description)
        crops = list(people.crops(_spread(len(people), count)))
    else:
        raise ConfigError(
            f"{source} is neither a folder nor a file: calibrate with a folder of images of one person each, or "
            "with a COCO keypoint file"
        )
    if len(crops) < FEWEST_CROPS:
        raise InputError(f"{source} gives {len(crops)} crops, calibration needs at least {FEWEST_CROPS}: add images")
    return np.stack(crops)


def _from_folder(folder: Path, input_size_hw: tuple[int, int], count: int) -> list[ImageArray]:
    paths = list_images([folder])
    images = (read_image(paths[index]) for index in _spread(len(paths), count))
    return [
        crop_image(image, CropTransform.from_box((0, 0, image.shape[1], image.shape[0]), input_size_hw))
        for image in images
    ]


def _spread(total: int, count: int) -> list[int]:
    return sorted({int(index) for index in np.linspace(0, total - 1, min(count, total)).round()})


__all__ = ["SUFFIXES", "ExportReport", "Format", "export_file", "export_model", "torch_model"]
