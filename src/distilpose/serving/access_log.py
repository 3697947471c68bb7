"""ASGI middleware around the application: request ids, access log, counts, Host check and security headers."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import logging
import re
import time
import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

from fastapi.responses import JSONResponse
from starlette.datastructures import Headers, MutableHeaders
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from distilpose.serving.errors import HTTPError
from distilpose.serving.metrics import Metrics
from distilpose.serving.options import MAX_HEAD_BYTES

logger = logging.getLogger(__name__)

REQUEST_ID_HEADER = "X-Request-ID"
CLIENT_LEFT = 499  # as in nginx: nobody to answer
_SANE_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_PROBES = ("/healthz", "/readyz", "/metrics")  # logged at debug level only
_ENTRY = "distilpose.entry"  # of the ASGI scope
_POLICY = "default-src 'none'; frame-ancestors 'none'"  # of answers that bring no policy of their own
_DISCARD_BYTES, _DISCARD_SECONDS = 2**26, 1.0


@dataclass
class Entry:
    """The log line of a request, filled in while it is handled."""

    request_id: str  # the client's own, if it is sane, else a new one
    people: int | None = None  # in the answer
    batches: list[int] = field(default_factory=list)  # crops in the runs of the model that it was part of
    error: str | None = None  # code of the HTTP error it was answered with
    # codes of single images of a request that was answered all the same
    failed: list[str] = field(default_factory=list)


def entry_of(scope: Scope) -> Entry:
    """The log line of a request being handled."""
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
    """The JSON answer of an error, which is counted and logged."""
    entry.error = http_error.code
    metrics.rejected.labels(http_error.code).inc()
    content = {"error": http_error.code, "message": http_error.message, "request_id": entry.request_id}
    return JSONResponse(content, http_error.status, http_error.headers)


def is_loopback(host: str) -> bool:
    """Whether a name or address (without a port) is one of this machine alone."""
    try:
        return host == "localhost" or host.endswith(".localhost") or ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


class AccessLog:
    """The middleware. It also reads what a client still sends when it was answered early.

    The paths of ``routes`` label the counts, others are ``other``, so that clients cannot invent labels. ``hosts`` are
    names that the Host header may give besides loopback names; None for any.
    """

    def __init__(
        self, app: ASGIApp, metrics: Metrics, routes: list[BaseRoute], hosts: tuple[str, ...] | None = None
    ) -> None:
        self._app, self._metrics, self._hosts = app, metrics, hosts
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
                # A client that is cut off while it writes never reads the answer.
                if not body_read and "expect" not in headers:
                    await _discard(receive_watched)
                status = message["status"]
                added = MutableHeaders(scope=message)
                added[REQUEST_ID_HEADER] = entry.request_id
                added["X-Content-Type-Options"] = "nosniff"
                added.setdefault("Content-Security-Policy", _POLICY)
                if not body_read:
                    added["Connection"] = "close"
            await send(message)

        try:
            refusal = self._refusal(scope, headers)
            app = self._app if refusal is None else error_response(refusal, entry, self._metrics)
            await app(scope, receive_watched, send_watched)
        except Exception:  # answered by the handler of such; Starlette raises it again, for logs like this one
            logger.exception("a request failed", extra={"fields": {"id": entry.request_id}})
        finally:
            seconds = time.perf_counter() - start
            path = scope["path"] if scope["path"] in self._paths else "other"
            self._metrics.requests.labels(path, str(status)).inc()
            self._metrics.seconds.labels(path).observe(seconds)
            _log(scope, entry, status, seconds)

    def _refusal(self, scope: Scope, headers: Headers) -> HTTPError | None:
        """Why a request is not even looked at; None for a good one."""
        size = len(scope["raw_path"]) + len(scope["query_string"]) + sum(len(k) + len(v) + 4 for k, v in headers.raw)
        if size > MAX_HEAD_BYTES:
            text = f"expected at most {MAX_HEAD_BYTES} bytes of headers, got {size}: send fewer"
            return HTTPError(431, "headers-too-large", text)
        if self._hosts is None or "*" in self._hosts:
            return None
        try:
            host = urlsplit(f"//{headers.get('host', '')}").hostname or ""
        except ValueError:
            host = ""
        if is_loopback(host) or host in {name.lower().strip("[]") for name in self._hosts}:
            return None
        text = f"the Host header names {host[:100]!r}, which this server does not answer to: start it with --allow-host"
        return HTTPError(421, "host", text)


async def _discard(receive: Receive) -> None:
    """Read on for a little while without keeping it."""
    read = 0
    try:
        async with asyncio.timeout(_DISCARD_SECONDS):
            while read < _DISCARD_BYTES and (message := await receive()).get("more_body", False):
                read += len(message["body"])
    except TimeoutError:
        return


def _log(scope: Scope, entry: Entry, status: int, seconds: float) -> None:
    fields: dict[str, Any] = {"id": entry.request_id, "method": scope["method"][:20], "path": scope["path"][:200]}
    fields |= {"status": status, "ms": round(1000 * seconds, 1)}
    if entry.people is not None:
        fields |= {"people": entry.people, "batch": entry.batches}
    if entry.error is not None:
        fields["error"] = entry.error
    if entry.failed:
        fields["failed"] = entry.failed
    logger.log(logging.DEBUG if scope["path"] in _PROBES else logging.INFO, "request", extra={"fields": fields})
