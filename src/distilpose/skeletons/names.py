"""Names of keypoints as tools write them: which two mean the same point, and which two are left and right of one."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from typing import Literal, NamedTuple

from distilpose.errors import ConfigError

# Digits, or letters of any alphabet: what lies between blanks and ASCII's punctuation.
_RUN = re.compile(r"\d+|[^\d\s!-/:-@\[-`{-~]+")
_SIDES: dict[str, Literal["left", "right"]] = {"left": "left", "l": "left", "right": "right", "r": "right"}
# One point under the names of several data sets. MPII's upper_neck is not here: it lies higher than others' necks.
_ALIASES = {
    ("head", "top"): ("head",),
    ("top", "head"): ("head",),
    ("hip",): ("pelvis",),
    ("mid", "hip"): ("pelvis",),
}
# Written in one word with their side: ``lwrist``, ``wristr``, ``leftwrist``.
_PARTS = (
    "ankle|arm|bigtoe|brow|calf|cheek|ear|elbow|eye|eyebrow|finger|foot|hand|heel|hip|index|knee|leg|paw|pinky|"
    "shin|shoulder|smalltoe|thigh|thumb|toe|wing|wrist"
)
_JOINED = re.compile(rf"(?P<side>left|right|l|r)(?P<part>{_PARTS})|(?P<part2>{_PARTS})(?P<side2>left|right|l|r)")


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
    runs = _RUN.findall(unicodedata.normalize("NFKC", name))
    words = [word.lower() for run in runs for word in _words(run)]
    joined = _JOINED.fullmatch(words[0]) if len(words) == 1 else None
    if joined:
        words = [joined["side"] or joined["side2"], joined["part"] or joined["part2"]]
    place = next((index for index, word in enumerate(words) if word in _SIDES), None)
    if place is None:
        rest = tuple(words) or (name,)  # a name of signs alone stands for itself
        return NameKey(None, _ALIASES.get(rest, rest))
    return NameKey(_SIDES[words[place]], (*words[:place], *words[place + 1 :]))


def _words(run: str) -> list[str]:
    """Letters cut before a capital that begins a word (``LEye``, ``leftEye``) and where an alphabet has no capitals."""
    cuts = [0]
    for place in range(1, len(run)):
        before, letter, after = run[place - 1], run[place], run[place + 1 : place + 2]
        begins = letter.isupper() and (before.islower() or after.islower())
        if begins or _has_case(before) != _has_case(letter):
            cuts.append(place)
    return [run[start:end] for start, end in zip(cuts, [*cuts[1:], len(run)], strict=True)]


def _has_case(letter: str) -> bool:
    return letter.lower() != letter.upper()


def pairs_by_name(names: Sequence[str]) -> tuple[tuple[int, int], ...]:
    """(left, right) index pairs of names that differ in nothing but their side, those with the smallest index first."""
    keys = {name_key(name): index for index, name in enumerate(names)}
    rights = {index: keys.get(NameKey("right", key.words)) for key, index in keys.items() if key.side == "left"}
    return tuple(sorted(((left, right) for left, right in rights.items() if right is not None), key=min))


def index_of(name: object, names: Sequence[str], what: str) -> int:
    """The index of a keypoint, by its exact name; a `ConfigError` says where an unknown one stands (``what``)."""
    if str(name) not in names:
        raise ConfigError(f"{what} must name keypoints of {', '.join(names)}; got {name!r}")
    return list(names).index(str(name))
