"""What a request is answered when it cannot be served: a status, a short code for programs, a message for people."""

from __future__ import annotations

RETRY_SECONDS = 1


class Problem(Exception):  # noqa: N818  # what HTTP's own standard calls it
    """Ends a request, or one picture of it.

    Args:
        status: HTTP status.
        code: short name, which stays the same between versions.
        message: what was expected, what came, what to do.
        headers: of the answer.
    """

    def __init__(self, status: int, code: str, message: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message
        self.headers = headers or {}


def busy(message: str, code: str = "queue-full") -> Problem:
    """503: nothing wrong with the request; the same one may go well a little later."""
    return Problem(503, code, message, {"Retry-After": str(RETRY_SECONDS)})


def malformed(message: str) -> Problem:
    """400: the body is not what its Content-Type says."""
    return Problem(400, "malformed-body", message)


def too_large(message: str, code: str = "too-large") -> Problem:
    """413: beyond a limit of the server."""
    return Problem(413, code, message)


def unusable(code: str, message: str) -> Problem:
    """422: the body could be read, but a value in it cannot be used."""
    return Problem(422, code, message)
