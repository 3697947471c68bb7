"""Limits and policies of a server."""

from __future__ import annotations

import math
from dataclasses import dataclass

from distilpose.errors import ConfigError

MAX_IMAGES = 16  # of one request to /v1/predict/batch
MAX_HEAD_BYTES = 2**16  # of request line and headers
MAX_CONNECTIONS = 800  # at once; below 1024, the default limit of open files on many systems
UPLOADS_AT_ONCE = 8  # all requests together may hold the bytes of so many of the largest size
DECODERS = 4  # threads, at most; each may need 8 bytes for every pixel of the largest image
PILLOW_MAX_PIXELS = 178_956_970  # of an image; Pillow refuses larger ones by itself


@dataclass(frozen=True)
class ServeOptions:
    """Limits and policies of a server.

    Attributes:
        batch_size: most crops that the model sees at once.
        max_wait_ms: how long crops wait for others while more are being prepared; a lone request never waits.
        queue: images accepted and not answered yet; beyond it requests are refused at once.
        deadline: seconds from the complete upload to the answer.
        max_megabytes: 1e6 bytes of one request.
        max_megapixels: 1e6 pixels of one image, read from its header before it is decoded; at most Pillow's limit, 178.
        max_people: of one image. More boxes are refused, of more detected people the best are kept.
        api_key: that requests to ``/v1`` must carry; None for an open server.
        cors: origins whose pages may ask, such as ``https://example.org``; ``*`` for all.
        allow_host: names that the Host header may give besides loopback names; ``*`` for all. Empty: a server on
            loopback without a key answers loopback names only (against DNS rebinding), any other server answers all.
        upload_seconds: that the upload of one request may take.

    Raises:
        ConfigError: a value is out of range.
    """

    batch_size: int = 8
    max_wait_ms: float = 5.0
    queue: int = 128
    deadline: float = 10.0
    max_megabytes: float = 20.0
    max_megapixels: float = 25.0
    max_people: int = 50
    api_key: str | None = None
    cors: tuple[str, ...] = ()
    allow_host: tuple[str, ...] = ()
    upload_seconds: float = 30.0

    def __post_init__(self) -> None:
        for name in ("batch_size", "queue", "max_people"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("deadline", "max_megabytes", "max_megapixels", "upload_seconds"):
            if not 0 < getattr(self, name) < math.inf:
                raise ConfigError(f"{name} must be above 0 and finite, got {getattr(self, name)}")
        if self.max_pixels > PILLOW_MAX_PIXELS:
            most = PILLOW_MAX_PIXELS / 1e6
            raise ConfigError(f"max_megapixels must be at most {most:g}, Pillow's limit, got {self.max_megapixels:g}")
        if not 0 <= self.max_wait_ms < math.inf:
            raise ConfigError(f"max_wait_ms must be at least 0 and finite, got {self.max_wait_ms}")
        key = self.api_key
        if key is not None and not (key.isascii() and key.isprintable() and key and key == key.strip()):
            raise ConfigError(
                "the API key must be one line of printable ASCII characters without spaces around it, got something else"
            )
        for origin in self.cors:
            if origin != "*" and not (origin.startswith(("http://", "https://")) and not origin.endswith("/")):
                raise ConfigError(f"an origin is * or like https://example.org, without a path, got {origin!r}")
        for host in self.allow_host:
            if not host or set(host) & set("/@, ") or (":" in host and not host.startswith("[")):
                raise ConfigError(f"an allowed host is * or a name like pose.example.org, without a port, got {host!r}")

    @property
    def max_bytes(self) -> int:
        """Of one request."""
        return int(self.max_megabytes * 1e6)

    @property
    def max_pixels(self) -> int:
        """Of one image."""
        return int(self.max_megapixels * 1e6)
