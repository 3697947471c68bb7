"""All images of a data set, decoded once before training, so that broken ones are known before hours have passed."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

from rich.console import Console
from rich.progress import track

from distilpose.data.images import check_decodes, read_image_size
from distilpose.data.prefetch import map_in_threads
from distilpose.errors import InputError
from distilpose.types import Size

logger = logging.getLogger(__name__)

_THREADS = 4  # decoding releases the interpreter lock
_MANY = 500  # images: fewer need no progress bar
_TURNED = (2, 3, 4)  # EXIF orientations that leave the size as it is


def find_bad_images(sizes: Mapping[Path, Size]) -> dict[Path, str]:
    """Decode images and compare their (H, W); what is wrong by file, for those that are not right.

    Logs how many have an EXIF orientation that sizes do not show.
    """
    console = Console(stderr=True)
    answers = track(
        map_in_threads(_check, sizes.items(), threads=_THREADS, ahead=4 * _THREADS),
        description="checking images",
        total=len(sizes),
        console=console,
        transient=True,
        disable=len(sizes) < _MANY or not console.is_terminal,
    )
    bad: dict[Path, str] = {}
    turned = []
    for path, answer in zip(sizes, answers, strict=True):
        if isinstance(answer, str):
            bad[path] = answer
        elif answer in _TURNED:
            turned.append(path)
    if turned:
        logger.warning(
            "%d images are turned by 180 degrees or mirrored by their EXIF orientation, such as %s: they are read as "
            "viewers show them; check that they were labeled so",
            len(turned), turned[0],
        )  # fmt: skip
    return bad


def _check(item: tuple[Path, Size]) -> int | str:
    """The EXIF orientation of an image, or what is wrong with it."""
    path, expected_hw = item
    try:
        size_hw = read_image_size(path)
        if size_hw != expected_hw:
            return (
                f"{path} is of height and width {size_hw}, its annotations are of {expected_hw}: use the labeled image"
            )
        return check_decodes(path)
    except InputError as error:
        return str(error)
