"""The id of an image, the same in every file that is written of it."""

from __future__ import annotations

import itertools
import os
from collections import Counter
from collections.abc import Collection, Iterator, Sequence

_LIMIT = 2**63  # ids are below, which Parquet and pycocotools hold
_MOST_DIGITS = 1000  # Python reads no number of more than some thousand


def stem_number(name: str | os.PathLike[str]) -> int | None:
    """The number that a file's stem is, such as 785 of ``a/000000000785.jpg``; None where it is none."""
    stem = os.path.splitext(os.path.basename(os.fspath(name).replace("\\", "/")))[0]
    return int(stem) if stem.isascii() and stem.isdecimal() and len(stem) <= _MOST_DIGITS else None


def image_ids(names: Sequence[str | os.PathLike[str]]) -> list[int]:
    """An id for each image, none twice: the number that its stem alone is, else the first free one from 1 on."""
    return fill_ids([stem_number(name) for name in names])


def fill_ids(ids: Sequence[int | None], taken: Collection[int] = ()) -> list[int]:
    """The ids; None, ids that are there twice and ids of more than 64 bits become the first of `free_ids`.

    ``taken`` are not free either.
    """
    users = Counter(ids)
    free = free_ids({number for number in users if number is not None}.union(taken))
    good = {number for number, count in users.items() if number is not None and count == 1 and abs(number) < _LIMIT}
    return [number if number in good and number is not None else next(free) for number in ids]


def free_ids(used: Collection[int]) -> Iterator[int]:
    """1, 2, 3, ... without those that are ``used``."""
    return (number for number in itertools.count(1) if number not in used)
