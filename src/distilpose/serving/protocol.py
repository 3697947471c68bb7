"""A connection: bounds on what a client may do outside of the requests that the application sees."""

from __future__ import annotations

import asyncio
import json
import uuid
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from distilpose.serving.errors import HTTPError, busy, malformed
from distilpose.serving.metrics import Metrics
from distilpose.serving.options import ServeOptions

MAX_HEAD_BYTES = 2**16  # of request line and headers, and of what a body has around its bytes
CHUNK_HEAD_BYTES = 32  # that a chunk of a body may add to that
UNREAD_SECONDS = 60.0  # that a client may leave an answer unread


class BoundedProtocol(HttpToolsProtocol):
    """HTTP/1.1 that cuts off who is silent, slow in the headers, endless in them, or does not read its answers.

    Uploads are bounded by `uploads.UploadReader`; in between, while an answer is being made, a client may wait.

    Args:
        options: limits.
        metrics: told of connections and requests that end here.
        uvicorn: what uvicorn gives to a protocol.
    """

    def __init__(self, options: ServeOptions, metrics: Metrics, **uvicorn: Any) -> None:
        super().__init__(**uvicorn)
        self._options, self._metrics = options, metrics
        self._head_timer: asyncio.TimerHandle | None = None
        self._unread_timer: asyncio.TimerHandle | None = None
        self._head_bytes = 0  # received since the last request, but for bodies
        self._refused = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in the base class
        """A client: refused when there are too many."""
        super().connection_made(transport)
        if len(self.connections) > self._options.max_connections:
            self._refuse(busy("the server has as many connections as it may: try again a little later", "connections"))
        else:
            self._await_request()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing is waited for any more."""
        self._stop(self._head_timer, self._unread_timer)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Bytes of the client."""
        if self._refused:
            return
        self._head_bytes += len(data)
        super().data_received(data)
        if self._head_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
            text = f"expected at most {MAX_HEAD_BYTES} bytes of headers, got more: send fewer"
            self._refuse(HTTPError(431, "headers-too-large", text))

    def on_headers_complete(self) -> None:
        """A request has begun."""
        self._stop(self._head_timer)
        super().on_headers_complete()

    def on_chunk_header(self) -> None:
        """A chunk of a body begins."""
        self._head_bytes -= CHUNK_HEAD_BYTES

    def on_body(self, body: bytes) -> None:
        """A piece of a body."""
        self._head_bytes -= len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """A request has been received."""
        self._head_bytes = 0
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """The next request is waited for, if it is not there already."""
        super().on_response_complete()
        if self.cycle.response_complete and not self.transport.is_closing():
            self._await_request()

    def pause_writing(self) -> None:
        """The client reads more slowly than the answer comes."""
        super().pause_writing()
        self._unread_timer = self.loop.call_later(UNREAD_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        """It has read on."""
        self._stop(self._unread_timer)
        super().resume_writing()

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP."""
        self._refuse(malformed("expected a request of HTTP/1.1, got something else"))

    def _await_request(self) -> None:
        self._stop(self._head_timer)
        self._head_timer = self.loop.call_later(self._options.head_seconds, self.transport.close)

    @staticmethod
    def _stop(*timers: asyncio.TimerHandle | None) -> None:
        for timer in timers:
            if timer is not None:
                timer.cancel()

    def _refuse(self, http_error: HTTPError) -> None:
        """Answer in the place of the application, in the same form, and hang up."""
        self._refused = True
        self._metrics.rejected(http_error.code)
        if self.cycle is not None and self.cycle.response_started and not self.cycle.response_complete:
            self.transport.close()  # in the middle of another answer
            return
        fault = {"error": http_error.code, "message": http_error.message, "request_id": uuid.uuid4().hex}
        body = json.dumps(fault).encode()
        headers = {"Content-Type": "application/json", "Content-Length": len(body), "Connection": "close"}
        lines = [f"{name}: {value}" for name, value in {**headers, **http_error.headers}.items()]
        head = STATUS_LINE[http_error.status] + "\r\n".join([*lines, "", ""]).encode()
        self.transport.write(head + body)
        self.transport.close()
