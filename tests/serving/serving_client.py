"""A client for tests: forms, requests, and images and models whose answers tell which image they are of."""

import http.client
import json
import threading
import time
from collections.abc import Callable
from io import BytesIO
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from distilpose.backends.description import ModelDescription
from distilpose.data.preprocess import Normalization
from distilpose.models.outputs import PoseOutput

SIZE_HW = (32, 24)
IMAGE_HW = (40, 30)
BOX = [[0, 0, 30, 40]]


class Telltale:
    """An `InferenceBackend` that answers with the color in the middle of its crop: x red, y green, each over 255.

    ``gate`` closed keeps it waiting; ``seconds`` makes each run slow; ``poison`` fails on images of that blue.
    """

    description = ModelDescription("telltale", "regression", SIZE_HW, (16, 12))

    def __init__(self, *, seconds: float = 0.0) -> None:
        self.seconds = seconds
        self.gate = threading.Event()
        self.gate.set()
        self.batches: list[int] = []
        self.poison: int | None = None

    def __call__(self, images: NDArray[np.float32]) -> PoseOutput[NDArray[np.float32]]:
        self.batches.append(len(images))
        self.gate.wait(60)
        time.sleep(self.seconds)
        norm = Normalization()
        color = images[:, :, SIZE_HW[0] // 2, SIZE_HW[1] // 2] * np.array(norm.std) + np.array(norm.mean)
        xy = color[:, None, :2].repeat(17, axis=1).astype(np.float32)
        if self.poison is not None:
            xy[np.rint(color[:, 2] * 255) == self.poison] = np.nan
        return PoseOutput(xy, np.ones_like(xy), np.full(xy.shape[:2], 0.75, np.float32))


def plain(number: int, blue: int = 0, size_hw: tuple[int, int] = IMAGE_HW) -> NDArray[np.uint8]:
    """An image of one color, another for each number below 65,536."""
    return np.full((*size_hw, 3), (number % 256, number // 256, blue), dtype=np.uint8)


def encoded(image: NDArray[np.uint8], kind: str = "PNG", **options: Any) -> bytes:
    file = BytesIO()
    Image.fromarray(image).save(file, kind, **options)
    return file.getvalue()


def number_of(person: dict[str, Any], box: list[float] | None = None) -> int:
    """Which `plain` image an answer is of, from its first keypoint: the inverse of the crop's map."""
    x1, y1, x2, y2 = box or person["box_xyxy"]
    width = max(x2 - x1, (y2 - y1) * 3 / 4) * 1.25
    height = width * 4 / 3
    x = (person["keypoints"][0] - (x1 + x2) / 2) / width + 0.5
    y = (person["keypoints"][1] - (y1 + y2) / 2) / height + 0.5
    return round(x * 255) + 256 * round(y * 255)


def wait_for(what: Callable[[], object], seconds: float = 30) -> None:
    """Ask again and again until it is so; fail when it never is."""
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "it never came to that"
        time.sleep(0.01)


class Reply(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def ask(
    address: str,
    path: str,
    body: bytes | None = None,
    headers: dict[str, str] | None = None,
    method: str | None = None,
    timeout: float = 60,
) -> Reply:
    connection = http.client.HTTPConnection(address.removeprefix("http://"), timeout=timeout)
    try:
        connection.request(method or ("GET" if body is None else "POST"), path, body, headers or {})
        response = connection.getresponse()
        return Reply(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())
    finally:
        connection.close()


Field = tuple[str, bytes | str] | tuple[str, bytes | str, str]


def form(*fields: Field, boundary: str = "b0undary") -> tuple[bytes, dict[str, str]]:
    """A multipart body and its header; a field with a third entry is a file of that name."""
    body = b""
    for name, content, *filename in fields:
        of_file = f'; filename="{filename[0]}"' if filename else ""
        body += f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"{of_file}\r\n\r\n'.encode()
        body += (content if isinstance(content, bytes) else content.encode()) + b"\r\n"
    return body + f"--{boundary}--\r\n".encode(), {"Content-Type": f"multipart/form-data; boundary={boundary}"}


def send(address: str, *fields: Field, path: str = "/v1/predict", **headers: str) -> Reply:
    body, kind = form(*fields)
    return ask(address, path, body, kind | {name.replace("_", "-"): value for name, value in headers.items()})


def send_image(address: str, number: int, boxes: list[list[float]] | None = None, **headers: str) -> Reply:
    fields: list[Field] = [("image", encoded(plain(number)), f"{number}.png")]
    if boxes is not None:
        fields.append(("boxes", json.dumps(boxes)))
    return send(address, *fields, **headers)


def metric(address: str, name: str) -> float:
    """Sum of a metric over its labels."""
    lines = ask(address, "/metrics").body.decode().splitlines()
    found = [line.rsplit(" ", 1) for line in lines if not line.startswith("#")]
    return sum(float(value) for key, value in found if key.partition("{")[0] == name)
