"""A page on this machine that shows the newest drawn frame of a camera, to whoever knows its address."""

from __future__ import annotations

import secrets
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self

import cv2

from distilpose.errors import InputError
from distilpose.types import ImageArray

_BOUNDARY = "frame"
_PAGE = b"""<!doctype html><title>distilpose</title><meta name="viewport" content="width=device-width">
<style>body{margin:0;background:#101418;display:grid;place-items:center;height:100vh}img{max-width:100%;max-height:100vh}
</style><img src="stream" alt="what the camera sees, with poses">"""


class Preview:
    """Serves a page that shows the frame given last; on this machine alone.

    Its ``address`` has a random part, which other users of the machine and pages in the browser cannot guess. Port 0
    takes a free one.

    Raises:
        InputError: the port is in use.
    """

    def __init__(self, port: int = 0) -> None:
        self._condition = threading.Condition()
        self._jpeg = b""
        self._count = 0
        self._open = True
        preview, root = self, f"/{secrets.token_urlsafe(16)}/"

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:  # the library's name
                if secrets.compare_digest(self.path.encode(), root.encode()):
                    self._answer({"Content-Type": "text/html; charset=utf-8", "Content-Length": str(len(_PAGE))})
                    self.wfile.write(_PAGE)
                elif secrets.compare_digest(self.path.encode(), f"{root}stream".encode()):
                    self._answer({"Content-Type": f"multipart/x-mixed-replace; boundary={_BOUNDARY}"})
                    preview._send(self)
                else:
                    self.send_error(404)

            def _answer(self, headers: dict[str, str]) -> None:
                self.send_response(200)
                for name, value in {**headers, "Cache-Control": "no-store", "Referrer-Policy": "no-referrer"}.items():
                    self.send_header(name, value)
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                pass

        try:
            self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or error
            raise InputError(f"the preview cannot use port {port} ({reason}): choose another, or 0 for any") from error
        self.address = f"http://127.0.0.1:{self._server.server_address[1]}{root}"
        threading.Thread(target=self._server.serve_forever, name="preview", daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def show(self, image: ImageArray, time: float = 0.0) -> None:
        """Put an (H, W, 3) uint8 RGB image on the page; its time does not matter."""
        _, jpeg = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
        with self._condition:
            self._jpeg = jpeg.tobytes()
            self._count += 1
            self._condition.notify_all()

    def close(self) -> None:
        """Take the page away."""
        with self._condition:
            self._open = False
            self._condition.notify_all()
        self._server.shutdown()
        self._server.server_close()

    def _send(self, request: BaseHTTPRequestHandler) -> None:
        """Frame after frame, those left out that a slow reader has missed."""
        sent = 0
        while True:
            with self._condition:
                while self._count == sent and self._open:
                    self._condition.wait()
                if not self._open:
                    return
                jpeg, sent = self._jpeg, self._count
            head = f"--{_BOUNDARY}\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n"
            try:
                request.wfile.write(head.encode() + jpeg + b"\r\n")
            except OSError:  # the reader has left
                return
