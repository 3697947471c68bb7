"""About two hundred requests that cannot be answered: each gets a 4xx that says why, and the server lives on."""

import json
import socket
import struct
import zlib
from collections.abc import Callable
from functools import cache
from io import BytesIO
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image, ImageFile, features
from serving_client import Reply, ask, encoded, form, number_of, plain, send_image

GOOD = encoded(plain(5))
MULTIPART = {"Content-Type": "multipart/form-data; boundary=b0undary"}


class Bad(NamedTuple):
    """A request, and the answers that fit it."""

    name: str
    body: bytes
    headers: dict[str, str]
    statuses: tuple[int, ...] = (422,)
    path: str = "/v1/predict"
    method: str = "POST"


def png(width: int, height: int, pixels: bytes = b"", depth: int = 8, color: int = 2) -> bytes:
    """A PNG that says it is so large."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(pixels)) + chunk(b"IEND", b"")


def text_bomb() -> bytes:
    """A PNG whose comment inflates a thousandfold."""
    good = encoded(plain(1))
    data = b"c\x00\x00" + zlib.compress(bytes(100_000_000), 9)
    chunk = struct.pack(">I", len(data)) + b"zTXt" + data + struct.pack(">I", zlib.crc32(b"zTXt" + data))
    return good[:33] + chunk + good[33:]


def tiled_tiff(tile: int) -> bytes:
    """A TIFF of 10 x 10 that has one tile of that width and height."""
    tags = {256: 10, 257: 10, 258: 8, 259: 8, 262: 1, 277: 1, 322: tile, 323: tile, 324: 200, 325: 99}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    head = b"II*\x00" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4)
    return head.ljust(200, b"\x00") + zlib.compress(bytes(90_000), 9)


def of_image(name: str, content: bytes, statuses: tuple[int, ...] = (422,)) -> list[Bad]:
    """The same bad image in a form and bare."""
    body, headers = form(("image", content, "x"))
    raw = {"Content-Type": "image/png"}
    return [Bad(f"{name}, form", body, headers, statuses), Bad(f"{name}, bare", content, raw, statuses)]


def bad_images() -> list[Bad]:
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (60, 50, 3), dtype=np.uint8)
    cases: list[Bad] = []
    for kind in ("JPEG", "PNG", "WEBP", "TIFF", "GIF", "BMP"):
        file = encoded(noise, kind)
        for share in (0.02, 0.3, 0.7):
            cases += of_image(f"{kind} cut at {share}", file[: int(len(file) * share)])
    for number in range(6):
        cases += of_image(f"random bytes {number}", rng.bytes(10**number))
    for name, content in {
        "text": b"hello", "html": b"<html></html>", "zip": b"PK\x03\x04" + bytes(50), "gzip": zlib.compress(b"x" * 999),
        "pdf": b"%PDF-1.7\n", "svg": b"<svg xmlns='http://www.w3.org/2000/svg'/>", "mp4": b"\x00\x00\x00\x18ftypmp42",
        "postscript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "ppm": b"P6 1 1 255\n\x00\x00\x00",
        "png signature": b"\x89PNG\r\n\x1a\n", "jpeg signature": b"\xff\xd8\xff\xe0", "null bytes": bytes(1000),
        "png without pixels": png(10, 10), "png of no size": png(0, 0), "odd color": png(4, 4, bytes(99), 8, 5),
    }.items():  # fmt: skip
        cases += of_image(name, content)
    floats = BytesIO()
    Image.fromarray(np.ones((9, 9), np.float32)).save(floats, "TIFF")
    cases += of_image("32-bit TIFF", floats.getvalue())
    for width, height in ((50_000, 50_000), (2**31 - 1, 1), (1, 2**31 - 1), (2**31 - 1, 2**31 - 1), (12_000, 3_000)):
        cases += of_image(f"says {width} x {height}", png(width, height), (413, 422))
    cases += of_image("6,000 x 6,000 of nothing", png(6000, 6000, bytes(6000 * (6000 * 3 + 1))), (413,))
    gif = encoded(plain(1), "GIF")
    cases += of_image("GIF that says 65,535 x 65,535", gif[:6] + b"\xff\xff\xff\xff" + gif[10:], (413,))
    bmp = encoded(plain(1), "BMP")
    cases += of_image("BMP that says 40,000 x 40,000", bmp[:18] + struct.pack("<ii", 40000, 40000) + bmp[26:], (413,))
    jpeg = bytearray(encoded(plain(1), "JPEG"))
    at = jpeg.index(b"\xff\xc0") + 5
    jpeg[at : at + 4] = b"\xff\xff\xff\xff"
    cases += of_image("JPEG that says 65,535 x 65,535", bytes(jpeg), (413,))
    cases += of_image("PNG with a comment of 100 MB", text_bomb(), (422,))
    cases += of_image("TIFF of 10 x 10 in tiles of 16,384 x 16,384", tiled_tiff(16_384), (413,))
    if features.check("avif"):  # its container may name another size
        cases += of_image("AVIF", encoded(noise, "AVIF"), (422,))
    cases += of_image("21 MB", bytes(21_000_000), (413,))
    return cases


def bad_fields() -> list[Bad]:
    cases = []
    texts = [
        "", "x", "{}", "null", "5", '"a"', "[1,2,3,4]", "[[1,2,3]]", "[[1,2,3,4,5]]", "[[]]", "[null]",
        "[[1,2,3,null]]",
        '[["1","2","3","4"]]', "[[1,2,3,true]]", "[[NaN,0,1,1]]", "[[0,0,Infinity,1]]", "[[-Infinity,0,1,1]]",
        "[[0,0,1e400,1]]", "[[0,0,1e300,1e300]]", f"[[0,0,{'9' * 400},1]]", f"[[0,0,{'9' * 5000},1]]", "[[5,5,5,9]]",
        "[[9,9,1,1]]", "[[0,0,2e9,1]]", "[[0,0,1,1],[0,0,1]]", "[[0,0,1,1]", "[[0 0 1 1]]", "[" * 50_000,
        "[" * 900 + "]" * 900, json.dumps([[0, 0, 1, 1]] * 51), json.dumps([[0, 0, 1, 1]] * 5000), "[[[0,0,1,1]]]",
        '[{"x1":0}]', "[[0x1,0,1,1]]", "\ufeff[[0,0,1,1]]", "[[0,0,1,1]] x",
    ]  # fmt: skip
    for text in texts:
        body, headers = form(("image", GOOD, "x.png"), ("boxes", text))
        cases.append(Bad(f"boxes {text[:30]!r}", body, headers))
    for text in ("0", "-1", "51", "1.5", "x", "", "١", "9" * 100, "1e1", " 1"):
        body, headers = form(("image", GOOD, "x.png"), ("max_people", text))
        cases.append(Bad(f"max_people {text[:10]!r}", body, headers))
    forms = {
        "no field": (),
        "no image": (("boxes", "[]"),),
        "image of another name": (("file", GOOD, "x.png"),),
        "unknown field": (("image", GOOD, "x.png"), ("box", "[]")),
        "two images": (("image", GOOD, "x.png"), ("image", GOOD, "y.png")),
        "two boxes": (("image", GOOD, "x.png"), ("boxes", "[]"), ("boxes", "[]")),
        "empty image": (("image", b"", "x.png"),),
        "boxes of bytes": (("image", GOOD, "x.png"), ("boxes", b"\xff\xfe[[")),
    }
    for name, fields in forms.items():
        cases.append(Bad(name, *form(*fields), (400, 422)))
    for charset in ("unicode_escape", "undefined", "nonsense"):
        body, headers = form(("image", GOOD, "x.png"), ("boxes", "\\ud800"))
        kind = f"{headers['Content-Type']}; charset={charset}"
        cases.append(Bad(f"charset {charset}", body, {**headers, "Content-Type": kind}, (400, 422)))
    long = form(("image", GOOD, "x.png"), ("boxes", " " * 300_000))
    cases.append(Bad("boxes of 300 kB", *long, (413,)))
    cases.append(Bad("100 fields", *form(*[(f"f{number}", "1") for number in range(100)]), (413, 422)))
    for query in ("boxes=[[1,2]]", "max_people=0", "box=[]", "boxes=[]&boxes=[]", "image=x", "boxes=%ff", "=1", "&&x"):
        cases.append(Bad(f"query {query}", GOOD, {"Content-Type": "image/png"}, path=f"/v1/predict?{query}"))
    cases.append(Bad("query beside a form", *form(("image", GOOD, "x")), path="/v1/predict?boxes=[]"))
    batches = {
        "no images": (("boxes", "[]"),),
        "boxes for fewer": (("images", GOOD, "a"), ("images", GOOD, "b"), ("boxes", "[null]")),
        "boxes of one": (("images", GOOD, "a"), ("boxes", '{"a": 1}')),
        "image, not images": (("image", GOOD, "a"),),
        "broken boxes": (("images", GOOD, "a"), ("boxes", "[[")),
    }
    for name, fields in batches.items():
        cases.append(Bad(f"batch: {name}", *form(*fields), path="/v1/predict/batch"))
    many = form(*[("images", GOOD, str(number)) for number in range(17)])
    cases.append(Bad("batch: 17 images", *many, (413,), path="/v1/predict/batch"))
    return cases


def bad_requests() -> list[Bad]:
    good, _ = form(("image", GOOD, "x.png"))
    cases = [
        Bad("cut short", good[:-20], MULTIPART, (400,)),
        Bad("cut in a header", good[:40], MULTIPART, (400,)),
        Bad("nothing", b"", MULTIPART, (400,)),
        Bad("another boundary", good, {"Content-Type": "multipart/form-data; boundary=other"}, (400,)),
        Bad("no boundary", good, {"Content-Type": "multipart/form-data"}, (400,)),
        Bad("empty boundary", good, {"Content-Type": "multipart/form-data; boundary="}, (400,)),
        Bad("endless boundary", good, {"Content-Type": f"multipart/form-data; boundary={'x' * 5000}"}, (400,)),
        Bad("no name", good.replace(b'name="image"; ', b""), MULTIPART, (400,)),
        Bad("no disposition", good.replace(b"Content-Disposition", b"X-Nothing"), MULTIPART, (400,)),
        Bad(
            "endless header",
            good.replace(b"\r\n\r\n", b"\r\nX-A: " + b"y" * 100_000 + b"\r\n\r\n", 1),
            MULTIPART,
            (400,),
        ),
        Bad("a thousand headers", good.replace(b"\r\n\r\n", b"\r\nX-A: y" * 1000 + b"\r\n\r\n", 1), MULTIPART, (400,)),
        Bad("odd header", good.replace(b"\r\n\r\n", b"\r\n\x00\x01: y\r\n\r\n", 1), MULTIPART, (400,)),
        Bad("json", b'{"image": "x"}', {"Content-Type": "application/json"}, (415,)),
        Bad("form of words", b"image=x", {"Content-Type": "application/x-www-form-urlencoded"}, (415,)),
        Bad("svg", b"<svg/>", {"Content-Type": "image/svg+xml"}, (415,)),
        Bad("no type", GOOD, {}, (415,)),
        Bad("odd type", GOOD, {"Content-Type": "\xff;;;=="}, (415,)),
        Bad("bare and empty", b"", {"Content-Type": "image/png"}),
        Bad("bare batch", GOOD, {"Content-Type": "image/png"}, (422,), "/v1/predict/batch"),
    ]
    for method in ("GET", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS"):
        cases.append(Bad(f"method {method}", b"", {}, (405,), method=method))
    for path in (
        "/v1/predict/",
        "/v1/Predict",
        "/v1",
        "/v2/predict",
        "/v1/predict/batch/x",
        "/%ff%fe",
        "/..%2f..%2fetc",
    ):
        cases.append(Bad(f"path {path}", good, MULTIPART, (404, 405, 307), path))
    for path in ("/healthz", "/readyz", "/metrics", "/v1/model", "/openapi.json"):
        cases.append(Bad(f"POST {path}", b"", {}, (405,), path))
    return cases


GROUPS: dict[str, Callable[[], list[Bad]]] = {
    "images": cache(bad_images),
    "fields": cache(bad_fields),
    "requests": cache(bad_requests),
}


@pytest.mark.parametrize("group", GROUPS)
def test_each_is_told_what_is_wrong_with_it(address: str, group: str) -> None:
    surprises = []
    for case in GROUPS[group]():
        reply = ask(address, case.path, case.body, case.headers, case.method)
        if reply.status not in case.statuses or not _explains_itself(case, reply):
            surprises.append((case.name, reply.status, reply.body[:200]))
    assert not surprises
    assert number_of(send_image(address, 4321).json["people"][0]) == 4321


def _explains_itself(case: Bad, reply: Reply) -> bool:
    if case.method == "HEAD" or reply.status == 307:
        return True
    fault = reply.json
    return set(fault) == {"error", "message", "request_id"} and 20 < len(fault["message"]) < 1000


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x00" * 100,
        b"GET\r\n\r\n",
        b"POST /v1/predict HTTP/9.9\r\n\r\n",
        b"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: -5\r\n\r\n",
        b"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: five\r\n\r\n",
        b"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nZZZ\r\n",
        b"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\nhello",
        b"GET / HTTP/1.1\r\n" + b"X: " + b"y" * 200_000 + b"\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # TLS
    ],
)
def test_what_is_no_http_is_refused_or_cut_off(address: str, garbage: bytes) -> None:
    host, port = address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        connection.settimeout(20)
        try:
            connection.sendall(garbage)
            connection.shutdown(socket.SHUT_WR)
            answer = connection.recv(1000)
        except TimeoutError:
            raise
        except OSError:  # reset, or not connected any more: cut off
            answer = b""
    assert not answer or answer.startswith(b"HTTP/1.1 4"), answer
    assert send_image(address, 1).status == 200


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("size", [12_000, 50_000])
def test_a_bomb_is_refused_before_it_is_decoded(address: str, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow would decode 12,000 x 12,000 pixels without a word, and refuses 50,000 x 50,000 by itself."""
    decoded = []
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda self: decoded.append(self.size))
    body, headers = form(("image", png(size, size, bytes(10**7), depth=1, color=0), "x.png"))
    reply = ask(address, "/v1/predict", body, headers)
    assert (reply.status, reply.json["error"]) == (413, "too-many-pixels")
    assert not decoded
    send_image(address, 1)
    assert decoded  # the pixels of a good image are
