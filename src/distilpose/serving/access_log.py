"""One JSON line per request, with an id that the client gets as well; and what every answer has in common."""

from __future__ import annotations

import json
import logging
import re
import time
import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from fastapi.responses import JSONResponse
from starlette.datastructures import Headers, MutableHeaders
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from distilpose.serving.errors import HTTPError
from distilpose.serving.metrics import Metrics

logger = logging.getLogger(__name__)

REQUEST_ID_HEADER = "X-Request-ID"
_SANE_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_ASKED_ALL_THE_TIME = ("/healthz", "/readyz", "/metrics")  # by other programs, of which no log need tell
_ENTRY = "distilpose.entry"  # of the ASGI scope
CLIENT_LEFT = 499  # as in nginx: nobody to answer


@dataclass
class Entry:
    """What the line of a request says, filled in on the way.

    Attributes:
        request_id: the client's own, if it is sane, else a new one.
        people: in the answer.
        batches: crops in the runs of the model that it was part of.
        error: code of the problem it was answered with.
        failed: codes of single images of a request that was answered all the same.
    """

    request_id: str
    people: int | None = None
    batches: list[int] = field(default_factory=list)
    error: str | None = None
    failed: list[str] = field(default_factory=list)


def entry_of(scope: Scope) -> Entry:
    """The line of a request in work."""
    entry: Entry = scope[_ENTRY]
    return entry


class JsonFormatter(logging.Formatter):
    """A log record as one line of JSON; ``extra={"fields": {...}}`` adds fields."""

    def format(self, record: logging.LogRecord) -> str:
        """See the class."""
        moment = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line: dict[str, Any] = {"time": moment, "level": record.levelname.lower(), "message": record.getMessage()}
        line |= getattr(record, "fields", {})
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line)


def error_response(http_error: HTTPError, entry: Entry, metrics: Metrics) -> JSONResponse:
    """The answer to a request that ended with a problem, which is counted."""
    entry.error = http_error.code
    metrics.rejected(http_error.code)
    content = {"error": http_error.code, "message": http_error.message, "request_id": entry.request_id}
    return JSONResponse(content, http_error.status, http_error.headers)


def image_failed(http_error: HTTPError, entry: Entry, metrics: Metrics) -> None:
    """Count one image of several that could not be used."""
    entry.failed.append(http_error.code)
    metrics.rejected(http_error.code)


class AccessLog:
    """ASGI middleware around everything: request id, log line, counts, and the traceback of what nobody expected.

    Args:
        app: what answers.
        metrics: counts.
        routes: whose paths label the counts; others are ``other``, so that clients cannot invent labels.
        max_bytes: of a body. An answer given before the body was read keeps the connection only if so much at most is
            still to come.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, routes: list[BaseRoute], max_bytes: int) -> None:
        self._app, self._metrics, self._max_bytes = app, metrics, max_bytes
        self._paths = {getattr(route, "path", "") for route in routes}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See the class."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start, headers = time.perf_counter(), Headers(scope=scope)
        wanted = headers.get(REQUEST_ID_HEADER, "")
        entry = scope[_ENTRY] = Entry(wanted if _SANE_ID.fullmatch(wanted) else uuid.uuid4().hex)
        status, body_read = CLIENT_LEFT, False

        async def receive_watched() -> Message:
            nonlocal body_read
            message = await receive()
            body_read = body_read or not message.get("more_body", False)
            return message

        async def send_watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                added = MutableHeaders(scope=message)
                added[REQUEST_ID_HEADER] = entry.request_id
                added["X-Content-Type-Options"] = "nosniff"
                if not body_read and not self._little_to_come(headers):
                    added["Connection"] = "close"
            await send(message)

        try:
            await self._app(scope, receive_watched, send_watched)
        except Exception:  # answered by the handler of such; Starlette raises it again, for logs like this one
            logger.exception("a request failed", extra={"fields": {"id": entry.request_id}})
        finally:
            seconds = time.perf_counter() - start
            self._metrics.request(scope["path"] if scope["path"] in self._paths else "other", status, seconds)
            self._log(scope, entry, status, seconds)

    def _little_to_come(self, headers: Headers) -> bool:
        if "transfer-encoding" in headers:
            return False
        length = headers.get("content-length", "0")
        return length.isdecimal() and int(length) <= self._max_bytes

    @staticmethod
    def _log(scope: Scope, entry: Entry, status: int, seconds: float) -> None:
        fields: dict[str, Any] = {"id": entry.request_id, "method": scope["method"], "path": scope["path"]}
        fields |= {"status": status, "ms": round(1000 * seconds, 1)}
        if entry.people is not None:
            fields |= {"people": entry.people, "batch": entry.batches}
        if entry.error is not None:
            fields["error"] = entry.error
        if entry.failed:
            fields["failed"] = entry.failed
        quiet = scope["path"] in _ASKED_ALL_THE_TIME
        logger.log(logging.DEBUG if quiet else logging.INFO, "request", extra={"fields": fields})
