"""The server under load, beside the same images through the bare pipeline in one process.

Server, client and bare pipeline share this machine, and take turns: what the client computes is missing to the server.
The processor time of either side for a request is therefore measured as well.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from statistics import median
from typing import NamedTuple
from urllib.request import urlopen

import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table

from distilpose.benchmark.measure import highest_peak
from distilpose.data.prefetch import map_in_threads
from distilpose.errors import ConfigError, DistilPoseError
from distilpose.export.export import SUFFIXES, Format, export_model
from distilpose.formats.writers import PoseRecord, prediction_rows
from distilpose.inference.batching import LocatedImage, predict_stream
from distilpose.inference.predictor import PosePredictor
from distilpose.serving.uploads import decode_image
from distilpose.types import FloatArray

sys.path.append(str(Path(__file__).resolve().parent.parent / "examples"))
from synthetic_people import draw_people

CLIENTS = (1, 4, 16, 64)
REQUESTS = 600  # of one number of clients in one round
ROUNDS = 3
IMAGES = 60
IMAGE_HW = (480, 640)
PEOPLE = 3
BATCH = 8
READERS = 2  # threads that decode for the bare pipeline
STARTING_SECONDS = 120
ENDING_SECONDS = 30  # that the server gets to end by itself
NEAR = 0.05  # pixels: batches of other sizes round differently
_BOUNDARY = "distilpose-load"


class LoadImage(NamedTuple):
    """An image, as a request and as the bare pipeline takes it.

    Attributes:
        jpeg: the file.
        boxes_xyxy: (N, 4) image pixels.
        request: the bytes of the HTTP request.
    """

    jpeg: bytes
    boxes_xyxy: FloatArray
    request: bytes


class Load(NamedTuple):
    """What so many clients met, each sending its next request as soon as it has an answer.

    Attributes:
        clients: connections.
        per_second: answers per second, median of the rounds.
        share_of_bare: that over the images per second of the bare pipeline right before it, median of the rounds.
        p50: milliseconds from request to answer, half of the requests were faster.
        p95: likewise 95 %.
        p99: likewise 99 %.
        server_ms: processor time of the server for a request.
        client_ms: processor time of the client for a request.
        batch: mean crops of a run of the model.
        megabytes: resident memory of the server, the most until then; 0 where the system does not tell.
        failed: requests not answered with 200.
        wrong: answers that are not those of their image.
    """

    clients: int
    per_second: float
    share_of_bare: float
    p50: float
    p95: float
    p99: float
    server_ms: float
    client_ms: float
    batch: float
    megabytes: float
    failed: int
    wrong: int


class ServingReport(NamedTuple):
    """Loads, and what they are held against.

    Attributes:
        runtime: that runs the model.
        bare_per_second: images per second of the bare pipeline, median of all rounds.
        bare_ms: its processor time for an image.
        loads: by number of clients.
    """

    runtime: str
    bare_per_second: float
    bare_ms: float
    loads: tuple[Load, ...]


def measure_serving(
    model: str | Path,
    *,
    format: Format = "openvino",
    clients: Sequence[int] = CLIENTS,
    requests: int = REQUESTS,
    rounds: int = ROUNDS,
    say: Callable[[str], None] = lambda _: None,
) -> ServingReport:
    """Load a server of its own process with JPEG images of 640 x 480 with given boxes, over loopback.

    The bare pipeline takes the same images through `predict_stream` to the same JSON text, without HTTP, right before
    each load.

    Args:
        model: a name or checkpoint; it is exported first.
        format: runtime of the server and of the bare pipeline.
        clients: numbers of connections.
        requests: of each number of clients in a round.
        rounds: how often all is repeated.
        say: told what is being done.

    Raises:
        ConfigError: the server does not start.
    """
    images = [_draw(number) for number in range(IMAGES)]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / f"model{SUFFIXES[format]}"
        say(f"export of {model}")
        export_model(model, file, format=format)
        predictor = PosePredictor(file, batch_size=BATCH)
        expected = [_keypoints(rows) for rows in _bare(predictor, images)]
        with _server(file) as (process, address):
            found = [
                _measure_round(predictor, images, expected, process, address, number, requests, say)
                for _ in range(rounds)
                for number in clients
            ]
    loads = tuple(_summary([load for load, _, _ in found if load.clients == number]) for number in clients)
    return ServingReport(format, median(bare for _, bare, _ in found), median(ms for _, _, ms in found), loads)


def _draw(number: int) -> LoadImage:
    image, people = draw_people(np.random.default_rng(number), IMAGE_HW, PEOPLE)
    file = BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=90)
    boxes = np.array([person.box_xyxy for person in people]).reshape(-1, 4)
    return LoadImage(file.getvalue(), boxes, http_request(file.getvalue(), boxes.tolist()))


def http_request(jpeg: bytes, boxes_xyxy: list[list[float]]) -> bytes:
    """The bytes of a request to ``/v1/predict``."""
    head = f"--{_BOUNDARY}\r\nContent-Disposition: form-data; name="
    body = f'{head}"boxes"\r\n\r\n{json.dumps(boxes_xyxy)}\r\n{head}"image"; filename="x.jpg"\r\n\r\n'.encode()
    body += jpeg + f"\r\n--{_BOUNDARY}--\r\n".encode()
    kind = f"multipart/form-data; boundary={_BOUNDARY}"
    lines = ("POST /v1/predict HTTP/1.1", "Host: x", f"Content-Type: {kind}", f"Content-Length: {len(body)}", "", "")
    return "\r\n".join(lines).encode() + body


def _measure_round(
    predictor: PosePredictor,
    images: Sequence[LoadImage],
    expected: Sequence[FloatArray],
    process: int,
    address: str,
    clients: int,
    requests: int,
    say: Callable[[str], None],
) -> tuple[Load, float, float]:
    """One load, with images per second and milliseconds of processor time of the bare pipeline before it."""
    say(f"{clients} clients")
    start, used = time.perf_counter(), time.process_time()
    repeated = [images[number % len(images)] for number in range(requests)]
    for _ in _bare(predictor, repeated):
        pass
    bare = requests / (time.perf_counter() - start)
    bare_ms = 1000 * (time.process_time() - used) / requests
    before = (_processor_seconds(process), time.process_time(), *_batches(address))
    start = time.perf_counter()
    answers = asyncio.run(send_load(address, [image.request for image in images], clients, requests))
    per_second = requests / (time.perf_counter() - start)
    after = (_processor_seconds(process), time.process_time(), *_batches(address))
    server, client, runs, crops = (b - a for a, b in zip(before, after, strict=True))
    milliseconds = np.array([1000 * answer.seconds for answer in answers])
    good = [answer for answer in answers if answer.status == 200]
    wrong = sum(not _same(answer.body, expected[answer.image]) for answer in good)
    p50, p95, p99 = (float(value) for value in np.percentile(milliseconds, (50, 95, 99)))
    load = Load(
        clients,
        per_second,
        per_second / bare,
        p50,
        p95,
        p99,
        1000 * server / requests,
        1000 * client / requests,
        crops / max(1.0, runs),
        _peak_megabytes(process),
        requests - len(good),
        wrong,
    )
    return load, bare, bare_ms


def _summary(rounds: Sequence[Load]) -> Load:
    """Medians, but the most memory and all failures."""
    middle = Load(*(median(values) for values in zip(*rounds, strict=True)))
    return middle._replace(
        clients=rounds[0].clients,
        megabytes=max(load.megabytes for load in rounds),
        failed=sum(load.failed for load in rounds),
        wrong=sum(load.wrong for load in rounds),
    )


class LoadAnswer(NamedTuple):
    """What came back.

    Attributes:
        image: index of the one sent.
        status: HTTP status; 0 when the connection broke.
        seconds: from request to answer.
        body: of the answer.
    """

    image: int
    status: int
    seconds: float
    body: bytes


async def send_load(address: str, requests: Sequence[bytes], clients: int, count: int) -> list[LoadAnswer]:
    """Send ``count`` requests in turn over ``clients`` connections, each its next one when it has an answer.

    A client in a few lines, which costs a fraction of what libraries do.

    Args:
        address: of the server, ``http://HOST:PORT``.
        requests: whole requests, as `http_request` makes them; used in turn.
        clients: connections.
        count: of requests.
    """
    host, _, port = address.removeprefix("http://").rpartition(":")
    numbers, answers = iter(range(count)), list[LoadAnswer]()

    async def one_client() -> None:
        reader, writer = await asyncio.open_connection(host, int(port))
        try:
            for number in numbers:
                image = number % len(requests)
                start = time.perf_counter()
                try:
                    writer.write(requests[image])
                    status, body = await _read_answer(reader)
                except (OSError, EOFError):
                    status, body = 0, b""
                    reader, writer = await asyncio.open_connection(host, int(port))
                answers.append(LoadAnswer(image, status, time.perf_counter() - start, body))
        finally:
            writer.close()

    await asyncio.gather(*(one_client() for _ in range(clients)))
    return answers


async def _read_answer(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    head = await reader.readuntil(b"\r\n\r\n")
    lines = head.lower().split(b"\r\n")
    lengths = [int(line.partition(b":")[2]) for line in lines if line.startswith(b"content-length:")]
    return int(head.split(b" ", 2)[1]), await reader.readexactly(lengths[0])


def _bare(predictor: PosePredictor, images: Iterable[LoadImage]) -> Generator[bytes]:
    """The bare pipeline: decoding and cropping in threads, batches across images, people as JSON."""

    def read(image: LoadImage) -> tuple[None, LocatedImage | DistilPoseError]:
        return None, LocatedImage(decode_image(image.jpeg, 10**8), image.boxes_xyxy)

    located_images = map_in_threads(read, images, threads=READERS, ahead=2 * READERS)
    for predicted in predict_stream(predictor, located_images):
        assert predicted.result is not None
        rows = prediction_rows(PoseRecord("", predicted.result, IMAGE_HW))
        yield json.dumps({"people": rows}).encode()


def _keypoints(body: bytes) -> FloatArray:
    return np.array([person["keypoints"] for person in json.loads(body)["people"]])


def _same(body: bytes, expected: FloatArray) -> bool:
    found = _keypoints(body)
    return found.shape == expected.shape and bool(np.abs(found - expected).max(initial=0) < NEAR)


@contextmanager
def _server(model: Path) -> Generator[tuple[int, str]]:
    """A server in a process of its own: its id and address."""
    command = [sys.executable, "-m", "distilpose", "serve", "--port", "0", "--model", str(model)]
    log = model.with_name("serve.log")
    with log.open("wb") as errors, subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors) as process:  # noqa: S603  # our own command
        assert process.stdout is not None
        try:
            address = process.stdout.readline().decode().split(" ")[0].strip()
            if not address:
                raise ConfigError(f"the server did not start: {log.read_text()[-500:]}")
            _wait_until_ready(address)
            yield process.pid, address
        finally:
            _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(ENDING_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()


def _wait_until_ready(address: str) -> None:
    end = time.monotonic() + STARTING_SECONDS
    while True:
        try:
            with urlopen(f"{address}/readyz", timeout=STARTING_SECONDS):  # noqa: S310  # http
                return
        except OSError:  # also of an answer that it is not ready
            if time.monotonic() > end:
                raise ConfigError(f"the server at {address} was not ready within {STARTING_SECONDS} seconds") from None
        time.sleep(0.05)


def _batches(address: str) -> tuple[float, float]:
    """Runs of the model and crops in them so far."""
    with urlopen(f"{address}/metrics", timeout=STARTING_SECONDS) as answer:  # noqa: S310  # http
        lines = dict(line.rsplit(" ", 1) for line in answer.read().decode().splitlines() if not line.startswith("#"))
    return float(lines["distilpose_batch_crops_count"]), float(lines["distilpose_batch_crops_sum"])


def _processor_seconds(process: int) -> float:
    """User and system time of a process; 0 where the system does not tell."""
    path = Path(f"/proc/{process}/stat")
    if not path.is_file():
        return 0.0
    fields = path.read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _peak_megabytes(process: int) -> float:
    path = Path(f"/proc/{process}/status")
    if not path.is_file():
        return 0.0
    lines = dict(line.split(":", 1) for line in path.read_text().splitlines())
    return int(lines["VmHWM"].split()[0]) * 1024 / 1e6


def serving_tables(report: ServingReport, peak: float) -> tuple[Table, Table]:
    """What clients see, and what it costs: one number of clients in a row; ``peak`` in GFLOP/s."""
    seen = _table(
        f"{report.runtime}: JPEG files of {IMAGE_HW[1]} x {IMAGE_HW[0]} with {PEOPLE} people over loopback",
        f"bare pipeline in one process: {report.bare_per_second:.1f} images/s; client and server share the cores",
        ("clients", "requests/s", "of bare", "p50 ms", "p95 ms", "p99 ms", "failed", "wrong"),
    )
    costs = _table(
        "what it costs",
        f"bare pipeline: {report.bare_ms:.1f} ms of CPU time an image; peak {peak:.0f} GFLOP/s",
        ("clients", "server CPU ms", "client CPU ms", "crops a run", "MB"),
    )
    for load in report.loads:
        seen.add_row(
            str(load.clients),
            f"{load.per_second:.1f}",
            f"{100 * load.share_of_bare:.0f} %",
            *(f"{milliseconds:.0f}" for milliseconds in (load.p50, load.p95, load.p99)),
            str(load.failed),
            str(load.wrong),
        )
        costs.add_row(
            str(load.clients),
            *(f"{value:.1f}" for value in (load.server_ms, load.client_ms, load.batch)),
            f"{load.megabytes:.0f}",
        )
    return seen, costs


def _table(title: str, caption: str, headings: Sequence[str]) -> Table:
    table = Table(title=title, caption=caption)
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    return table


def main() -> None:
    """Show the server's latency and throughput under load."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", help="trained model")
    parser.add_argument("--clients", type=int, nargs="+", default=CLIENTS, help="numbers of connections")
    parser.add_argument("--requests", type=int, default=REQUESTS, help="of each number of clients in a round")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="1 for a short run")
    args = parser.parse_args()
    report = measure_serving(
        args.model,
        clients=args.clients,
        requests=args.requests,
        rounds=args.rounds,
        say=Console(stderr=True).print,
    )
    for table in serving_tables(report, highest_peak()):
        Console().print(table)


if __name__ == "__main__":
    main()
