"""Images out of uploads: the header first, the pixels only of what is small enough."""

from __future__ import annotations

import re
from io import BytesIO
from typing import cast

from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile

from distilpose.data.images import read_image
from distilpose.errors import InputError
from distilpose.serving.errors import HTTPError, too_large, unusable
from distilpose.types import ImageArray

# Those of `read_image` but AVIF, whose container may name another size than the image in it has.
FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF")
MAX_SCANS = 100  # of a JPEG; encoders write about ten, and each costs a pass over all pixels
_TILE_WIDTH, _TILE_LENGTH = 322, 323  # tags of a TIFF
_SCAN, _END = 0xDA, 0xD9  # markers of a JPEG: a scan begins; the image ends
_BARE_MARKERS = frozenset({0x01, *range(0xD0, 0xD9)})  # nothing follows them
_MARKER = re.compile(rb"\xff+([^\x00\xff])", re.DOTALL)  # a zero behind 0xff: not a marker but a byte of data


class _Content(BytesIO):
    """Bytes that call themselves the image in messages."""

    def __str__(self) -> str:
        return "the image"


def decode_image(content: bytes, max_pixels: int) -> ImageArray:
    """Decode an uploaded image as `read_image` does a file.

    Args:
        content: of the file.
        max_pixels: more are refused before any is decoded.

    Returns:
        (H, W, 3) uint8 RGB, upright.

    Raises:
        HTTPError: 413 for too many pixels, 422 for anything that is no whole image.
    """
    check_header(content, max_pixels)
    try:
        return read_image(cast(str, _Content(content)))
    except InputError as error:
        raise unusable("image", f"{str(error)[:300]}: send a whole JPEG, PNG or WebP image") from error
    except MemoryError as error:
        raise too_large("the image needs more memory than there is: send a smaller one", "too-many-pixels") from error


def check_header(content: bytes, max_pixels: int) -> int:
    """What an image costs to decode, from its header alone: its pixels.

    Args:
        content: of the file.
        max_pixels: more are refused.

    Raises:
        HTTPError: 413 for too many pixels, 422 for what is no image or a JPEG of endless scans.
    """
    try:
        with Image.open(BytesIO(content), formats=FORMATS) as image:
            width, height = image.size
            tile_width, tile_height = _tile_size(image)
            jpeg = image.format in ("JPEG", "MPO")
    except Image.DecompressionBombError as error:
        raise _too_many_pixels(str(error), max_pixels) from error
    except Exception as error:  # decoders answer broken bytes with exceptions of a dozen types
        expected = f"expected an image ({', '.join(FORMATS)})"
        raise unusable("image", f"{expected}, got {len(content)} bytes that are none or are broken") from error
    if width * height > max_pixels:
        raise _too_many_pixels(f"{width} x {height}", max_pixels)
    if tile_width * tile_height > max_pixels:
        raise _too_many_pixels(f"tiles of {tile_width} x {tile_height}", max_pixels)
    if jpeg and _has_too_many_scans(content):
        raise unusable("image", f"expected a JPEG of at most {MAX_SCANS} scans, got more: save the image again")
    return width * height


def _tile_size(image: Image.Image) -> tuple[int, int]:
    """(width, height) of a TIFF's tiles, which are decoded whole, however small the image is; else (0, 0)."""
    if not isinstance(image, TiffImageFile):
        return 0, 0
    return int(image.tag_v2.get(_TILE_WIDTH, 0)), int(image.tag_v2.get(_TILE_LENGTH, 0))


def _has_too_many_scans(content: bytes) -> bool:
    if content.count(b"\xff\xda") <= MAX_SCANS:
        return False
    # Bytes of metadata, or of a video behind the image, may look like scans: go from marker to marker.
    scans, at = 0, 0
    while scans <= MAX_SCANS and (found := _MARKER.search(content, at)):
        marker, at = found[1][0], found.end()
        if marker == _END:
            break
        scans += marker == _SCAN
        if marker not in _BARE_MARKERS:
            at += int.from_bytes(content[at : at + 2], "big")
    return scans > MAX_SCANS


def _too_many_pixels(got: str, max_pixels: int) -> HTTPError:
    text = f"expected at most {max_pixels} pixels, got {got}: send a smaller image"
    return too_large(text, "too-many-pixels")
