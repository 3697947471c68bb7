"""Image files in and out: always RGB uint8 (H, W, 3), upright.

Pillow decodes: its 8-bit JPEG pixels equal OpenCV's, with which the published numbers were made.
"""

from __future__ import annotations

import logging
import os
import re
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from io import BytesIO, IOBase
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from distilpose.errors import InputError
from distilpose.files import resolved, write_whole
from distilpose.types import ImageArray

logger = logging.getLogger(__name__)

WRITTEN_SUFFIXES = (".avif", ".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
IMAGE_SUFFIXES = (*WRITTEN_SUFFIXES, ".heic", ".heif", ".jfif", ".jp2", ".mpo")
_HEIF_SUFFIXES = (".heic", ".heif")
_FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "AVIF", "JPEG2000")
_ORIENTATION = 0x0112  # EXIF tag; 5 to 8 turn the image by 90 degrees
_BACKGROUND = (255, 255, 255)  # behind transparent pixels: white, as viewers show them
_BAND_PIXELS = 2**20  # converted at a time, so that a large image is not in memory three times
_JPEG_OPTIONS = {"quality": 95, "subsampling": 0}  # thin colored lines bleed with subsampled color
MAX_SCANS = 100  # of a JPEG; encoders write about ten, and each costs a pass over all pixels
_SCAN, _END = 0xDA, 0xD9  # markers of a JPEG: a scan begins; the image ends
_BARE_MARKERS = frozenset({0x01, *range(0xD0, 0xD9)})  # nothing follows them
_MARKER = re.compile(rb"\xff+([^\x00\xff])", re.DOTALL)  # a zero behind 0xff: not a marker but a byte of data


class NamedBytes(BytesIO):
    """The content of an image file, which `read_image` takes in place of a path, and its name in messages."""

    def __init__(self, content: bytes, name: str) -> None:
        super().__init__(content)
        self._name = name

    def __str__(self) -> str:
        return self._name


def read_image(path: str | os.PathLike[str] | NamedBytes) -> ImageArray:
    """Read an image as viewers show it.

    The EXIF orientation is applied. Gray, palette, 1-bit and CMYK become RGB; transparent pixels are laid on white;
    16 bits are scaled to 8 over their full range; an animation gives its first frame. Color profiles are ignored.

    Args:
        path: of a JPEG, PNG, WebP, TIFF, BMP, GIF, AVIF or JPEG 2000 file, whatever its suffix says; HEIC if
            pillow-heif is installed. Or the content of such a file.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        InputError: the file is missing, not an image, truncated, larger than Pillow's limit (179 million pixels), or a
            JPEG of more than `MAX_SCANS` scans.
    """
    with _opened(path) as image:
        _check_scans(image)
        if getattr(image, "is_animated", False) and image.format != "TIFF" and isinstance(path, str | os.PathLike):
            logger.warning("%s is an animation: its first frame is read; convert it to a video for all of them", path)
        ImageOps.exif_transpose(image, in_place=True)
        return _to_rgb(image)


def as_image(source: object, *, bgr: bool = False) -> ImageArray:
    """Any image as an (H, W, 3) uint8 RGB array; an RGB array itself, not a copy.

    Args:
        source: path, Pillow image, or uint8 array (H, W, 3) or (H, W) or (H, W, 1) of gray.
        bgr: arrays of three channels are in OpenCV's order.

    Raises:
        InputError: it is none of these, or the file is unusable.
    """
    if isinstance(source, str | os.PathLike):
        return read_image(source)
    if isinstance(source, Image.Image):
        try:
            _check_scans(source)
            return _to_rgb(ImageOps.exif_transpose(source))
        except (OSError, SyntaxError, ValueError) as error:  # Pillow decodes a file when its pixels are needed
            raise InputError(f"expected an image, got a Pillow image that cannot be decoded ({error})") from error
    if not hasattr(source, "__array__"):
        is_content = isinstance(source, bytes | bytearray | memoryview)
        remedy = ": open it with PIL.Image.open(io.BytesIO(content))" if is_content else ""
        remedy = ": open it with PIL.Image.open(file)" if isinstance(source, IOBase) else remedy
        raise InputError(f"expected a path, a Pillow image or a uint8 array, got {type(source).__name__}{remedy}")
    image = np.asarray(source)
    if image.dtype == np.uint8 and (image.ndim == 2 or image.shape[2:] == (1,)):
        image = np.repeat(image.reshape(*image.shape[:2], 1), 3, axis=2)
    elif bgr and image.shape[2:] == (3,):
        image = np.ascontiguousarray(image[..., ::-1])
    check_image(image)
    return image


def read_image_size(path: str | os.PathLike[str]) -> tuple[int, int]:
    """Read the (H, W) of an image as `read_image` gives it, from its header alone; errors as there."""
    with _opened(path) as image:
        turned = image.getexif().get(_ORIENTATION, 1) in (5, 6, 7, 8)
        width, height = image.size
        return (width, height) if turned else (height, width)


def check_decodes(path: str | os.PathLike[str]) -> int:
    """Decode an image as fast as its format allows; its EXIF orientation, 1 without one. Errors as in `read_image`."""
    with _opened(path) as image:
        _check_scans(image)
        orientation = int(image.getexif().get(_ORIENTATION, 1))
        image.draft("RGB", (max(1, image.width // 8), max(1, image.height // 8)))
        image.load()
        return orientation


@contextmanager
def _opened(path: str | os.PathLike[str] | NamedBytes) -> Iterator[Image.Image]:
    """An image file, open; whatever goes wrong inside is an `InputError` with the path."""
    try:
        if isinstance(path, str | os.PathLike) and stat.S_ISFIFO(os.stat(path).st_mode):
            raise InputError("expected a file, got a pipe, which may never end: give its content as - to predict")
        with Image.open(path, formats=_formats(path)) as image:
            yield image
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    except Exception as error:  # decoders answer broken bytes with exceptions of a dozen types
        empty = isinstance(path, str | os.PathLike) and os.path.isfile(path) and not os.path.getsize(path)
        reason = "the file is empty" if empty else _reason(error)
        if isinstance(error, UnidentifiedImageError) and _is_heif(path) and not empty and not find_spec("pillow_heif"):
            reason = "HEIC files need pillow-heif, which is not installed: pip install pillow-heif"
        raise InputError(f"{path} cannot be read as an image: {reason}") from error


def _formats(path: object) -> tuple[str, ...]:
    if not _is_heif(path) or find_spec("pillow_heif") is None:
        return _FORMATS  # phones give some JPEG files the suffix .heic
    import_module("pillow_heif").register_heif_opener()
    return (*_FORMATS, "HEIF")


def _is_heif(path: object) -> bool:
    return str(path).lower().endswith(_HEIF_SUFFIXES)


def _check_scans(image: Image.Image) -> None:
    """Refuse a JPEG, not yet decoded, of endless scans: decoding it would take minutes."""
    file = getattr(image, "fp", None)
    if file is None or image.format not in ("JPEG", "MPO"):
        return
    place = file.tell()
    file.seek(0)
    content = file.read()
    file.seek(place)
    if content.count(b"\xff\xda") <= MAX_SCANS:
        return
    # Bytes of metadata, or of a video behind the image, may look like scans: go from marker to marker.
    scans, at = 0, 0
    while found := _MARKER.search(content, at):
        marker, at = found[1][0], found.end()
        if marker == _END:
            break
        scans += marker == _SCAN
        if scans > MAX_SCANS:
            raise InputError(f"expected a JPEG of at most {MAX_SCANS} scans, got more: save the image again")
        if marker not in _BARE_MARKERS:
            at += int.from_bytes(content[at : at + 2], "big")


def _to_rgb(image: Image.Image) -> ImageArray:
    """(H, W, 3), made band by band: each needs memory for its conversion."""
    width, height = image.size
    rows = max(1, _BAND_PIXELS // max(1, width))
    rgb = np.empty((height, width, 3), dtype=np.uint8)
    for top in range(0, height, rows):
        bottom = min(height, top + rows)
        rgb[top:bottom] = _band_to_rgb(image.crop((0, top, width, bottom)))
    return rgb


def _band_to_rgb(image: Image.Image) -> ImageArray:
    if image.mode.startswith("I;16"):
        gray = np.rint(np.asarray(image, dtype=np.float32) / 257).astype(np.uint8)
        return np.repeat(gray[..., None], 3, axis=2)
    if image.mode in ("I", "F"):
        raise InputError(f"expected 8 or 16 bits per channel, got 32 (mode {image.mode}): convert the image")
    if image.has_transparency_data:
        shown = image.convert("RGBA")
        image = Image.new("RGB", image.size, _BACKGROUND)
        image.paste(shown, mask=shown)
    return np.array(image if image.mode == "RGB" else image.convert("RGB"), dtype=np.uint8)


def _reason(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "there is no such file"
    if isinstance(error, IsADirectoryError):
        return "it is a folder: pass its images as a list, or use the command distilpose predict"
    if isinstance(error, UnidentifiedImageError):
        return f"expected one of {', '.join(_FORMATS)}, the content is none of them"
    return str(error) or type(error).__name__


def write_image(path: str | os.PathLike[str], image: ImageArray) -> None:
    """Write an (H, W, 3) uint8 RGB image in the format of its suffix; a broken write leaves no half file behind.

    Raises:
        InputError: the suffix is not known, the array is not an image, or too large for the format.
    """
    check_image(image)
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in WRITTEN_SUFFIXES:
        raise InputError(f"{path}: expected a suffix of {', '.join(WRITTEN_SUFFIXES)}, got {path.suffix!r}")
    options = _JPEG_OPTIONS if suffix in (".jpg", ".jpeg") else {}
    encoded = BytesIO()  # Pillow does not notice a disk that fills up
    try:
        Image.fromarray(image).save(encoded, format=Image.registered_extensions()[suffix], **options)
    except (ValueError, OSError) as error:
        raise InputError(f"{path} cannot hold an image of {image.shape[1]} x {image.shape[0]}: {error}") from error
    write_whole(path, encoded.getbuffer())


def check_image(image: ImageArray) -> None:
    """Refuse anything but an (H, W, 3) uint8 array with H, W >= 1 by an `InputError`."""
    if not isinstance(image, np.ndarray):
        raise InputError(f"image must be an (H, W, 3) uint8 RGB array, got {type(image).__name__}")
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise InputError(f"image must be an (H, W, 3) uint8 RGB array, got {image.dtype} of shape {image.shape}")


def list_images(sources: Iterable[str | os.PathLike[str]]) -> list[Path]:
    """Turn files and folders into image files, each once, in the order given.

    A folder stands for the images directly in it (`IMAGE_SUFFIXES`, hidden files left out), sorted by
    name. Any other source is taken as a file as it is, so that a missing one is reported when it is read.

    Raises:
        InputError: there is no source, or a folder holds no image.
    """
    files: dict[Path, Path] = {}
    for source in map(Path, sources):
        found = [source]
        if source.is_dir():
            found = sorted(path for path in source.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)
            found = [path for path in found if not path.name.startswith(".") and path.is_file()]
            if not found:
                raise InputError(f"{source} holds no image: expected files ending in {', '.join(IMAGE_SUFFIXES)}")
        for path in found:
            files.setdefault(resolved(path), path)
    if not files:
        raise InputError("expected at least one image or folder of images, got none")
    return list(files.values())
