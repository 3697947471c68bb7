"""Images out of uploads: the header first, the pixels only of what is small enough."""

from __future__ import annotations

from io import BytesIO

from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile

from distilpose.data.images import NamedBytes, read_image
from distilpose.errors import InputError
from distilpose.serving.errors import HTTPError, too_large, unusable
from distilpose.types import ImageArray

# Those of `read_image` but AVIF, whose container may name another size than the image in it has.
FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF")
_TILE_WIDTH, _TILE_LENGTH = 322, 323  # tags of a TIFF, whose tiles are decoded whole, however small the image is


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
    try:
        with Image.open(BytesIO(content), formats=FORMATS) as image:
            sizes = {"": image.size}
            if isinstance(image, TiffImageFile):
                tile = (int(image.tag_v2.get(tag, 0)) for tag in (_TILE_WIDTH, _TILE_LENGTH))
                sizes["tiles of "] = (next(tile), next(tile))
    except Image.DecompressionBombError as error:
        raise _too_many_pixels(str(error), max_pixels) from error
    except Exception as error:  # decoders answer broken bytes with exceptions of a dozen types
        expected = f"expected an image ({', '.join(FORMATS)})"
        raise unusable("image", f"{expected}, got {len(content)} bytes that are none or are broken") from error
    for what, (width, height) in sizes.items():
        if width * height > max_pixels:
            raise _too_many_pixels(f"{what}{width} x {height}", max_pixels)
    try:
        return read_image(NamedBytes(content, "the image"))
    except InputError as error:
        raise unusable("image", f"{str(error)[:300]}: send a whole JPEG, PNG or WebP image") from error
    except MemoryError as error:
        raise too_large("the image needs more memory than there is: send a smaller one", "too-many-pixels") from error


def _too_many_pixels(got: str, max_pixels: int) -> HTTPError:
    return too_large(f"expected at most {max_pixels} pixels, got {got}: send a smaller image", "too-many-pixels")
