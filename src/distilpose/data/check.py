"""All images of a data set, decoded once before training, so that broken ones are known before hours have passed."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path

from rich.console import Console
from rich.progress import track

from distilpose.data.images import check_decodes, read_image_size
from distilpose.data.prefetch import map_in_threads
from distilpose.errors import InputError
from distilpose.files import write_whole
from distilpose.types import Size

logger = logging.getLogger(__name__)

_THREADS = 4  # decoding releases the interpreter lock
_MANY = 500  # images: fewer need no progress bar
_TURNED = (2, 3, 4)  # EXIF orientations that leave the size as it is

_State = list[int]  # of a file that is right: time of its last change, bytes, height, width, EXIF orientation


def find_bad_images(sizes: Mapping[Path, Size]) -> dict[Path, str]:
    """Decode images and compare their (H, W); what is wrong by file, for those that are not right.

    Files that were right before and have not changed since are not decoded again (`cache_file`). Logs how many have an
    EXIF orientation that sizes do not show.
    """
    if not sizes:
        return {}
    cache = cache_file(sizes)
    before = _read_cache(cache)
    states = {path: [*_stamp(path), *size_hw] for path, size_hw in sizes.items()}
    good = {path: known for path, state in states.items() if (known := before.get(str(path), []))[:-1] == state}
    unknown = {path: size_hw for path, size_hw in sizes.items() if path not in good}
    console = Console(stderr=True)
    answers = track(
        map_in_threads(_check, unknown.items(), threads=_THREADS, ahead=4 * _THREADS),
        description="checking images",
        total=len(unknown),
        console=console,
        transient=True,
        disable=len(unknown) < _MANY or not console.is_terminal,
    )
    checked = dict(zip(unknown, answers, strict=True))
    good |= {path: [*states[path], answer] for path, answer in checked.items() if isinstance(answer, int)}
    if checked:
        _write_cache(cache, {**before, **{str(path): state for path, state in good.items()}})
    if turned := [path for path, state in good.items() if state[-1] in _TURNED]:
        logger.warning(
            "%d images are turned by 180 degrees or mirrored by their EXIF orientation, such as %s: they are read as "
            "viewers show them; check that they were labeled so",
            len(turned), turned[0],
        )  # fmt: skip
    return {path: answer for path, answer in checked.items() if isinstance(answer, str)}


def size_conflict(path: Path, size_hw: Size, expected_hw: Size) -> str | None:
    """What an image that has not the size of its annotations says of its likely cause; None for one that has it."""
    if size_hw == expected_hw:
        return None
    if size_hw == expected_hw[::-1]:
        cause = "height and width are exchanged, as when an image was labeled without its EXIF orientation: turn it"
    elif abs(size_hw[0] * expected_hw[1] - size_hw[1] * expected_hw[0]) <= max(*size_hw, *expected_hw):
        cause = "it seems to have been resized since: use the image that was labeled, or scale its labels"
    else:
        cause = "it seems to be another image: put the one there that was labeled"
    return f"{path} is of height and width {size_hw}, its annotations are of {expected_hw}: {cause}"


def cache_file(paths: Mapping[Path, object]) -> Path:
    """Where it is kept which of these images were right: in the user's cache folder (``XDG_CACHE_HOME``)."""
    root = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    folders = "\n".join(sorted({os.path.abspath(path.parent) for path in paths}))
    digest = hashlib.sha256(folders.encode(errors="surrogateescape")).hexdigest()
    return Path(root, "distilpose", f"images-{digest[:16]}.json")


def _read_cache(file: Path) -> dict[str, _State]:
    try:
        content = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return {key: value for key, value in content.items() if isinstance(value, list)} if type(content) is dict else {}


def _write_cache(file: Path, states: Mapping[str, _State]) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, json.dumps(states).encode())
    except OSError as error:
        logger.debug("%s: the checked images are not remembered (%s)", file, error)


def _stamp(path: Path) -> tuple[int, int]:
    try:
        state = os.stat(path)
    except OSError:
        return 0, 0
    return state.st_mtime_ns, state.st_size


def _check(item: tuple[Path, Size]) -> int | str:
    """The EXIF orientation of an image, or what is wrong with it."""
    path, expected_hw = item
    try:
        return size_conflict(path, read_image_size(path), expected_hw) or check_decodes(path)
    except InputError as error:
        return str(error)
