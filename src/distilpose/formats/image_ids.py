"""The id of an image, the same in every file that is written of it."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from itertools import count

_LIMIT = 2**63  # ids are below, which Parquet and pycocotools hold


def stem_number(name: str | os.PathLike[str]) -> int | None:
    """The number that a file's stem is, such as 785 of ``a/000000000785.jpg``; None where it is none below 2**63."""
    stem = os.path.splitext(os.path.basename(os.fspath(name).replace("\\", "/")))[0]
    is_number = stem.isascii() and stem.isdecimal() and len(stem) < 30
    return int(stem) if is_number and int(stem) < _LIMIT else None


def image_ids(names: Sequence[str | os.PathLike[str]]) -> list[int]:
    """An id for each image, none twice: the number that its stem alone is, else the first free one from 1 on."""
    return fill_ids([stem_number(name) for name in names])


def fill_ids(ids: Sequence[int | None], taken: Collection[int] = ()) -> list[int]:
    """The ids, with the first of `free_ids` in place of each None and of ids that are there twice.

    ``taken`` are not free either.
    """
    users = Counter(ids)
    free = free_ids({number for number in users if number is not None}.union(taken))
    return [next(free) if number is None or users[number] > 1 else number for number in ids]


def free_ids(used: Collection[int]) -> Iterator[int]:
    """1, 2, 3, ... without those that are ``used``."""
    return (number for number in count(1) if number not in used)
