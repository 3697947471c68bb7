"""What a user points at - files, folders, patterns, cameras - sorted into images, videos and cameras."""

from __future__ import annotations

import glob
import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit
from urllib.request import url2pathname

from distilpose.data.images import list_images
from distilpose.errors import InputError
from distilpose.video.reader import VIDEO_SUFFIXES

CAMERA_PREFIX = "webcam:"


class Sources(NamedTuple):
    """What there is to predict, each once.

    Attributes:
        images: image files.
        videos: video files.
        cameras: numbers of webcams.
    """

    images: list[Path]
    videos: list[Path]
    cameras: list[int]


def find_sources(sources: Iterable[str | Path]) -> Sources:
    """Sort sources by what they are.

    Args:
        sources: files, folders (the images and videos directly in them), patterns such as ``photos/**/*.jpg``,
            ``file:`` addresses, and ``webcam:NUMBER``. A file is a video by its suffix, else an image.

    Raises:
        InputError: there is no source, a folder or pattern holds none, or an address is of another kind.
    """
    paths: list[Path] = []
    cameras: dict[int, None] = {}
    for source in sources:
        if isinstance(source, str) and source.startswith(CAMERA_PREFIX):
            cameras[_camera_number(source)] = None
        else:
            paths += _paths_of(source)
    if cameras and not paths:
        return Sources([], [], list(cameras))
    files = list_images(paths, also=VIDEO_SUFFIXES)
    videos = [path for path in files if path.suffix.lower() in VIDEO_SUFFIXES]
    return Sources([path for path in files if path not in set(videos)], videos, list(cameras))


def _camera_number(source: str) -> int:
    number = source.removeprefix(CAMERA_PREFIX)
    if not (number.isascii() and number.isdecimal()):
        raise InputError(f"expected {CAMERA_PREFIX}NUMBER, such as {CAMERA_PREFIX}0, got {source!r}")
    return int(number)


def _paths_of(source: str | Path) -> list[Path]:
    text = str(source)
    if isinstance(source, str) and text.lower().startswith("file:"):
        address = urlsplit(text)
        if address.netloc not in ("", "localhost") or not address.path:
            raise InputError(f"expected a file address such as file:///home/me/photo.jpg, got {text!r}")
        return [Path(url2pathname(address.path))]
    if isinstance(source, str) and re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", text):
        raise InputError(f"expected a file, folder, pattern, file: address or webcam:NUMBER, got {text!r}: download it")
    path = Path(source)
    if path.exists() or not glob.has_magic(text):
        return [path]
    found = sorted(Path(match) for match in glob.glob(text, recursive=True))
    if not found:
        raise InputError(f"no file fits the pattern {text!r}")
    return found
