"""From the bytes of a request to images and boxes; everything a client can get wrong is found here."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping
from typing import NamedTuple, Self

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import ClientDisconnect, Request

from distilpose.errors import InputError
from distilpose.geometry import check_boxes_xyxy
from distilpose.serving.errors import HTTPError, busy, malformed, too_large, unusable
from distilpose.serving.options import SMALL_UPLOADS, UPLOADS_AT_ONCE, ServeOptions
from distilpose.types import FloatArray

RAW_TYPES = ("image/jpeg", "image/png", "image/webp", "application/octet-stream")
MULTIPART = "multipart/form-data"
_MAX_PARTS = 64
_MAX_TEXT = 2**18  # bytes of a field that is no image
_DISCARD_BYTES, _DISCARD_SECONDS = 2**26, 1.0
UPLOAD_GRACE = 3.0  # seconds in which nothing need come


class Part(NamedTuple):
    """A field of a form.

    Attributes:
        name: of the field.
        filename: if it is a file.
        content: its bytes.
    """

    name: str
    filename: str | None
    content: bytes


class Upload(NamedTuple):
    """One image as it came.

    Attributes:
        content: of the file.
        filename: the client's; empty when it gave none.
        boxes_xyxy: (N, 4) image pixels; None leaves finding people to the server.
        max_people: of detected people, so many of the best.
    """

    content: bytes
    filename: str
    boxes_xyxy: FloatArray | None
    max_people: int


class UploadLease:
    """Bytes that one request holds; given back when it ends.

    Args:
        upload_reader: that counts them.
    """

    def __init__(self, upload_reader: UploadReader) -> None:
        self._upload_reader, self._held = upload_reader, 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._upload_reader.held -= self._held

    def grow(self, size: int) -> None:
        """Hold ``size`` bytes, unless it is more already.

        Raises:
            HTTPError: 503, all requests together would hold too much.
        """
        more = max(0, size - self._held)
        if more > self._upload_reader.free(size):
            raise busy("the server holds as many uploads as it may: try again a little later")
        self._held += more
        self._upload_reader.held += more


class UploadReader:
    """Reads bodies within the limits of a server.

    All requests together hold as much as `UPLOADS_AT_ONCE` of the largest. The last of these is kept for small ones,
    so that a few large uploads that take their time do not stop everybody.

    Args:
        options: limits.

    Attributes:
        held: bytes of all requests in work, from the begin of their upload to their answer.
    """

    def __init__(self, options: ServeOptions) -> None:
        self._options = options
        self.held = 0

    def free(self, size: int) -> int:
        """Bytes that a request of ``size`` in all may still take."""
        largest = self._options.max_bytes
        small = size * SMALL_UPLOADS <= largest
        return (UPLOADS_AT_ONCE if small else UPLOADS_AT_ONCE - 1) * largest - self.held

    async def read(self, request: Request, lease: UploadLease) -> list[Part]:
        """The body as the fields of a form; a bare image is the one field ``image``, query parameters are others.

        Raises:
            HTTPError: 400, 408, 413, 415 or 503.
        """
        kind, parameters = parse_options_header(request.headers.get("content-type"))
        content_type = kind.decode("latin-1")
        if content_type != MULTIPART and content_type not in RAW_TYPES:
            expected = f"{MULTIPART}, {', '.join(RAW_TYPES)}"
            raise HTTPError(415, "media-type", f"expected Content-Type {expected}, got {content_type[:100]!r}")
        if content_type != MULTIPART:
            content = bytearray()
            await self._feed(request, content.extend, lease)
            query = [Part(name, None, value.encode()) for name, value in request.query_params.multi_items()]
            return [Part("image", "", bytes(content)), *query]
        if request.query_params:
            raise unusable("unknown-field", "expected no query parameters beside a form: make them fields of the form")
        form = _Form(parameters.get(b"boundary", b""))
        await self._feed(request, form.feed, lease)
        return form.finish()

    async def _feed(self, request: Request, take: Callable[[bytes], None], lease: UploadLease) -> None:
        """Hand on the body while it comes, within the limits on its size and time, and on what all hold together."""
        limit, stream = self._options.max_bytes, request.stream()
        message = f"expected at most {limit} bytes, got more: send a smaller image or fewer at once"
        length = request.headers.get("content-length", "")
        if length.isdecimal():
            if int(length) > limit:
                if "expect" not in request.headers:  # else the client waits to be asked
                    await _discard(stream)
                raise too_large(message)
            lease.grow(int(length))  # now, so that no two uploads wait for each other half way
        async for chunk, received in self._in_time(stream):
            if received > limit:
                await _discard(stream)
                raise too_large(message)
            lease.grow(received)
            take(chunk)

    async def _in_time(self, stream: AsyncIterator[bytes]) -> AsyncIterator[tuple[bytes, int]]:
        """Chunks, and the bytes up to each.

        Raises:
            HTTPError: 408, they come too slowly.
        """
        clock, options, received = asyncio.get_running_loop().time, self._options, 0
        start = clock()
        end = start + options.upload_seconds
        while True:
            due = min(end, start + UPLOAD_GRACE + received / options.upload_rate)
            try:
                async with asyncio.timeout_at(due):
                    chunk = await anext(stream, None)
            except TimeoutError:
                raise _too_slow(received, clock() - start, options) from None
            if chunk is None:
                return
            received += len(chunk)
            yield chunk, received


def _too_slow(received: int, seconds: float, options: ServeOptions) -> HTTPError:
    text = (
        f"expected the whole request within {options.upload_seconds:g} seconds and {options.upload_rate:g} bytes per "
        f"second, got {received} bytes in {seconds:.1f} seconds: send a smaller image"
    )
    return HTTPError(408, "upload-slow", text, {"Connection": "close"})


async def _discard(stream: AsyncIterator[bytes]) -> None:
    """Read on a little without keeping it: a client that is cut off while it writes never reads the answer."""
    read = 0
    try:
        async with asyncio.timeout(_DISCARD_SECONDS):
            async for chunk in stream:
                read += len(chunk)
                if read > _DISCARD_BYTES:
                    return
    except (TimeoutError, ClientDisconnect):
        return


class _Form:
    """A multipart form, part by part in memory; its sum is bounded by who feeds it."""

    def __init__(self, boundary: bytes) -> None:
        if not boundary:
            raise malformed(f"expected a boundary in Content-Type: {MULTIPART}; boundary=..., got none")
        self._parts: list[Part] = []
        self._header, self._value = bytearray(), bytearray()
        self._disposition: bytes | None = None
        self._name, self._filename = "", None  # type: str, str | None
        self._content = bytearray()
        self._ended = False
        try:
            self._parser = MultipartParser(
                boundary,
                {
                    "on_part_begin": self._begin,
                    "on_header_field": lambda data, start, end: self._header.extend(data[start:end]),
                    "on_header_value": lambda data, start, end: self._value.extend(data[start:end]),
                    "on_header_end": self._header_end,
                    "on_headers_finished": self._headers_finished,
                    "on_part_data": self._data,
                    "on_part_end": self._end_part,
                    "on_end": self._end,
                },
            )
        except FormParserError as error:
            raise malformed(f"expected a multipart form, got a broken boundary ({error})") from error

    def feed(self, chunk: bytes) -> None:
        try:
            self._parser.write(chunk)
        except FormParserError as error:
            raise malformed(f"expected a multipart form with that boundary, got something else ({error})") from error

    def finish(self) -> list[Part]:
        if not self._ended:
            raise malformed("expected a multipart form with a closing boundary, got one that is cut short")
        return self._parts

    def _begin(self) -> None:
        if len(self._parts) >= _MAX_PARTS:
            raise too_large(f"expected at most {_MAX_PARTS} fields in a form, got more")
        self._disposition, self._content = None, bytearray()

    def _header_end(self) -> None:
        if self._header.lower() == b"content-disposition":
            self._disposition = bytes(self._value)
        self._header, self._value = bytearray(), bytearray()

    def _headers_finished(self) -> None:
        _, options = parse_options_header(self._disposition)
        if b"name" not in options:
            raise malformed('expected Content-Disposition: form-data; name="..." in each part, got none')
        self._name = _text(options[b"name"], "a field's name")
        self._filename = _text(options[b"filename"], "a file's name") if b"filename" in options else None

    def _data(self, data: bytes, start: int, end: int) -> None:
        self._content += data[start:end]
        if self._filename is None and self._name not in ("image", "images") and len(self._content) > _MAX_TEXT:
            raise too_large(f"expected at most {_MAX_TEXT} bytes in the field {self._name[:100]!r}, got more")

    def _end_part(self) -> None:
        self._parts.append(Part(self._name, self._filename, bytes(self._content)))
        self._content = bytearray()

    def _end(self) -> None:
        self._ended = True


def _text(data: bytes, what: str) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise malformed(f"expected UTF-8 in {what}, got {data[:100]!r}") from error


def one_image(parts: list[Part], options: ServeOptions) -> Upload:
    """The request of ``/v1/predict``.

    Raises:
        HTTPError: 422: a field is missing, unknown, there twice, or has an unusable value.
    """
    fields = _unique(parts, ("image",))
    if "image" not in fields:
        raise unusable("missing-image", f"expected the image in the field image, got {_names(parts)}")
    image = fields["image"]
    boxes = None
    if "boxes" in fields:
        boxes = _boxes(_json(fields["boxes"], "boxes"), "boxes", options.max_people)
    return Upload(_filled(image), image.filename or "", boxes, _max_people(fields, options))


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
    boxes = _json(fields["boxes"], "boxes") if "boxes" in fields else [None] * len(images)
    if not isinstance(boxes, list) or len(boxes) != len(images):
        got = f"{len(boxes)} entries" if isinstance(boxes, list) else type(boxes).__name__
        text = f"boxes must be a list with an entry for each of the {len(images)} images, null or boxes, got {got}"
        raise unusable("boxes", text)
    max_people = _max_people(fields, options)
    found: list[Upload | HTTPError] = []
    for number, (image, value) in enumerate(zip(images, boxes, strict=True)):
        try:
            of_image = None if value is None else _boxes(value, f"boxes[{number}]", options.max_people)
            found.append(Upload(_filled(image), image.filename or "", of_image, max_people))
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


def _filled(image: Part) -> bytes:
    if not image.content:
        raise unusable("empty-image", "expected the bytes of an image, got none")
    return image.content


def _names(parts: list[Part]) -> str:
    return ", ".join(part.name[:100] for part in parts) or "no field"


def _refuse_constant(constant: str) -> None:
    raise ValueError(f"{constant} is no number of JSON")


_STRICT_JSON = json.JSONDecoder(parse_constant=_refuse_constant)


def _json(part: Part, name: str) -> object:
    try:
        value: object = _STRICT_JSON.decode(part.content.decode())
        return value
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError is a ValueError
        reason = str(error)[:200] or "nested too deep"
        raise unusable(name, f"{name} must be JSON in UTF-8, such as [[10, 20, 110, 220]], got: {reason}") from error


def _boxes(value: object, name: str, most: int) -> FloatArray:
    if not isinstance(value, list):
        raise unusable("boxes", f"{name} must be a list of [x1, y1, x2, y2], got {type(value).__name__}")
    if len(value) > most:
        raise unusable("too-many-people", f"{name} must hold at most {most} boxes, got {len(value)}")
    for row, box in enumerate(value):
        numbers = isinstance(box, list) and all(isinstance(x, int | float) and not isinstance(x, bool) for x in box)
        if not numbers or len(box) != 4:
            raise unusable("boxes", f"{name} must be a list of [x1, y1, x2, y2], got {repr(box)[:100]} (row {row})")
    try:
        return check_boxes_xyxy(value)
    except (InputError, OverflowError) as error:  # a whole number may be too large to become a float
        raise unusable("boxes", str(error).replace("boxes_xyxy", name, 1)) from error


def _max_people(fields: Mapping[str, Part], options: ServeOptions) -> int:
    if "max_people" not in fields:
        return options.max_people
    text = fields["max_people"].content
    if not (text.isdigit() and len(text) <= 9 and 1 <= int(text) <= options.max_people):
        got = repr(text[:100].decode("utf-8", "replace"))
        raise unusable("max-people", f"max_people must be a whole number from 1 to {options.max_people}, got {got}")
    return int(text)
