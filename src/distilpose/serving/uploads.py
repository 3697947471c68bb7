"""Request bodies read within limits, their boxes and parameters checked, their images decoded."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from io import BytesIO
from typing import Annotated, Any, NamedTuple

from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile
from pydantic import Field, TypeAdapter, ValidationError
from pydantic_core import from_json
from python_multipart.multipart import parse_options_header
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from distilpose.data.images import NamedBytes, read_image
from distilpose.errors import InputError
from distilpose.geometry import check_boxes_xyxy
from distilpose.serving.errors import HTTPError, about_to_end, busy, malformed, too_large, unusable
from distilpose.serving.options import UPLOADS_AT_ONCE, ServeOptions
from distilpose.types import FloatArray, ImageArray

RAW_TYPES = ("image/jpeg", "image/png", "image/webp", "application/octet-stream")
MULTIPART = "multipart/form-data"
_MAX_PARTS = 64
_MAX_TEXT = 2**18  # bytes of a field that is no image
# Those of `read_image` but AVIF, whose container may name another size than the image in it has.
FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF")
_TILE_WIDTH, _TILE_LENGTH = 322, 323  # tags of a TIFF, whose tiles are decoded whole, however small the image is
_BOXES = TypeAdapter(list[Annotated[list[float], Field(min_length=4, max_length=4)]])


class Part(NamedTuple):
    """A field of a form; without a filename it is a text."""

    name: str
    filename: str | None
    content: bytes


class Upload(NamedTuple):
    """One image as it came."""

    content: bytes  # of the file
    filename: str  # the client's; empty when it gave none
    boxes_xyxy: FloatArray | None  # (N, 4) image pixels; None leaves finding people to the server
    max_people: int  # of detected people, so many of the best


class UploadReader:
    """Reads bodies within the limits of a server: each of them, and all together."""

    def __init__(self, options: ServeOptions) -> None:
        self._limit, self._seconds = options.max_bytes, options.upload_seconds
        self._receiving = set[asyncio.Timeout]()
        self._given_up = False
        self.held = 0  # bytes of all requests being handled, from the start of their upload to their answer

    def give_up(self) -> None:
        """End the uploads that are still on their way, with 503."""
        self._given_up = True
        for limit in self._receiving:
            if not limit.expired():
                limit.reschedule(0)

    @asynccontextmanager
    async def body(self, request: Request) -> AsyncGenerator[bytes]:
        """Read the body, whose bytes count as held until this context ends.

        Raises:
            HTTPError: 408, 413 or 503.
        """
        held, content, limit = 0, bytearray(), asyncio.timeout(self._seconds)

        def hold(size: int) -> None:
            nonlocal held
            if size > self._limit:
                raise too_large(
                    f"expected at most {self._limit} bytes, got more: send a smaller image or fewer at once"
                )
            more = max(0, size - held)
            if self.held + more > UPLOADS_AT_ONCE * self._limit:
                raise busy("the server holds as many uploads as it may: try again a little later")
            held, self.held = held + more, self.held + more

        self._receiving.add(limit)
        try:
            async with limit:
                length = request.headers.get("content-length", "")
                if length.isdecimal():
                    hold(int(length))  # now, so that no two uploads wait for each other half way
                async for chunk in request.stream():
                    hold(len(content) + len(chunk))
                    content += chunk
            self._receiving.discard(limit)
            yield bytes(content)
        except TimeoutError:
            if not limit.expired():
                raise
            if self._given_up:
                raise about_to_end() from None
            text = f"expected the whole request within {self._seconds:g} seconds: send a smaller image"
            raise HTTPError(408, "upload-slow", text, {"Connection": "close"}) from None
        finally:
            self._receiving.discard(limit)
            self.held -= held


def check_content_type(request: Request) -> bytes | None:
    """The boundary of a form, or None for a bare image.

    Raises:
        HTTPError: 400, 415 or 422.
    """
    kind, parameters = parse_options_header(request.headers.get("content-type"))
    content_type = kind.decode("latin-1")
    if content_type in RAW_TYPES:
        return None
    if content_type != MULTIPART:
        expected = f"{MULTIPART}, {', '.join(RAW_TYPES)}"
        raise HTTPError(415, "media-type", f"expected Content-Type {expected}, got {content_type[:100]!r}")
    if request.query_params:
        raise unusable("unknown-field", "expected no query parameters beside a form: make them fields of the form")
    boundary = parameters.get(b"boundary", b"")
    if not boundary:
        raise malformed(f"expected a boundary in Content-Type: {MULTIPART}; boundary=..., got none")
    return boundary


class _FormParser(MultiPartParser):
    spool_max_size = 2**40  # never on the disk: the body is in memory already, and bounded


async def parse_body(request: Request, content: bytes, boundary: bytes | None) -> list[Part]:
    """The fields of a form; a bare image is the one field ``image``, query parameters are others.

    Raises:
        HTTPError: 400 or 413.
    """
    if boundary is None:
        query = [Part(name, None, value.encode()) for name, value in request.query_params.multi_items()]
        return [Part("image", "", content), *query]
    # The parser takes a form that is cut short for a whole one.
    if not content.rstrip(b"\r\n").endswith(b"--" + boundary + b"--"):
        raise malformed("expected a multipart form with a closing boundary, got one that is cut short")

    async def stream() -> AsyncGenerator[bytes]:
        yield content

    limits = {"max_files": _MAX_PARTS, "max_fields": _MAX_PARTS, "max_part_size": _MAX_TEXT}
    try:
        form = await _FormParser(request.headers, stream(), **limits).parse()
        return [
            Part(name, None, value.encode())
            if isinstance(value, str)
            else Part(name, value.filename, value.file.read())
            for name, value in form.multi_items()
        ]
    except MultiPartException as error:
        if "maximum" in error.message.lower():
            raise too_large(error.message) from error
        raise malformed(f"expected a multipart form, got something else ({error.message})") from error
    except (UnicodeError, LookupError) as error:  # of the charset in Content-Type
        raise malformed(f"expected a multipart form in UTF-8, got something else ({error})") from error


def one_image(parts: list[Part], options: ServeOptions) -> Upload:
    """The request of ``/v1/predict``.

    Raises:
        HTTPError: 422: a field is missing, unknown, there twice, or has an unusable value.
    """
    fields = _unique(parts, ("image",))
    if "image" not in fields:
        raise unusable("missing-image", f"expected the image in the field image, got {_names(parts)}")
    boxes = None
    if "boxes" in fields:
        boxes = _boxes(_json(fields["boxes"]), "boxes", options.max_people)
    return _upload(fields["image"], boxes, _max_people(fields, options))


def several_images(parts: list[Part], options: ServeOptions, most: int) -> list[Upload | HTTPError]:
    """The request of ``/v1/predict/batch``: images, or why one cannot be used.

    Raises:
        HTTPError: 413 or 422: the request as a whole cannot be used.
    """
    images = [part for part in parts if part.name == "images"]
    fields = _unique([part for part in parts if part.name != "images"], ("images",))
    if not images:
        raise unusable("missing-image", f"expected images in fields named images, got {_names(parts)}")
    if len(images) > most:
        raise too_large(f"expected at most {most} images in a request, got {len(images)}", "too-many-images")
    boxes = _json(fields["boxes"]) if "boxes" in fields else [None] * len(images)
    if not isinstance(boxes, list) or len(boxes) != len(images):
        got = f"{len(boxes)} entries" if isinstance(boxes, list) else type(boxes).__name__
        text = f"boxes must be a list with an entry for each of the {len(images)} images, null or boxes, got {got}"
        raise unusable("boxes", text)
    max_people = _max_people(fields, options)
    found: list[Upload | HTTPError] = []
    for number, (image, value) in enumerate(zip(images, boxes, strict=True)):
        try:
            of_image = None if value is None else _boxes(value, f"boxes[{number}]", options.max_people)
            found.append(_upload(image, of_image, max_people))
        except HTTPError as http_error:
            found.append(http_error)
    return found


def _unique(parts: list[Part], files: tuple[str, ...]) -> dict[str, Part]:
    known = (*files, "boxes", "max_people")
    fields: dict[str, Part] = {}
    for part in parts:
        if part.name not in known:
            text = f"expected fields or parameters named {', '.join(known)}, got {part.name[:100]!r}"
            raise unusable("unknown-field", text)
        if part.name in fields:
            raise unusable("repeated-field", f"expected {part.name} once, got it twice")
        fields[part.name] = part
    return fields


def _upload(image: Part, boxes: FloatArray | None, max_people: int) -> Upload:
    if image.filename is None:
        raise unusable("image", f"expected {image.name} as a file of the form, with a filename, got a text field")
    if not image.content:
        raise unusable("empty-image", "expected the bytes of an image, got none")
    return Upload(image.content, image.filename, boxes, max_people)


def _names(parts: list[Part]) -> str:
    return ", ".join(part.name[:100] for part in parts) or "no field"


def _json(part: Part) -> Any:
    try:
        return from_json(part.content)
    except ValueError as error:
        text = f"{part.name} must be JSON in UTF-8, such as [[10, 20, 110, 220]], got: {str(error)[:200]}"
        raise unusable(part.name, text) from error


def _boxes(value: object, name: str, most: int) -> FloatArray:
    try:
        boxes = check_boxes_xyxy(_BOXES.validate_python(value, strict=True))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        got = f"{repr(first['input'])[:100]} at {list(first['loc'])} ({first['msg']})"
        raise unusable("boxes", f"{name} must be a list of [x1, y1, x2, y2], got {got}") from error
    except (InputError, OverflowError) as error:  # a whole number may be too large to become a float
        raise unusable("boxes", str(error).replace("boxes_xyxy", name, 1)) from error
    if len(boxes) > most:
        raise unusable("too-many-people", f"{name} must hold at most {most} boxes, got {len(boxes)}")
    return boxes


def _max_people(fields: Mapping[str, Part], options: ServeOptions) -> int:
    if "max_people" not in fields:
        return options.max_people
    text = fields["max_people"].content
    if not (text.isdigit() and len(text) <= 9 and 1 <= int(text) <= options.max_people):
        got = repr(text[:100].decode("utf-8", "replace"))
        raise unusable("max-people", f"max_people must be a whole number from 1 to {options.max_people}, got {got}")
    return int(text)


def decode_image(content: bytes, max_pixels: int) -> ImageArray:
    """Decode an uploaded image, (H, W, 3) uint8 RGB, as `read_image` does a file.

    More pixels than ``max_pixels`` are refused before any is decoded.

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
