"""What the keypoints are: names, order, mirror pairs, limbs, body halves and OKS constants."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from distilpose.errors import ConfigError
from distilpose.skeletons.names import name_key

Side = Literal["left", "right", "center"]
Pairs = tuple[tuple[int, int], ...]
_BODY_PARTS = ("shoulder", "hip", "elbow", "wrist", "ankle")
_ANIMAL_PARTS = {"paw", "hoof", "tail", "tailbase"}


@dataclass(frozen=True)
class Skeleton:
    """The keypoints of one kind of body, in the order in which every array of the package holds them.

    Attributes:
        name: of the convention, such as ``"coco_17"``.
        keypoint_names: K unique names.
        flip_pairs: (left, right) index pairs that a mirror swaps; the side decides the color when drawn.
        edges: index pairs joined by a limb when drawn.
        upper_body: indices of the upper half, for half-body augmentation.
        lower_body: indices of the lower half.
        oks_sigmas: K per-keypoint constants of object keypoint similarity, > 0.

    Raises:
        ConfigError: a name is empty or doubled, an index is out of range or doubled, or a constant is no number > 0.
    """

    name: str
    keypoint_names: tuple[str, ...]
    flip_pairs: Pairs
    edges: Pairs
    upper_body: tuple[int, ...]
    lower_body: tuple[int, ...]
    oks_sigmas: tuple[float, ...]

    def __post_init__(self) -> None:
        names = self.keypoint_names
        if not names or any(not name.strip() for name in names):
            raise ConfigError(f"keypoints must be names, at least one and none empty, got {list(names)}")
        if doubled := _doubled(names):
            raise ConfigError(f"keypoints must be unique, got {', '.join(doubled)} more than once")
        if len(self.oks_sigmas) != len(names) or not all(map(_is_positive, self.oks_sigmas)):
            raise ConfigError(f"oks_sigmas must be {len(names)} finite positive numbers, got {list(self.oks_sigmas)}")
        paired = [index for pair in self.flip_pairs for index in pair]
        used = [*paired, *(i for edge in self.edges for i in edge), *self.upper_body, *self.lower_body]
        if any(not 0 <= index < len(names) for index in used):
            raise ConfigError(f"keypoint indices must lie in 0..{len(names) - 1}, got {sorted(set(used))}")
        for field, pairs in (("flip_pairs", self.flip_pairs), ("edges", self.edges)):
            if alone := [names[a] for a, b in pairs if a == b]:
                raise ConfigError(f"{field} must join two keypoints, got {alone[0]} with itself: leave it out")
        once = {"flip_pairs": paired, "upper_body": self.upper_body, "lower_body": self.lower_body}
        for field, indices in once.items():
            if doubled := _doubled([names[index] for index in indices]):
                raise ConfigError(f"{field} may name a keypoint once, got {', '.join(doubled)} more than once")

    @property
    def num_keypoints(self) -> int:
        """How many keypoints one person has (K)."""
        return len(self.keypoint_names)

    @property
    def flip_index(self) -> NDArray[np.intp]:
        """(K,) index array: ``keypoints[..., flip_index, :]`` swaps left and right."""
        index = np.arange(self.num_keypoints)
        for left, right in self.flip_pairs:
            index[[left, right]] = right, left
        return index

    @property
    def sides(self) -> tuple[Side, ...]:
        """Body side of each keypoint: the first of a flip pair is left, the second right, the rest center."""
        side: list[Side] = ["center"] * self.num_keypoints
        for left, right in self.flip_pairs:
            side[left], side[right] = "left", "right"
        return tuple(side)

    @property
    def is_person(self) -> bool:
        """Whether this is a human body: with shoulders, hips, and elbows, wrists or ankles, without paws or a tail."""
        keys = {name_key(name) for name in self.keypoint_names}
        parts = {part for part in _BODY_PARTS if {("left", (part,)), ("right", (part,))} <= keys}
        return {"shoulder", "hip"} < parts and not any(_ANIMAL_PARTS & set(key.words) for key in keys)

    def find(self, *names: str) -> int | None:
        """The index of the first of some keypoints that there is, however it is spelled; None where there is none."""
        places = {name_key(name): index for index, name in enumerate(self.keypoint_names)}
        return next((places[name_key(name)] for name in names if name_key(name) in places), None)

    def has_keypoints(self, names: Sequence[object]) -> bool:
        """Whether a list names these keypoints in this order, however it spells them (``LeftEye``, ``left eye``)."""
        return [name_key(str(name)) for name in names] == [name_key(name) for name in self.keypoint_names]

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready description; `from_dict` reads it back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Skeleton:
        """Read what `to_dict` wrote; anything else is a `ConfigError`."""
        try:
            return cls(
                name=str(values["name"]),
                keypoint_names=tuple(str(name) for name in values["keypoint_names"]),
                flip_pairs=tuple((int(a), int(b)) for a, b in values["flip_pairs"]),
                edges=tuple((int(a), int(b)) for a, b in values["edges"]),
                upper_body=tuple(int(i) for i in values["upper_body"]),
                lower_body=tuple(int(i) for i in values["lower_body"]),
                oks_sigmas=tuple(float(s) for s in values["oks_sigmas"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ConfigError(f"a skeleton needs all fields of Skeleton.to_dict(), got {dict(values)}") from error

    def to_fields(self) -> dict[str, Any]:
        """The same by name, as plain values; what `to_yaml` writes."""
        names = self.keypoint_names
        return {
            "name": self.name,
            "keypoints": list(names),
            "flip_pairs": [[names[a], names[b]] for a, b in self.flip_pairs],
            "edges": [[names[a], names[b]] for a, b in self.edges],
            "upper_body": [names[index] for index in self.upper_body],
            "lower_body": [names[index] for index in self.lower_body],
            "oks_sigmas": dict(zip(names, self.oks_sigmas, strict=True)),
        }

    def to_yaml(self) -> str:
        """The text of a file that `skeleton_from_file` reads, for a person to change."""
        import yaml

        return yaml.safe_dump(self.to_fields(), sort_keys=False, default_flow_style=None, width=110)


def _doubled(names: Iterable[str]) -> list[str]:
    return [name for name, count in Counter(names).items() if count > 1]


def _is_positive(number: float) -> bool:
    return not isinstance(number, bool) and math.isfinite(number) and number > 0
