"""What a server is told when it starts."""

from __future__ import annotations

import math
from dataclasses import dataclass

from distilpose.errors import ConfigError

MAX_IMAGES = 16  # of one request to /v1/predict/batch
UPLOADS_AT_ONCE = 8  # all requests together may hold the bytes of so many of the largest size
SMALL_UPLOADS = 16  # so many of one size make up a largest one: they are small, and have its room to themselves
MAX_DECODERS = 4  # threads; each may need 8 bytes for every pixel of the largest image
PILLOW_MAX_PIXELS = 178_956_970  # of an image; Pillow refuses larger ones by itself


@dataclass(frozen=True)
class ServeOptions:
    """Limits and manners of a server.

    Attributes:
        batch_size: most crops that the model sees at once.
        max_wait_ms: how long crops wait for others while more are being prepared; a lone request never waits.
        queue: images accepted and not answered yet; beyond it requests are refused at once.
        deadline: seconds from the complete upload to the answer.
        max_megabytes: 1e6 bytes of one request.
        max_megapixels: 1e6 pixels of one image, read from its header before it is decoded; Pillow's own limit, 178,
            cannot be passed.
        max_people: of one image. More boxes are refused, of more detected people the best are kept.
        api_key: that requests to ``/v1`` must carry; None for an open server.
        cors: origins whose pages may ask, such as ``https://example.org``; ``*`` for all.
        upload_seconds: that the upload of one request may take.
        head_seconds: that a client has for the headers of a request, from connecting or from its last answer.
        upload_rate: bytes per second that an upload must reach on average, after three seconds.
        max_connections: at once; below 1024, which many systems allow a process to open.
        decoders: threads that decode and crop; as many as usable cores, 2 to 4, when None.

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
    upload_seconds: float = 30.0
    head_seconds: float = 10.0
    upload_rate: float = 50_000.0
    max_connections: int = 800
    decoders: int | None = None

    def __post_init__(self) -> None:
        for name in ("batch_size", "queue", "max_people", "max_connections", "decoders"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name} must be at least 1, got {value}")
        for name in ("deadline", "max_megabytes", "max_megapixels", "upload_seconds", "head_seconds", "upload_rate"):
            if not 0 < getattr(self, name) < math.inf:
                raise ConfigError(f"{name} must be above 0 and finite, got {getattr(self, name)}")
        if self.max_pixels > PILLOW_MAX_PIXELS:
            most = PILLOW_MAX_PIXELS / 1e6
            raise ConfigError(f"max_megapixels must be at most {most:g}, Pillow's limit, got {self.max_megapixels:g}")
        if not 0 <= self.max_wait_ms < math.inf:
            raise ConfigError(f"max_wait_ms must be at least 0 and finite, got {self.max_wait_ms}")
        if self.api_key is not None and not (self.api_key.isascii() and self.api_key.isprintable() and self.api_key):
            raise ConfigError("the API key must be one line of printable ASCII characters, got something else")
        for origin in self.cors:
            if origin != "*" and not (origin.startswith(("http://", "https://")) and not origin.endswith("/")):
                raise ConfigError(f"an origin is * or like https://example.org, without a path, got {origin!r}")

    @property
    def max_bytes(self) -> int:
        """Of one request."""
        return int(self.max_megabytes * 1e6)

    @property
    def max_pixels(self) -> int:
        """Of one image."""
        return int(self.max_megapixels * 1e6)
