"""Names of keypoints as tools write them: which two mean the same point, and which two are left and right of one."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal, NamedTuple

from distilpose.errors import ConfigError

_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
_SIDES: dict[str, Literal["left", "right"]] = {"left": "left", "l": "left", "right": "right", "r": "right"}
# One point under the names of several data sets. Necks are not here: MPII's and OpenPose's are different points.
_ALIASES = {
    ("head", "top"): ("head",),
    ("top", "head"): ("head",),
    ("hip",): ("pelvis",),
    ("mid", "hip"): ("pelvis",),
}


class NameKey(NamedTuple):
    """What a keypoint's name says, however it is spelled: ``LeftEye``, ``eye_l`` and ``left eye`` are one.

    Attributes:
        side: None for a name without a side.
        words: the rest, in lower case.
    """

    side: Literal["left", "right"] | None
    words: tuple[str, ...]


def name_key(name: str) -> NameKey:
    """Read a keypoint's name; the first word that is a side is the side."""
    words = [word.lower() for word in _WORD.findall(name)]
    place = next((index for index, word in enumerate(words) if word in _SIDES), None)
    if place is None:
        rest = tuple(words) or (name,)  # a name in another alphabet stands for itself
        return NameKey(None, _ALIASES.get(rest, rest))
    return NameKey(_SIDES[words[place]], (*words[:place], *words[place + 1 :]))


def pairs_by_name(names: Sequence[str]) -> tuple[tuple[int, int], ...]:
    """(left, right) index pairs of names that differ in nothing but their side."""
    keys = {name_key(name): index for index, name in enumerate(names)}
    return tuple(
        (index, keys[NameKey("right", key.words)])
        for key, index in keys.items()
        if key.side == "left" and NameKey("right", key.words) in keys
    )


def index_of(name: object, names: Sequence[str], what: str) -> int:
    """The index of a keypoint, by its exact name.

    Raises:
        ConfigError: there is none of this name; ``what`` says where it stands.
    """
    if name not in names:
        raise ConfigError(f"{what} must name keypoints of {', '.join(names)}; got {name!r}")
    return list(names).index(str(name))
