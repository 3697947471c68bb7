"""A static host for the page, as small as can be."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

ISOLATING = {"Cross-Origin-Opener-Policy": "same-origin", "Cross-Origin-Embedder-Policy": "require-corp"}
PATH = "/some/folder/"  # the page must not care where it lies


class Handler(SimpleHTTPRequestHandler):
    """Files below `PATH`."""

    def __init__(self, *args: Any, isolated: bool, **kwargs: Any) -> None:
        self.isolated = isolated
        super().__init__(*args, **kwargs)

    def translate_path(self, path: str) -> str:
        return super().translate_path("/" + path.removeprefix(PATH) if path.startswith(PATH) else "/nothing-here")

    def end_headers(self) -> None:
        for name, value in ISOLATING.items() if self.isolated else ():
            self.send_header(name, value)
        super().end_headers()

    def log_message(self, *_: Any) -> None:
        """Silent."""


@contextmanager
def hosting(folder: Path, *, isolated: bool = True) -> Iterator[str]:
    """Serve a folder on a free port of this machine; gives the address of the page."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, isolated=isolated, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}{PATH}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
