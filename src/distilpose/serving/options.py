"""Options of ``distilpose serve`` and of `PoseServer`, which takes the same."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from distilpose.backends.loading import DEFAULT_MODEL
from distilpose.errors import ConfigError
from distilpose.inference.options import DetectorSource, ModelSource
from distilpose.options import NonNegativeFloat, Port, PositiveFloat, PositiveInt, check_options, option

MAX_IMAGES = 16  # of one request to /v1/predict/batch
MAX_HEAD_BYTES = 2**16  # of request line and headers
MAX_CONNECTIONS = 800  # at once; below 1024, the default limit of open files on many systems
UPLOADS_AT_ONCE = 8  # all requests together may hold the bytes of so many of the largest size
DECODERS = 4  # threads, at most; each may need 8 bytes for every pixel of the largest image
PILLOW_MAX_PIXELS = 178_956_970  # of an image; Pillow refuses larger ones by itself
KEY_VARIABLE = "DISTILPOSE_API_KEY"


@dataclass(frozen=True)
class ServeOptions:
    """What a server runs, where, and its limits.

    Attributes:
        host: address to listen at; 0.0.0.0: other machines as well
        port: 0: any free port
        model: checkpoint (.safetensors, released .pth), exported file (.onnx, .xml, .tflite), folder of
            save_pretrained, hub id, or the name of one that comes with the package
        device: where the model runs: auto (default), cpu, cuda, cuda:1, mps, openvino:GPU
        threads: of the model, on the CPU; by default the backend decides
        detector: finds the people of images that come without boxes, see distilpose predict --help; auto by default,
            whole-image for a model of something else than people
        tile: also look for people in tiles with sides of so many pixels: small people in large images
        detection_threshold: leave out boxes with a lower score; by default it depends on the detector, and a sure pose
            keeps a weak box of the built-in one
        batch_size: crops per run of the model, of any requests
        max_wait_ms: wait so long for a fuller batch; a lone request never waits
        queue: images accepted and not answered yet, then 503; so do uploads that together would hold more than 8 times
            --max-megabytes
        deadline: seconds from upload to answer, then 504
        upload_seconds: that the upload of a request may take, then 408
        max_megabytes: 1e6 bytes of a request, else 413
        max_megapixels: 1e6 pixels of an image, read before it is decoded, else 413; at most 178
        max_people: of an image: more boxes are 422, of more detected people the best are kept
        api_key_file: requests to /v1 must carry what stands in this file in the header X-API-Key; DISTILPOSE_API_KEY in
            the environment does the same
        allow_host: names besides localhost that the Host header may give; '*': any. Without it, a server on loopback
            without a key answers loopback names only, any other one all names
        cors: sites whose pages may ask, such as https://example.org; '*': any

    Raises:
        ConfigError: a value is out of range.
    """

    host: str = "127.0.0.1"
    port: Port = option(8000, metavar="PORT")
    model: ModelSource = option(DEFAULT_MODEL, metavar="NAME|FILE")
    device: str | None = option(metavar="DEVICE")
    threads: PositiveInt | None = None
    detector: DetectorSource | None = option(metavar="NAME")
    tile: PositiveInt | None = None
    detection_threshold: float | None = option(metavar="S")
    batch_size: PositiveInt = 8
    max_wait_ms: NonNegativeFloat = option(5.0, metavar="MS")
    queue: PositiveInt = 128
    deadline: PositiveFloat = option(10.0, metavar="S")
    upload_seconds: PositiveFloat = option(30.0, metavar="S")
    max_megabytes: PositiveFloat = option(20.0, metavar="MB")
    max_megapixels: PositiveFloat = option(25.0, metavar="MP")
    max_people: PositiveInt = 50
    api_key_file: str | Path | None = option(metavar="FILE")
    allow_host: tuple[str, ...] = option((), metavar="NAME")
    cors: tuple[str, ...] = option((), metavar="ORIGIN")

    def __post_init__(self) -> None:
        check_options(self)
        if self.max_pixels > PILLOW_MAX_PIXELS:
            most = PILLOW_MAX_PIXELS / 1e6
            raise ConfigError(f"max_megapixels must be at most {most:g}, Pillow's limit, got {self.max_megapixels:g}")
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


def read_api_key(file: str | Path | None) -> str | None:
    """The key in a file, else that in the environment; None without both.

    Raises:
        ConfigError: there is no such file, or no key in it.
    """
    if file is None:
        key = os.environ.get(KEY_VARIABLE)
        return None if key is None else check_api_key(key.strip())
    try:
        return check_api_key(Path(file).read_text(encoding="ascii").strip())
    except (OSError, ValueError) as error:
        raise ConfigError(f"{file} must be a text file with the API key, and cannot be read ({error})") from error


def check_api_key(key: str) -> str:
    """Return a key that a header can carry.

    Raises:
        ConfigError: it is none.
    """
    if not (key and key.isascii() and key.isprintable() and key == key.strip()):
        raise ConfigError(
            "the API key must be one line of printable ASCII characters without spaces around it, got something else: "
            f"set a key in {KEY_VARIABLE} or --api-key-file, or leave both out for an open server"
        )
    return key
