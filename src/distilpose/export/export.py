"""Model -> file that describes itself -> the same numbers: ``distilpose export``."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple, get_args

import numpy as np

from distilpose.backends.base import stamp_digest
from distilpose.backends.checkpoint import describe
from distilpose.backends.description import ModelDescription, Precision
from distilpose.backends.loading import FILE_BACKENDS, load_model
from distilpose.backends.torch import TorchBackend
from distilpose.errors import ConfigError, InputError, require_package
from distilpose.export.calibration import calibration_crops
from distilpose.export.options import CALIBRATION_RULE, SUFFIXES, ExportOptions, Format, format_of
from distilpose.export.rewrite import ExportForm
from distilpose.export.verify import BATCH_SIZES, OutputError, verify
from distilpose.files import disk_errors
from distilpose.models.base import PoseModel
from distilpose.types import ImageArray


class ExportReport(NamedTuple):
    """What `export_model` wrote.

    Attributes:
        files: one, or for OpenVINO graph and weights.
        description: what the file says about itself.
        errors: every output of the file against torch, on several batch sizes.
    """

    files: tuple[Path, ...]
    description: ModelDescription
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
        return sum(path.stat().st_size for path in self.files) / 1e6


def export_model(
    model: PoseModel | str | Path,
    out: str | Path,
    *,
    format: Format | None = None,
    precision: Precision = "float32",
    calibration: ImageArray | None = None,
    uint8_input: bool = False,
    rewrite: bool = True,
) -> ExportReport:
    """Write a model as a file that needs no torch, and hold the file against torch before it takes its place.

    Args:
        model: a torch model, or a name or checkpoint that `load_model` takes.
        out: the file, ending in ``.onnx``, or in ``.xml`` for OpenVINO, which writes a ``.bin`` beside it.
        format: ``"onnx"`` or ``"openvino"``; the file's ending says it when None.
        precision: of the weights. ``"float16"`` halves the file and computes in float32; ``"int8"`` computes in
            int8, the head apart.
        calibration: (N, H, W, 3) uint8 crops of people as the model will see them, for int8;
            see `calibration.calibration_crops`.
        uint8_input: read (B, 3, H, W) uint8 pixels and normalize inside the file.
        rewrite: put the encoder in the form that runtimes run fastest (`rewrite`); False is for comparing.

    Raises:
        ConfigError: options that do not fit together, an exported file as ``model``, or a missing package.
        InputError: crops of the wrong shape, or a file that cannot be written.
        CheckpointError: the model file is unusable, or the exported file does not compute what the model computes;
            then nothing is written.
    """
    out = Path(out)
    format = format_of(out, format)
    _check_packages(format, precision)
    if (precision == "int8") != (calibration is not None):
        raise ConfigError(CALIBRATION_RULE.format("none" if calibration is None else f"{len(calibration)} crops"))
    model = copy.deepcopy(torch_model(model)).float().cpu()  # the caller's stays as and where it is
    inside = describe(model)
    if calibration is not None:
        _check_crops(calibration, inside.input_size_hw)
    description = replace(inside, precision=precision, normalization=None if uint8_input else inside.normalization)
    backend = TorchBackend(model, inside)
    form = ExportForm(model, inside.normalization if uint8_input else None, rewrite=rewrite)
    with disk_errors(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=out.parent, prefix=".exporting-") as folder:
            part = Path(folder) / out.name
            files = [part, part.with_suffix(".bin")] if format == "openvino" else [part]
            _write(form, description, part, format, calibration)
            stamp_digest(files)
            crops = _random_crops(inside.input_size_hw) if calibration is None else calibration
            errors = verify(FILE_BACKENDS[part.suffix](part), backend, crops[: max(BATCH_SIZES)])
            written = tuple(file.replace(out.parent / file.name) for file in reversed(files))
    return ExportReport(written, description, errors)


def export_file(options: ExportOptions) -> ExportReport:
    """`export_model` from files, as the command line has it.

    Raises:
        ConfigError, InputError, CheckpointError: see `export_model`.
        DatasetError: the calibration set is unusable.
    """
    out = Path(options.out)
    _check_packages(format_of(out, options.format), options.precision)
    model = torch_model(options.model)
    inside = describe(model)
    crops = None
    if options.calibration is not None:
        crops = calibration_crops(options.calibration, inside.input_size_hw, inside.skeleton, images=options.images)
    return export_model(
        model,
        out,
        format=options.format,
        precision=options.precision,
        calibration=crops,
        uint8_input=options.uint8_input,
    )


def torch_model(model: PoseModel | str | Path) -> PoseModel:
    """A model that can be exported.

    Raises:
        ConfigError: it is an exported file.
    """
    loaded = load_model(model, exported=False) if isinstance(model, str | Path) else model
    if not isinstance(loaded, PoseModel):
        raise ConfigError(f"{model} is exported already: pass the checkpoint it was made from")
    return loaded


def _write(
    form: ExportForm,
    description: ModelDescription,
    path: Path,
    format: Format,
    calibration: ImageArray | None,
) -> None:
    from distilpose.export import onnx_file

    graph = path if format == "onnx" else path.with_suffix(".onnx")
    onnx_file.export_onnx(form, description.input_size_hw, graph)
    if format == "openvino":
        from distilpose.export.openvino_file import write_openvino

        write_openvino(graph, path, description, crops=calibration, keep_float=onnx_file.head_nodes(graph))
        return
    if description.precision == "int8":
        assert calibration is not None
        onnx_file.quantize_onnx(graph, description, calibration)
    elif description.precision == "float16":
        onnx_file.halve_onnx(graph)
    onnx_file.describe_onnx(graph, description)


def _check_packages(format: Format, precision: str) -> None:
    if precision not in get_args(Precision):
        raise ConfigError(f"precision must be one of {', '.join(get_args(Precision))}, got {precision!r}")
    runtime = ["openvino", *["nncf"][: int(precision == "int8")]] if format == "openvino" else ["onnxruntime"]
    for package in ("onnx", "onnxscript", *runtime):
        require_package(package, "export")


def _check_crops(crops: ImageArray, input_size_hw: tuple[int, int]) -> None:
    expected = (*input_size_hw, 3)
    if crops.dtype != np.uint8 or crops.ndim != 4 or crops.shape[1:] != expected or len(crops) < max(BATCH_SIZES):
        raise InputError(
            f"calibration crops must be uint8 of shape (N, {', '.join(map(str, expected))}) with N >= "
            f"{max(BATCH_SIZES)}, got {crops.dtype} of shape {crops.shape}"
        )


def _random_crops(input_size_hw: Sequence[int]) -> ImageArray:
    return np.random.default_rng(0).integers(0, 256, (max(BATCH_SIZES), *input_size_hw, 3), dtype=np.uint8)


__all__ = ["SUFFIXES", "ExportReport", "Format", "export_file", "export_model", "torch_model"]
