"""What a request is answered when it cannot be served: a status, a short code for programs, a message for people."""

from __future__ import annotations


class HTTPError(Exception):  # what HTTP's own standard calls it
    """Ends a request, or one image of it; ``code`` is a short name, which stays the same between versions."""

    def __init__(self, status: int, code: str, message: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message
        self.headers = headers or {}


def busy(message: str, code: str = "queue-full") -> HTTPError:
    """503: nothing wrong with the request; the same one may go well a little later."""
    return HTTPError(503, code, message, {"Retry-After": "1"})


def about_to_end() -> HTTPError:
    """503: the server finishes what it has accepted, and takes nothing more."""
    http_error = busy("the server is about to end: ask another one", "draining")
    http_error.headers["Connection"] = "close"
    return http_error


def malformed(message: str) -> HTTPError:
    """400: the body is not what its Content-Type says."""
    return HTTPError(400, "malformed-body", message)


def too_large(message: str, code: str = "too-large") -> HTTPError:
    """413: beyond a limit of the server."""
    return HTTPError(413, code, message)


def unusable(code: str, message: str) -> HTTPError:
    """422: the body could be read, but a value in it cannot be used."""
    return HTTPError(422, code, message)
