"""Json files of any origin, read safely, and their values in short error texts."""

from __future__ import annotations

import json
import reprlib
import sys
from collections.abc import Sequence, Sized
from pathlib import Path
from typing import Any

import numpy as np

from distilpose.errors import DatasetError, DistilPoseError
from distilpose.types import FloatArray

# Of a broken value in an error: its beginning, however long or deep it is.
_REPR = reprlib.Repr()
_REPR.maxlevel, _REPR.maxlist, _REPR.maxdict, _REPR.maxstring, _REPR.maxother = 2, 8, 8, 80, 80
_PROBLEMS_SHOWN = 20
_TRUE, _FALSE = {"1", "true", "yes"}, {"0", "false", "no", "null", "none", ""}


def read_json(file: Path, expected: str, error: type[DistilPoseError] = DatasetError) -> Any:
    """Read a json file in UTF-8, -16 or -32; the ``error`` of a broken one says what was ``expected``."""
    try:
        return json.loads(file.read_bytes())
    except OSError as problem:
        raise error(
            f"{file}: expected {expected}, cannot read it ({problem.strerror or problem}): check the path"
        ) from problem
    except RecursionError as problem:
        raise error(f"{file}: expected {expected}, got lists nested too deeply: write it again") from problem
    except ValueError as problem:
        reason = "the file is empty" if file.stat().st_size == 0 else problem
        raise error(f"{file}: expected {expected}, got broken json ({reason}): write it again") from problem


def read_text(file: Path, expected: str, error: type[DistilPoseError] = DatasetError) -> str:
    """Read a text file in UTF-8, with or without a byte order mark; raises as `read_json` does."""
    try:
        return file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as problem:
        raise error(f"{file}: expected {expected} as text in UTF-8, cannot read it ({problem})") from problem


def entries_of(document: Any, key: str) -> list[dict[str, Any]]:
    """The objects in a list of a json document; none where there is no such list."""
    listed = document.get(key) if isinstance(document, dict) else None
    return [entry for entry in listed if isinstance(entry, dict)] if isinstance(listed, list) else []


def read_flag(value: Any) -> bool | None:
    """Read a flag as tools write it: 0, 1, true, false, null, or one of these as text; None for anything else."""
    text = "" if value is None else str(value).strip().lower()
    if isinstance(value, list | dict) or text.removesuffix(".0") not in _TRUE | _FALSE:
        return None
    return text.removesuffix(".0") in _TRUE


def finite_numbers(values: Any, count: int) -> FloatArray | None:
    """(count,) finite numbers of a json list, or None if it is anything else."""
    if not isinstance(values, list) or len(values) != count:
        return None
    try:
        numbers = np.array(values)
    except ValueError:  # lists of different lengths
        return None
    if numbers.dtype.kind == "O" and all(isinstance(value, int | float) for value in values):
        numbers = np.array([value if abs(value) <= sys.float_info.max else np.inf for value in values])
    if numbers.ndim != 1 or numbers.dtype.kind not in "biuf":
        return None
    numbers = numbers.astype(np.float64)
    return numbers if np.isfinite(numbers).all() else None


def listed(problems: Sequence[str]) -> list[str]:
    """The first problems, a line for each, and how many more there are."""
    more = len(problems) - _PROBLEMS_SHOWN
    return [f"  {problem}" for problem in problems[:_PROBLEMS_SHOWN]] + ([f"  ... and {more} more"] if more > 0 else [])


def shortened(value: Any) -> str:
    """A value of a file, short enough for an error."""
    text = _REPR.repr(value)
    long = isinstance(value, Sized) and len(value) > _REPR.maxlist
    return text + (f" ({len(value)} entries)" if long and not isinstance(value, str) else "")
