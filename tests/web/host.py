"""A static host for the page, as small as can be, and a server part that answers like ``distilpose serve``."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from email import message_from_bytes
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

ISOLATING = {"Cross-Origin-Opener-Policy": "same-origin", "Cross-Origin-Embedder-Policy": "require-corp"}
PATH = "/some/folder/"  # the page must not care where it lies
Answer = Callable[[np.ndarray, list[list[float]]], list[dict[str, Any]]]


class Handler(SimpleHTTPRequestHandler):
    """Files below `PATH`, and ``v1/predict`` beside them."""

    def __init__(self, *args: Any, answer: Answer | None, isolated: bool, **kwargs: Any) -> None:
        self.answer, self.isolated = answer, isolated
        super().__init__(*args, **kwargs)

    def translate_path(self, path: str) -> str:
        return super().translate_path("/" + path.removeprefix(PATH) if path.startswith(PATH) else "/nothing-here")

    def end_headers(self) -> None:
        for name, value in ISOLATING.items() if self.isolated else ():
            self.send_header(name, value)
        super().end_headers()

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.answer is None or self.path != f"{PATH}v1/predict":
            self.send_error(404)
            return
        head = f"Content-Type: {self.headers['Content-Type']}\r\n\r\n".encode()
        parts = {
            part.get_param("name", header="content-disposition"): part.get_payload(decode=True)
            for part in message_from_bytes(head + body).get_payload()
        }
        image = np.array(Image.open(BytesIO(parts["image"])).convert("RGB"))
        content = json.dumps({"people": self.answer(image, json.loads(parts["boxes"]))}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        """Silent."""


@contextmanager
def hosting(folder: Path, *, answer: Answer | None = None, isolated: bool = True) -> Iterator[str]:
    """Serve a folder on a free port of this machine; gives the address of the page."""
    handler = partial(Handler, answer=answer, isolated=isolated, directory=str(folder))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}{PATH}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
