"""Options declared once: a frozen dataclass beside the function that takes it, from which its command is made.

A range stands in the type (``batch_size: PositiveInt = 8``), the help text in the class's ``Attributes:`` section.
`check_options` holds the values to their types, wherever they come from; `distilpose.cli.command` makes the parser.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields, is_dataclass
from numbers import Real  # numpy's numbers are, too
from operator import index
from types import UnionType
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

import numpy as np

from distilpose.errors import ConfigError


@dataclass(frozen=True)
class Range:
    """Bounds of a finite number; with ``above_low`` and ``below_high`` these themselves are out."""

    low: float = -math.inf
    high: float = math.inf
    above_low: bool = False
    below_high: bool = False

    def __str__(self) -> str:
        low = f"above {self.low:g}" if self.above_low else f"at least {self.low:g}"
        high = f"below {self.high:g}" if self.below_high else f"at most {self.high:g}"
        return low if self.high == math.inf else f"{low} and {high}"

    def __contains__(self, value: object) -> bool:
        if not isinstance(value, Real) or isinstance(value, bool):
            return False
        number: Any = value  # whose order with floats is not in the types of Real
        outside = (self.above_low and number == self.low) or (self.below_high and number == self.high)
        return -math.inf < number < math.inf and self.low <= number <= self.high and not outside


@dataclass(frozen=True)
class ReadAs:
    """How the text of a command line becomes the value; raises `ValueError` with what was expected."""

    read: Callable[[str], Any]


def read_seconds(text: str) -> float:
    """``90``, ``1:30`` or ``0:01:30`` -> seconds."""
    try:
        parts = [float(part) for part in text.split(":")]
    except ValueError:
        parts = []
    if not 1 <= len(parts) <= 3 or any(part < 0 for part in parts):
        raise ValueError("seconds or [HOURS:]MINUTES:SECONDS")
    return float(sum(part * 60.0**power for power, part in enumerate(reversed(parts))))


PositiveInt = Annotated[int, Range(1)]
NonNegativeInt = Annotated[int, Range(0)]
PositiveFloat = Annotated[float, Range(0, above_low=True)]
NonNegativeFloat = Annotated[float, Range(0)]
ClosedUnitInterval = Annotated[float, Range(0, 1)]
Port = Annotated[int, Range(0, 65535)]
Seconds = Annotated[float, Range(0), ReadAs(read_seconds)]


class OptionType(NamedTuple):
    """What an annotation says of an option.

    Attributes:
        base: type of one value: bool, int, float, str, a path or a dataclass.
        optional: whether None is one.
        several: tuple or list that holds the values; None for a single one.
        choices: of a Literal, else empty.
        range: bounds of each number.
        read: from text to a value; None takes ``base``.
    """

    base: Any
    optional: bool = False
    several: type | None = None
    choices: tuple[Any, ...] = ()
    range: Range | None = None
    read: Callable[[str], Any] | None = None


def option(
    default: Any = None, *, metavar: str | None = None, positional: bool = False, bare: str | None = None
) -> Any:
    """Field of an options class.

    Args:
        default: its value; a list or dict is copied.
        metavar: what the help calls its value.
        positional: it is given without ``--name``.
        bare: what ``--name`` without a value means.
    """
    metadata = {"metavar": metavar, "positional": positional, "bare": bare}
    if isinstance(default, list | dict):
        return field(default_factory=lambda: type(default)(default), metadata=metadata)
    return field(default=default, metadata=metadata)


def option_types(options: type) -> dict[str, OptionType]:
    """The type of each field of an options class."""
    hints = get_type_hints(options, include_extras=True)
    return {item.name: _option_type(hints[item.name]) for item in fields(options)}


def _option_type(hint: Any) -> OptionType:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        known = _option_type(arguments[0])
        for extra in arguments[1:]:
            if isinstance(extra, Range):
                known = known._replace(range=extra)
            elif isinstance(extra, ReadAs):
                known = known._replace(read=extra.read)
        return known
    if origin in (Union, UnionType):
        some = [argument for argument in arguments if argument is not type(None)]
        return _option_type(some[0])._replace(optional=len(some) < len(arguments))
    if origin is Literal:
        return OptionType(type(arguments[0]), choices=arguments)
    if origin in (list, tuple):
        return _option_type(arguments[0])._replace(several=origin)
    return OptionType(hint)


def check_options(options: Any, prefix: str = "") -> None:
    """Refuse None and values outside their declared range or choices by a `ConfigError`, options inside options too.

    Numbers of numpy become plain ones. ``prefix`` stands before the names; an options class calls it in
    ``__post_init__``.
    """
    for name, kind in option_types(type(options)).items():
        value = getattr(options, name)
        if value is None and kind.optional:
            continue
        if kind.several is not None and not isinstance(value, list | tuple | None):
            raise ConfigError(f"{prefix}{name} must be a list, got {value!r}")
        for one in (value,) if kind.several is None or value is None else value:
            if isinstance(kind.base, type) and is_dataclass(kind.base):
                if not isinstance(one, kind.base):
                    raise ConfigError(f"{prefix}{name} must be {kind.base.__name__}, got {one!r}")
                check_options(one, f"{prefix}{name}.")
            if kind.base is bool and not isinstance(one, bool | np.bool_ | None):
                raise ConfigError(f"{prefix}{name} must be true or false, got {one!r}")
            if kind.choices and one not in kind.choices:
                raise ConfigError(f"{prefix}{name} must be one of {', '.join(map(str, kind.choices))}, got {one!r}")
            whole = kind.base is not int or hasattr(one, "__index__")
            if kind.range is not None and not (whole and one in kind.range):
                sort = "a whole number" if kind.base is int else "a number"
                of = "" if kind.range.above_low else "of "
                raise ConfigError(f"{prefix}{name} must be {sort} {of}{kind.range}, got {one!r}")
        if kind.base in (int, float) and isinstance(value, Real) and type(value).__module__ != "builtins":
            object.__setattr__(options, name, kind.base(value))  # torch and json take no numbers of numpy
        if value is None:
            raise ConfigError(f"{prefix}{name} must have a value, got None: leave it out for its default")


def check_count(value: object, name: str, low: int = 1, high: float = math.inf) -> int:
    """A whole number within bounds, as a plain one; a `ConfigError` that names it if it is none."""
    bounds = Range(low, high)
    if not (hasattr(value, "__index__") and value in bounds):
        raise ConfigError(f"{name} must be a whole number of {bounds}, got {value!r}")
    return index(value)


def refuse_unknown_names(values: Mapping[Any, Any], options: type, prefix: str = "") -> None:
    """Refuse plain values whose names are no fields, options inside options too: a `ConfigError` has the nearest name.

    Dotted names are left to the parser. Plain values in place of options are refused where the parser would take a text
    for the name of a class, and import its module.
    """
    kinds = option_types(options)
    for name, value in values.items():
        if name not in kinds and "." not in str(name):
            near = difflib.get_close_matches(str(name), kinds, 1)
            hint = f"did you mean {prefix}{near[0]}?" if near else f"expected one of {', '.join(kinds)}"
            raise ConfigError(f"there is no option {prefix}{name}: {hint}")
        if name in kinds and is_dataclass(kinds[name].base):
            kind = kinds[name]
            for one in value if isinstance(value, list) else (value,):
                if isinstance(one, Mapping):
                    refuse_unknown_names(one, kind.base, f"{prefix}{name}.")
                elif (kind.several or kind.optional) and isinstance(one, str | int | float | list):
                    needed = " and ".join(each.name for each in fields(kind.base) if _is_required(each))
                    form = "hold mappings" if kind.several else "be a mapping"
                    raise ConfigError(f"{prefix}{name} must {form} with {needed}, got {one!r}")


def _is_required(item: Field[Any]) -> bool:
    return item.default is MISSING and item.default_factory is MISSING
