"""Pictures out of uploads: the header first, the pixels only of what is small enough."""

from __future__ import annotations

from io import BytesIO
from typing import cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from distilpose.errors import InputError
from distilpose.images import read_image
from distilpose.serving.problems import Problem, too_large, unusable

FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "AVIF")  # those of `read_image`


class _Content(BytesIO):
    """Bytes that call themselves the picture in messages."""

    def __str__(self) -> str:
        return "the picture"


def decode_picture(content: bytes, max_pixels: int) -> NDArray[np.uint8]:
    """Decode an uploaded picture as `read_image` does a file.

    Args:
        content: of the file.
        max_pixels: more are refused before any is decoded.

    Returns:
        (H, W, 3) uint8 RGB, upright.

    Raises:
        Problem: 413 for too many pixels, 422 for anything that is no whole picture.
    """
    _check_header(content, max_pixels)
    try:
        return read_image(cast(str, _Content(content)))
    except InputError as error:
        raise unusable("image", f"{str(error)[:300]}: send a whole JPEG, PNG or WebP picture") from error
    except MemoryError as error:
        raise too_large("the picture needs more memory than there is: send a smaller one", "too-many-pixels") from error


def _check_header(content: bytes, max_pixels: int) -> None:
    try:
        with Image.open(BytesIO(content), formats=FORMATS) as picture:
            width, height = picture.size
    except Image.DecompressionBombError as error:
        raise _too_many_pixels(str(error), max_pixels) from error
    except Exception as error:  # decoders answer broken bytes with exceptions of a dozen types
        expected = f"expected a picture ({', '.join(FORMATS)})"
        raise unusable("image", f"{expected}, got {len(content)} bytes that are none or are broken") from error
    if width * height > max_pixels:
        raise _too_many_pixels(f"{width} x {height}", max_pixels)


def _too_many_pixels(got: str, max_pixels: int) -> Problem:
    text = f"expected at most {max_pixels} pixels, got {got}: send a smaller picture"
    return too_large(text, "too-many-pixels")
