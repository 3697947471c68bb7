"""Too much, too late, too slow: refused at once, dropped, cut off, and the others notice nothing."""

import asyncio
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from http.client import HTTPResponse
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from PIL import Image
from serving_client import BOX, Telltale, ask, encoded, form, metric, number_of, plain, send, send_image, wait_for

from distilpose.errors import ConfigError
from distilpose.formats.boxes import PersonBoxes
from distilpose.inference.predictor import PosePredictor
from distilpose.serving.options import PILLOW_MAX_PIXELS, ServeOptions, check_api_key
from distilpose.serving.service import Batcher

RAW_HEAD = b"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\n"


def connect(address: str) -> socket.socket:
    host, port = address.removeprefix("http://").split(":")
    connection = socket.create_connection((host, int(port)), timeout=30)
    connection.settimeout(30)
    return connection


def read(connection: socket.socket) -> tuple[int, bytes, str]:
    """Status, body and Connection header of an answer."""
    response = HTTPResponse(connection)
    response.begin()
    return response.status, response.read(), response.getheader("connection", "")


def raw_request(number: int) -> bytes:
    body, headers = form(("image", encoded(plain(number)), "x.png"))
    lines = ["POST /v1/predict HTTP/1.1", "Host: localhost", *(f"{k}: {v}" for k, v in headers.items())]
    return "\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""]).encode() + body


def ending(connection: socket.socket) -> bytes:
    """What comes until the server hangs up."""
    rest = b""
    with suppress(ConnectionResetError):
        while piece := connection.recv(10_000):
            rest += piece
    return rest


def test_beyond_the_queue_503_at_once_and_recovery(start: Any) -> None:
    backend = Telltale()
    server = start(backend, queue=6, deadline=60)
    backend.gate.clear()
    with ThreadPoolExecutor(40) as pool:
        accepted = [pool.submit(send_image, server.address, number) for number in range(6)]
        wait_for(lambda: server.service.accepted == 6)
        refused = list(pool.map(lambda number: send_image(server.address, number), range(200)))
        assert {reply.status for reply in refused} == {503}  # while the model stands still: nobody waited
        assert all(int(reply.headers["retry-after"]) >= 1 for reply in refused)
        assert {reply.json["error"] for reply in refused} == {"queue-full"}
        assert metric(server.address, "distilpose_queue_length") == 6
        assert metric(server.address, "distilpose_rejected_total") == 200
        assert ask(server.address, "/readyz").status == 200
        backend.gate.set()
        replies = [future.result() for future in accepted]
    assert [number_of(reply.json["people"][0]) for reply in replies] == list(range(6))
    assert send_image(server.address, 9).status == 200
    assert server.service.accepted == 0


def test_several_images_take_several_places(start: Any) -> None:
    server = start(queue=2)
    images = [("images", encoded(plain(number)), "x") for number in range(3)]
    assert send(server.address, *images, path="/v1/predict/batch").status == 503
    assert send(server.address, *images[:2], path="/v1/predict/batch").status == 200


def test_too_late_is_504_and_its_work_is_dropped(start: Any) -> None:
    backend = Telltale()
    server = start(backend, deadline=0.3, batch_size=2)
    backend.batches.clear()
    backend.gate.clear()
    with ThreadPoolExecutor(20) as pool:
        replies = list(pool.map(lambda number: send_image(server.address, number), range(20)))
    assert {(reply.status, reply.json["error"]) for reply in replies} == {(504, "deadline")}
    assert server.service.accepted == 0
    several = send(server.address, ("images", encoded(plain(1)), "x"), path="/v1/predict/batch")
    assert [entry["status"] for entry in several.json["results"]] == [504]
    backend.gate.set()
    wait_for(lambda: send_image(server.address, 7).status == 200)
    assert sum(backend.batches) < 20  # those in the model and right behind it at most


def test_a_slow_detector_is_late_as_well(start: Any) -> None:
    release = threading.Event()

    class Stuck:
        def __call__(self, images: Any) -> list[PersonBoxes]:
            release.wait(30)
            return [PersonBoxes(np.array(BOX, dtype=float), np.ones(1)) for _ in images]

    late = start(detector=Stuck(), deadline=0.3)
    assert send_image(late.address, 1).status == 504
    server = start(detector=Stuck(), deadline=60)
    with ThreadPoolExecutor(12) as pool:
        waiting = [pool.submit(send_image, server.address, number) for number in range(12)]
        wait_for(lambda: server.service.accepted == 12)
        assert send_image(server.address, 2, BOX).status == 200  # boxes need no detector, and do not wait for it
        assert not any(future.done() for future in waiting)
        release.set()
        assert {future.result().status for future in waiting} == {200}


@pytest.mark.slow
def test_memory_is_bounded_under_overload(start: Any) -> None:
    """Each image has 12 MB when decoded: a queue of 48 would need 600 MB at once."""
    backend = Telltale(seconds=0.01)
    server = start(backend, queue=48, deadline=60)
    big = encoded(plain(3, size_hw=(2000, 2000)))
    body, headers = form(("image", big, "x.png"), ("boxes", str(BOX * 16)))
    ask(server.address, "/v1/predict", body, headers)
    before = _resident_megabytes()
    most = 0.0
    with ThreadPoolExecutor(56) as pool:
        futures = [pool.submit(ask, server.address, "/v1/predict", body, headers) for _ in range(56)]
        while not all(future.done() for future in futures):
            most = max(most, _resident_megabytes())
            time.sleep(0.02)
    assert {future.result().status for future in futures} <= {200, 503}
    assert most - before < 250


def _resident_megabytes() -> float:
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * 4096 / 1e6
    except FileNotFoundError:
        pytest.skip("only Linux tells the memory of a process in /proc")


def test_a_slow_upload_is_given_up_and_the_rest_of_an_early_answer_is_read(start: Any) -> None:
    server = start(upload_seconds=0.5)
    with connect(server.address) as stalled:
        stalled.sendall(RAW_HEAD + b"Content-Length: 30000\r\n\r\nx")
        status, body, closing = read(stalled)
        assert (status, closing) == (408, "close")
        assert b"upload-slow" in body
    wait_for(lambda: server.service.upload_reader.held == 0)
    with connect(server.address) as early:  # refused by its type, long before its end
        early.sendall(RAW_HEAD.replace(b"image/png", b"text/html") + b"Content-Length: 9000000\r\n\r\n")
        early.sendall(b"x" * 9_000_000)
        assert read(early)[::2] == (415, "")
        early.sendall(raw_request(5))
        assert read(early)[0] == 200


def test_cut_connections_leave_nothing_behind(start: Any) -> None:
    backend = Telltale()
    server = start(backend, deadline=60)
    backend.gate.clear()
    for cut in range(0, 400, 20):
        with connect(server.address) as connection:
            connection.sendall(raw_request(1)[: len(raw_request(1)) - cut])
    whole = [connect(server.address) for _ in range(30)]
    for connection in whole:
        connection.sendall(raw_request(2))
    wait_for(lambda: server.service.accepted >= 30)
    for connection in whole:
        connection.close()
    wait_for(lambda: server.service.accepted == server.service.in_flight == 0)  # while the model still stands
    backend.gate.set()
    assert number_of(send_image(server.address, 8).json["people"][0]) == 8


def test_a_connection_serves_many_requests_also_after_a_refusal(start: Any) -> None:
    address = start(max_megabytes=0.01).address
    with connect(address) as connection:
        for body, status in ((b"x", 422), (b"y" * 9000, 422), (b"z", 422)):
            connection.sendall(RAW_HEAD + f"Content-Length: {len(body)}\r\n\r\n".encode() + body)
            assert read(connection)[0] == status
    with connect(address) as connection:  # too much: the answer comes, then the end
        connection.sendall(RAW_HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
        for _ in range(20):
            connection.sendall(b"400\r\n" + b"w" * 1024 + b"\r\n")
        status, _, ending = read(connection)
        assert (status, ending) == (413, "close")


def test_uploads_together_are_bounded(start: Any) -> None:
    server = start(max_megabytes=0.05)
    head = RAW_HEAD + b"Content-Length: 49000\r\n\r\n"
    waiting = [connect(server.address) for _ in range(8)]
    for connection in waiting:
        connection.sendall(head + b"x")
    wait_for(lambda: server.service.upload_reader.held == 8 * 49_000)  # whole, from the start
    reply = ask(server.address, "/v1/predict", b"x" * 49_000, {"Content-Type": "image/png"})
    assert (reply.status, reply.json["error"]) == (503, "queue-full")
    with connect(server.address) as chunked:
        chunked.sendall(RAW_HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
        with suppress(ConnectionError):
            for _ in range(20):
                chunked.sendall(b"400\r\n" + b"w" * 1024 + b"\r\n")
        assert read(chunked)[0] == 503
    assert send_image(server.address, 1).status == 200  # there is room for small ones
    for connection in waiting:
        connection.close()
    wait_for(lambda: server.service.upload_reader.held == 0)
    assert ask(server.address, "/v1/predict", b"x" * 49_000, {"Content-Type": "image/png"}).status == 422


def test_bytes_that_look_like_scans_are_none(address: str) -> None:
    file = BytesIO()
    Image.fromarray(plain(9)).save(file, "JPEG", progressive=True, comment=b"\xff\xda" * 5000)
    for content in (file.getvalue(), file.getvalue() + b"\xff\xda\x00\x02" * 5000):
        assert send(address, ("image", content, "x.jpg")).status == 200


def test_crops_wait_no_longer_than_they_may_also_behind_a_run() -> None:
    """The time of a crop that came during a run counts from when it came, not from the end of the run."""

    async def check() -> None:
        loop = asyncio.get_running_loop()
        running, release = threading.Event(), threading.Event()
        predictor = PosePredictor(Telltale(), batch_size=4)

        def run(images: Any) -> Any:
            running.set()
            release.wait(20)
            return predictor.run(images)

        batcher = Batcher(run, batch_size=4, max_wait=5, more_to_come=lambda: more, on_batch=lambda *_: None)
        images = predictor.prepare(plain(1), BOX).images
        more = False
        first = asyncio.create_task(batcher(images))
        await loop.run_in_executor(None, running.wait)
        more = True
        second = asyncio.create_task(batcher(images))
        await asyncio.sleep(0)
        batcher._waiting[0].came -= 5  # it has waited already when the first run ends
        release.set()
        await asyncio.wait_for(asyncio.gather(first, second), 4)
        batcher.close()

    asyncio.run(check())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size must be a whole number of at least 1"),
        ({"deadline": 0}, "deadline must be a number above 0"),
        ({"max_megabytes": float("inf")}, "max_megabytes must be a number above 0, got inf"),
        ({"max_wait_ms": -1}, "max_wait_ms"),
        ({"cors": ("example.org",)}, "origin"),
        ({"cors": ("https://example.org/",)}, "without a path"),
        ({"max_megapixels": 179}, "at most 178.957, Pillow's limit"),
        ({"allow_host": ("a.example:80",)}, "without a port"),
    ],
)
def test_impossible_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ServeOptions(**options)


@pytest.mark.parametrize("key", ["two\nlines", "", "secret ", "sécret"])
def test_impossible_keys(key: str) -> None:
    with pytest.raises(ConfigError, match="one line of printable ASCII characters without spaces around it"):
        check_api_key(key)


def test_pillows_limit_is_the_one_that_options_name() -> None:
    assert Image.MAX_IMAGE_PIXELS is not None
    assert PILLOW_MAX_PIXELS == 2 * Image.MAX_IMAGE_PIXELS
