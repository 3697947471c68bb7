"""Names of foreign pose networks with options, such as ``FILE.onnx?mean=0&std=1&color=bgr``."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal
from urllib.parse import parse_qsl

import numpy as np

from distilpose.backends.description import MAX_SIDE
from distilpose.errors import ConfigError
from distilpose.geometry import CROP_PADDING
from distilpose.types import Size

Triple = tuple[float, float, float]


@dataclass(frozen=True)
class ForeignOptions:
    """How a foreign network is fed and read; None: as its kind usually is.

    Attributes:
        keypoints: name of a built-in skeleton, a skeleton's file, or names with commas. COCO-17, Halpe-26 and
            COCO-WholeBody-133 are recognized by their number.
        mean: of each color, in pixel values 0 to 255; one number stands for all three.
        std: likewise.
        color: order of the colors, and of ``mean`` and ``std``.
        padding: factor on both sides of a person box.
        udp: trained with "unbiased data processing".
        size: (H, W) of the input, for a file that leaves it free; written HxW.
        outputs: names of the heatmaps, or of the x and the y axis.
        dataset_index: which expert of a ViTPose+ model answers.
    """

    keypoints: str | None = None
    mean: Triple | None = None
    std: Triple | None = None
    color: Literal["rgb", "bgr"] = "rgb"
    padding: float = CROP_PADDING
    udp: bool | None = None
    size: Size | None = None
    outputs: tuple[str, ...] | None = None
    dataset_index: int | None = None


def split_address(name: str) -> tuple[str, dict[str, str]]:
    """Split ``FILE?key=value&key=value`` into file and options.

    Raises:
        ConfigError: what stands behind the question mark is no list of options.
    """
    file, mark, query = name.partition("?")
    if not mark or Path(name).exists():
        return name, {}
    try:
        return file, dict(parse_qsl(query, keep_blank_values=True, strict_parsing=True))
    except ValueError as error:
        raise ConfigError(f"model {file}: expected FILE?key=value&key=value, got {query[:100]!r}") from error


def read_options(file: str, values: dict[str, str]) -> ForeignOptions:
    """Options of a foreign network from their texts.

    Raises:
        ConfigError: one is unknown or unusable.
    """
    known = [field.name for field in fields(ForeignOptions)]
    parsed: dict[str, Any] = {}
    for key, text in values.items():
        if key not in known:
            raise ConfigError(f"model {file}: option must be one of {', '.join(known)}, got {key[:50]!r}")
        try:
            parsed[key] = _READERS[key](text)
        except (KeyError, ValueError) as error:
            raise ConfigError(f"model {file}: {key}={text[:100]} cannot be read: {_FORMS[key]}") from error
    return ForeignOptions(**parsed)


def _triple(text: str) -> Triple:
    numbers = [float(part) for part in text.split(",")]
    a, b, c = numbers * 3 if len(numbers) == 1 else numbers
    if not all(np.isfinite([a, b, c])):
        raise ValueError(text)
    return a, b, c


def _deviation(text: str) -> Triple:
    values = _triple(text)
    if min(values) <= 0 or (max(values) < 1 and len(set(values)) > 1):
        raise ValueError(text)
    return values


def _padding(text: str) -> float:
    value = float(text)
    if not 0.5 <= value <= 3:
        raise ValueError(text)
    return value


def _size(text: str) -> Size:
    height, width = (int(part) for part in text.lower().split("x"))
    if not (1 <= height <= MAX_SIDE and 1 <= width <= MAX_SIDE):
        raise ValueError(text)
    return height, width


_READERS: dict[str, Any] = {
    "keypoints": str,
    "mean": _triple,
    "std": _deviation,
    "color": {"rgb": "rgb", "bgr": "bgr"}.__getitem__,
    "padding": _padding,
    "udp": {"0": False, "1": True}.__getitem__,
    "size": _size,
    "outputs": lambda text: tuple(text.split(",")),
    "dataset_index": int,
}
_FORMS = {
    "keypoints": "expected a skeleton's name, its file, or names with commas",
    "mean": "expected one number or three with commas, in pixel values 0 to 255, such as 123.675,116.28,103.53",
    "std": "expected one number or three with commas, > 0, in pixel values 0 to 255, such as 58.395,57.12,57.375",
    "color": "expected rgb or bgr",
    "padding": "expected a number in 0.5..3",
    "udp": "expected 0 or 1",
    "size": f"expected HxW in pixels, such as 256x192, at most {MAX_SIDE}",
    "outputs": "expected names with commas",
    "dataset_index": "expected a number",
}
