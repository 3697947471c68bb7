"""HTTP itself: upgrades, transfer codings, Host names, headers of answers, and requests that are odd but legal."""

import socket
from http.client import HTTPResponse
from typing import Any

import pytest
from serving_client import BOX, ask, encoded, form, number_of, plain, send_image

from distilpose.serving.access_log import is_loopback
from distilpose.serving.app import PAGE_POLICY, STATIC
from distilpose.serving.options import MAX_HEAD_BYTES


def raw(address: str, head: list[str], body: bytes = b"") -> tuple[int, bytes, dict[str, str]]:
    """Status, body and headers of the answer to a request written by hand."""
    host, port = address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        connection.sendall("\r\n".join([*head, "", ""]).encode() + body)
        response = HTTPResponse(connection)
        response.begin()
        return response.status, response.read(), {name.lower(): value for name, value in response.getheaders()}


def post(*headers: str) -> list[str]:
    return ["POST /v1/predict HTTP/1.1", "Host: localhost", "Content-Type: image/png", *headers]


def test_a_body_behind_an_upgrade_header_is_read(address: str) -> None:
    """Java's own client asks for HTTP/2 this way in its first request."""
    image = encoded(plain(77))
    upgrade = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAEAAEAAAAIAAAAB")
    status, body, _ = raw(address, post(*upgrade, f"Content-Length: {len(image)}"), image)
    assert status == 200
    assert b'"model": "telltale"' in body


def test_other_transfer_codings_are_refused(address: str) -> None:
    status, _, headers = raw(address, post("Transfer-Encoding: gzip, chunked"), b"3\r\nabc\r\n0\r\n\r\n")
    assert status in (400, 501)
    assert headers["connection"] == "close"


def test_a_head_in_one_piece_is_bounded_as_one_in_several(address: str) -> None:
    for line in ("X-A: " + "y" * MAX_HEAD_BYTES, "\r\n".join(f"X-{number}: {'y' * 900}" for number in range(80))):
        assert raw(address, ["GET /healthz HTTP/1.1", "Host: localhost", line])[0] in (400, 431)


@pytest.mark.parametrize(
    ("options", "host", "served"),
    [
        ({}, "localhost", True),
        ({}, "127.0.0.1:8000", True),
        ({}, "[::1]:8000", True),
        ({}, "pose.localhost", True),
        ({}, "evil.example", False),
        ({}, "127.0.0.1.evil.example", False),
        ({}, "[evil", False),
        ({}, "", False),
        ({"allow_host": ("pose.example",)}, "POSE.example:80", True),
        ({"allow_host": ("pose.example",)}, "evil.example", False),
        ({"allow_host": ("*",)}, "evil.example", True),
        ({"api_key": "secret"}, "pose.example", True),
    ],
)
def test_an_open_server_on_loopback_answers_loopback_names_only(
    address: str, start: Any, options: dict[str, Any], host: str, served: bool
) -> None:
    """A page of another site may point its own name at 127.0.0.1 (DNS rebinding); its Host header tells."""
    place = start(**options).address if options else address
    status, body, _ = raw(place, ["GET /healthz HTTP/1.1", f"Host: {host}"])
    assert (status == 200) == served
    assert served or (status == 421 and b"--allow-host" in body)


def test_loopback_names() -> None:
    assert all(map(is_loopback, ("localhost", "127.0.0.1", "127.8.9.1", "::1", "[::1]")))
    assert not any(map(is_loopback, ("", "0.0.0.0", "localhost.evil.example", "10.0.0.1", "nothing")))  # noqa: S104


def test_answers_forbid_frames_and_scripts(address: str) -> None:
    for path in ("/healthz", "/v1/model", "/nothing-here"):
        headers = ask(address, path).headers
        assert headers["content-security-policy"] == "default-src 'none'; frame-ancestors 'none'", path
        assert headers["x-content-type-options"] == "nosniff"
    page = ask(address, "/").headers["content-security-policy"]
    assert page == f"{PAGE_POLICY}; frame-ancestors 'none'"
    assert PAGE_POLICY in " ".join((STATIC / "index.html").read_text().split())


def test_parts_of_a_page_are_not_sent(address: str) -> None:
    whole = ask(address, "/style.css").body
    for value in ("bytes=0-3", "bytes=99999999-", "lines=x", "bytes=5-1"):
        reply = ask(address, "/style.css", headers={"Range": value})
        assert (reply.status, reply.body) == (200, whole), value


def test_a_key_may_have_spaces_around_it_in_a_request(start: Any) -> None:
    address = start(api_key="secret-7").address
    assert send_image(address, 1, X_API_Key=" secret-7 ").status == 200
    assert send_image(address, 1, X_API_Key="secret -7").status == 401


def test_boxes_without_an_extent_are_unusable(address: str) -> None:
    for box in ([0, 0, 5e-324, 5e-324], [0, 0, 1e-9, 1e-9], [3, 3, 3 + 1e-12, 3 + 1e-12], [3, 3, 3, 9]):
        reply = send_image(address, 1, [box])
        assert (reply.status, reply.json["error"]) == (422, "boxes"), box
    assert number_of(send_image(address, 9, BOX).json["people"][0]) == 9


def test_a_text_field_is_no_image(address: str) -> None:
    reply = ask(address, "/v1/predict", *form(("image", "/etc/passwd")))
    assert (reply.status, reply.json["error"]) == (422, "image")
    assert "filename" in reply.json["message"]
