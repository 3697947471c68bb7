"""What a user points at - files, folders, patterns, cameras - sorted into images, videos and cameras."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit
from urllib.request import url2pathname

from distilpose.data.images import IMAGE_SUFFIXES
from distilpose.errors import InputError
from distilpose.files import resolved
from distilpose.video.reader import VIDEO_SUFFIXES

CAMERA_PREFIX = "webcam:"
STDIN = Path("-")  # an image on the standard input


class Sources(NamedTuple):
    """What there is to predict, each once; ``num_others`` files in folders are neither by their suffix."""

    images: list[Path]
    videos: list[Path]
    cameras: list[int]
    num_others: int = 0


def find_sources(sources: Iterable[str | Path], *, exclude: Path | None = None) -> Sources:
    """Sort sources by what they are.

    Args:
        sources: files, folders (all images and videos below them, hidden ones left out), patterns such as
            ``photos/**/*.jpg``, ``file:`` addresses, ``webcam:NUMBER``, and ``-`` for an image on the standard input.
            A file is a video by its suffix, else an image.
        exclude: folder that is not looked into, such as that of the results.

    Raises:
        InputError: there is no source, a folder or pattern holds none, or an address is of another kind.
    """
    paths: list[Path] = []
    num_others = 0
    cameras: dict[int, None] = {}
    for source in sources:
        if not isinstance(source, str | Path):
            raise InputError(f"expected paths of images, videos and folders, got {source!r}")
        if isinstance(source, str) and source.startswith(CAMERA_PREFIX):
            cameras[_camera_number(source)] = None
        else:
            for path in _paths_of(source):
                found, others = _files_below(path, exclude) if os.path.isdir(path) else ([path], 0)
                paths += found
                num_others += others
    if not paths and not cameras:
        raise InputError("expected at least one image, video or folder of them, got none")
    once: dict[Path, Path] = {}
    for path in paths:
        once.setdefault(resolved(path), path)
    files = list(once.values())
    videos = [path for path in files if path.suffix.lower() in VIDEO_SUFFIXES]
    return Sources([path for path in files if path not in set(videos)], videos, list(cameras), num_others)


def _files_below(folder: Path, exclude: Path | None) -> tuple[list[Path], int]:
    """Images and videos of a folder and of those in it, sorted, and how many other files there are.

    A folder that cannot be listed is among them: reading it tells why.
    """
    found: list[Path] = []
    unlisted: list[OSError] = []
    num_others = 0
    for place, folders, names in os.walk(folder, onerror=unlisted.append):
        here = Path(place)
        folders[:] = sorted(
            name
            for name in folders
            if not name.startswith(".") and (exclude is None or resolved(here / name) != resolved(exclude))
        )
        shown = [here / name for name in sorted(names) if not name.startswith(".")]
        kept = [path for path in shown if path.suffix.lower() in IMAGE_SUFFIXES + VIDEO_SUFFIXES and path.is_file()]
        found += kept
        num_others += len(shown) - len(kept)
    found += [Path(error.filename) for error in unlisted]
    if not found:
        raise InputError(
            f"{folder} holds no image and no video: expected files ending in "
            f"{', '.join(IMAGE_SUFFIXES + VIDEO_SUFFIXES)}"
        )
    return found, num_others


def _camera_number(source: str) -> int:
    number = source.removeprefix(CAMERA_PREFIX)
    if not (number.isascii() and number.isdecimal() and len(number) <= 5):
        raise InputError(f"expected {CAMERA_PREFIX}NUMBER, such as {CAMERA_PREFIX}0, got {source!r}")
    return int(number)


def local_path(source: str | Path) -> Path:
    """The path of a file on this machine, which may be given as a ``file:`` address; others are an `InputError`."""
    text = str(source)
    if isinstance(source, str) and text.lower().startswith("file:"):
        address = urlsplit(text)
        if address.netloc not in ("", "localhost") or not address.path:
            raise InputError(f"expected a file address such as file:///home/me/photo.jpg, got {text!r}")
        return Path(url2pathname(address.path))
    if isinstance(source, str) and re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", text):
        raise InputError(f"expected a file of this machine, by its path or file: address, got {text!r}: download it")
    return Path(source)


def _paths_of(source: str | Path) -> list[Path]:
    path, text = local_path(source), str(source)
    if os.path.exists(path) or not glob.has_magic(text) or text.lower().startswith("file:"):
        return [path]
    found = sorted(Path(match) for match in glob.glob(text, recursive=True))
    if not found:
        raise InputError(f"no file fits the pattern {text!r}")
    return found
