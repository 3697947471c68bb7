"""Too much, too late, too slow: refused at once, dropped, cut off, and the others notice nothing."""

from __future__ import annotations

import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPResponse
from typing import Any

import numpy as np
import pytest
from serving_client import BOX, Telltale, ask, encoded, form, metric, number_of, plain, send, send_picture

from distilpose.boxes_file import PersonBoxes
from distilpose.errors import ConfigError
from distilpose.serving.options import ServeOptions

RAW_HEAD = b"POST /v1/predict HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\n"


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
    lines = ["POST /v1/predict HTTP/1.1", "Host: x", *(f"{k}: {v}" for k, v in headers.items())]
    return "\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""]).encode() + body


def wait_for(what: Any, seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "it never came to that"
        time.sleep(0.01)


def test_beyond_the_queue_503_at_once_and_recovery(start: Any) -> None:
    runner = Telltale()
    server = start(runner, queue=6, deadline=60)
    runner.gate.clear()
    with ThreadPoolExecutor(40) as pool:
        accepted = [pool.submit(send_picture, server.address, number) for number in range(6)]
        wait_for(lambda: server.service.accepted == 6)
        refused = list(pool.map(lambda number: send_picture(server.address, number), range(200)))
        assert {reply.status for reply in refused} == {503}  # while the model stands still: nobody waited
        assert all(int(reply.headers["retry-after"]) >= 1 for reply in refused)
        assert {reply.json["error"] for reply in refused} == {"queue-full"}
        assert metric(server.address, "distilpose_queue_length") == 6
        assert metric(server.address, "distilpose_rejected_total") == 200
        assert ask(server.address, "/readyz").status == 200
        runner.gate.set()
        replies = [future.result() for future in accepted]
    assert [number_of(reply.json["people"][0]) for reply in replies] == list(range(6))
    assert send_picture(server.address, 9).status == 200
    assert server.service.accepted == 0


def test_several_pictures_take_several_places(start: Any) -> None:
    server = start(queue=2)
    pictures = [("images", encoded(plain(number)), "x") for number in range(3)]
    assert send(server.address, *pictures, path="/v1/predict/batch").status == 503
    assert send(server.address, *pictures[:2], path="/v1/predict/batch").status == 200


def test_too_late_is_504_and_its_work_is_dropped(start: Any) -> None:
    runner = Telltale()
    server = start(runner, deadline=0.3, batch_size=2)
    runner.batches.clear()
    runner.gate.clear()
    with ThreadPoolExecutor(20) as pool:
        replies = list(pool.map(lambda number: send_picture(server.address, number), range(20)))
    assert {(reply.status, reply.json["error"]) for reply in replies} == {(504, "deadline")}
    assert server.service.accepted == 0
    several = send(server.address, ("images", encoded(plain(1)), "x"), path="/v1/predict/batch")
    assert [entry["status"] for entry in several.json["results"]] == [504]
    runner.gate.set()
    wait_for(lambda: send_picture(server.address, 7).status == 200)
    assert sum(runner.batches) < 20  # those in the model and right behind it at most


def test_a_slow_detector_is_late_as_well(start: Any) -> None:
    release = threading.Event()

    class Stuck:
        def __call__(self, images: Any) -> list[PersonBoxes]:
            release.wait(30)
            return [PersonBoxes(np.array(BOX, dtype=float), np.ones(1)) for _ in images]

    server = start(detector=Stuck(), deadline=0.3)
    assert send_picture(server.address, 1).status == 504
    assert send_picture(server.address, 2, BOX).status == 200  # boxes need no detector
    release.set()


def test_memory_is_bounded_under_overload(start: Any) -> None:
    """Each picture has 12 MB when decoded, and 50 crops of 9 kB: a queue of 64 would need 800 MB at once."""
    runner = Telltale(seconds=0.01)
    server = start(runner, queue=64, deadline=60, max_people=50)
    big = encoded(plain(3, size_hw=(2000, 2000)))
    body, headers = form(("image", big, "x.png"), ("boxes", str(BOX * 50)))
    ask(server.address, "/v1/predict", body, headers)
    before = _resident_megabytes()
    most = 0.0
    with ThreadPoolExecutor(80) as pool:
        futures = [pool.submit(ask, server.address, "/v1/predict", body, headers) for _ in range(80)]
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


def test_slow_clients_do_not_hold_up_others_and_are_cut_off(start: Any) -> None:
    server = start(upload_seconds=1.5)
    request = raw_request(1)
    slow = [connect(server.address) for _ in range(50)]
    for number, connection in enumerate(slow):
        connection.sendall(request[: 20 if number % 2 else -30])  # in the headers, and near the end
    for number in range(20):
        assert number_of(send_picture(server.address, number).json["people"][0]) == number
    for _ in range(5):
        for connection in slow[::2]:
            connection.sendall(request[-30:-29])
        time.sleep(0.05)
    status, body, _ = read(slow[0])
    assert status == 408
    assert b"upload-slow" in body
    for connection in slow:
        connection.close()
    assert send_picture(server.address, 5).status == 200
    wait_for(lambda: server.service.in_flight == 0)


def test_cut_connections_leave_nothing_behind(start: Any) -> None:
    runner = Telltale()
    server = start(runner, deadline=60)
    runner.gate.clear()
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
    runner.gate.set()
    assert number_of(send_picture(server.address, 8).json["people"][0]) == 8


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
        connection.sendall(head + b"x" * 48_900)
    wait_for(lambda: server.service.in_flight == 8)
    time.sleep(0.2)
    reply = ask(server.address, "/v1/predict", b"x" * 49_000, {"Content-Type": "image/png"})
    assert (reply.status, reply.json["error"]) == (503, "queue-full")
    for connection in waiting:
        connection.close()
    wait_for(lambda: server.service.in_flight == 0)
    assert send_picture(server.address, 1).status == 200


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"deadline": 0}, "deadline must be above 0"),
        ({"max_megabytes": float("inf")}, "finite"),
        ({"max_wait_ms": -1}, "max_wait_ms"),
        ({"api_key": "two\nlines"}, "one line"),
        ({"api_key": ""}, "one line"),
        ({"cors": ("example.org",)}, "origin"),
        ({"cors": ("https://example.org/",)}, "without a path"),
    ],
)
def test_impossible_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ServeOptions(**options)
