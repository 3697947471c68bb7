"""Options of ``distilpose export`` and of `export_file`, which takes the same."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

from distilpose.backends.description import Precision
from distilpose.backends.loading import DEFAULT_MODEL
from distilpose.errors import ConfigError
from distilpose.options import PositiveInt, check_options, option

Format = Literal["onnx", "openvino", "litert", "coreml"]


class FileFormat(NamedTuple):
    """A format, written by ``export/NAME_file.py``."""

    suffix: str
    packages: tuple[str, ...]  # imports that write it and run it for comparison
    int8: tuple[str, ...] | None = ()  # those that int8 needs beside them; None where the format has none


FORMATS: dict[Format, FileFormat] = {
    "onnx": FileFormat(".onnx", ("onnx", "onnxscript", "onnxruntime")),
    "openvino": FileFormat(".xml", ("onnx", "onnxscript", "openvino"), ("nncf",)),
    "litert": FileFormat(".tflite", ("litert_torch", "ai_edge_litert", "ai_edge_quantizer")),
    "coreml": FileFormat(".mlpackage", ("coremltools",), None),
}
SUFFIXES: dict[Format, str] = {name: known.suffix for name, known in FORMATS.items()}


@dataclass(frozen=True)
class ExportOptions:
    """What to export, and how.

    Attributes:
        out: file to write, ending in .onnx, .xml for OpenVINO, which writes a .bin beside it, .tflite or .mlpackage
        model: checkpoint (.safetensors, released .pth), folder of save_pretrained, hub id, or the name of weights that
            come with the package
        format: of the file; by default its ending says it
        fp16: store weights in 16 bits: half the size, equally fast
        int8: compute in 8 bits: a quarter to a third of the size, 1.2 to 2 times as fast
        calibration: for int8: COCO keypoint json of people like those to come, or a folder of images of one person each
        images: images of a calibration file (default: images/ beside it)
        device: where the written file is compared with torch: auto, cpu, cuda, openvino:GPU
        threads: of that run on the CPU; a thread per physical core, at most four, by default
        uint8_input: read uint8 pixels and normalize inside the file

    Raises:
        ConfigError: options that do not fit together.
    """

    out: str | Path = field(metadata={"metavar": "FILE"})
    model: str | Path = option(DEFAULT_MODEL, metavar="NAME|FILE")
    format: Format | None = None
    fp16: bool = False
    int8: bool = False
    calibration: str | Path | None = option(metavar="FILE|DIR")
    images: str | Path | None = option(metavar="DIR")
    device: str = "auto"
    threads: PositiveInt | None = None
    uint8_input: bool = False

    def __post_init__(self) -> None:
        check_options(self)
        if self.fp16 and self.int8:
            raise ConfigError("expected at most one of --fp16 and --int8, got both")
        if self.int8 != (self.calibration is not None):
            raise ConfigError(CALIBRATION_RULE.format(self.calibration or "none"))

    @property
    def precision(self) -> Precision:
        """Of the weights."""
        return "int8" if self.int8 else "float16" if self.fp16 else "float32"


CALIBRATION_RULE = (
    "int8 needs calibration images of people, and nothing else takes them; got {}: give --int8 and --calibration "
    "together"
)


def format_of(out: Path, format: str | None) -> Format:
    """The format of a file to write; a `ConfigError` when its ending says none, or another one."""
    if format is not None and format not in SUFFIXES:
        raise ConfigError(f"format must be one of {', '.join(SUFFIXES)}, got {format!r}")
    for known, suffix in SUFFIXES.items():
        if out.suffix == suffix and format in (None, known):
            return known
    wanted = " or ".join(f"{suffix} for {known}" for known, suffix in SUFFIXES.items() if format in (None, known))
    raise ConfigError(f"the file must end in {wanted}, got {out}")
