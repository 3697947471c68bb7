"""Names of foreign pose networks with options, such as ``FILE.onnx?mean=0&std=1&color=bgr``."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import parse_qsl

from distilpose.backends.description import MAX_SIDE, Triple, triple
from distilpose.errors import ConfigError
from distilpose.geometry import CROP_PADDING
from distilpose.types import Size


@dataclass(frozen=True)
class ForeignOptions:
    """How a foreign network is fed and read; None: as its kind usually is."""

    # name of a built-in skeleton, a skeleton's file, or names with commas; COCO-17, Halpe-26 and COCO-WholeBody-133 are
    # recognized by their number
    keypoints: str | None = None
    mean: Triple | None = None  # of each color, in pixel values 0 to 255; one number stands for all three
    std: Triple | None = None  # likewise
    color: Literal["rgb", "bgr"] = "rgb"  # order of the colors, and of ``mean`` and ``std``
    padding: float = CROP_PADDING  # factor on both sides of a person box
    udp: bool | None = None  # trained with "unbiased data processing"
    size: Size | None = None  # (H, W) of the input, for a file that leaves it free; written HxW
    outputs: tuple[str, ...] | None = None  # names of the heatmaps, or of the x and the y axis
    dataset_index: int | None = None  # which expert of a ViTPose+ model answers


def split_address(name: str) -> tuple[str, dict[str, str]]:
    """Split ``FILE?key=value&key=value`` into file and options; a `ConfigError` if the rest is no such list."""
    file, mark, query = name.partition("?")
    if not mark or Path(name).exists():
        return name, {}
    try:
        return file, dict(parse_qsl(query, keep_blank_values=True, strict_parsing=True))
    except ValueError as error:
        raise ConfigError(f"model {file}: expected FILE?key=value&key=value, got {query[:100]!r}") from error


def read_options(file: str, values: dict[str, str]) -> ForeignOptions:
    """Options of a foreign network from their texts; a `ConfigError` names one that is unknown or unusable."""
    parsed: dict[str, Any] = {}
    for key, text in values.items():
        if key not in _READERS:
            raise ConfigError(f"model {file}: option must be one of {', '.join(_READERS)}, got {key[:50]!r}")
        read, form = _READERS[key]
        try:
            parsed[key] = read(text)
        except (KeyError, ValueError) as error:
            raise ConfigError(f"model {file}: {key}={text[:100]} cannot be read: expected {form}") from error
    return ForeignOptions(**parsed)


def _triple(text: str) -> Triple:
    numbers = text.split(",")
    values = triple(numbers * 3 if len(numbers) == 1 else numbers)
    if not all(map(math.isfinite, values)):
        raise ValueError(text)
    return values


def _deviation(text: str) -> Triple:
    values = _triple(text)
    if min(values) <= 0 or (max(values) < 1 and len(set(values)) > 1):
        raise ValueError(text)
    return values


def _padding(text: str) -> float:
    if not 0.5 <= float(text) <= 3:
        raise ValueError(text)
    return float(text)


def _size(text: str) -> Size:
    height, width = (int(part) for part in text.lower().split("x"))
    if not (1 <= height <= MAX_SIDE and 1 <= width <= MAX_SIDE):
        raise ValueError(text)
    return height, width


# Of each option: from text to value, and what is expected.
_READERS: dict[str, tuple[Callable[[str], Any], str]] = {
    "keypoints": (str, "a skeleton's name, its file, or names with commas"),
    "mean": (_triple, "one number or three with commas, in pixel values 0 to 255, such as 123.675,116.28,103.53"),
    "std": (_deviation, "one number or three with commas, > 0, in pixel values 0 to 255, such as 58.395,57.12,57.375"),
    "color": ({"rgb": "rgb", "bgr": "bgr"}.__getitem__, "rgb or bgr"),
    "padding": (_padding, "a number in 0.5..3"),
    "udp": ({"0": False, "1": True}.__getitem__, "0 or 1"),
    "size": (_size, f"HxW in pixels, such as 256x192, at most {MAX_SIDE}"),
    "outputs": (lambda text: tuple(text.split(",")), "names with commas"),
    "dataset_index": (int, "a number"),
}
