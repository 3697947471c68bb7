"""Change good files and requests at random; count crashes, hangs and good inputs lost. The same seed, the same cases.

    python tools/fuzz.py                            # every kind, some minutes
    python tools/fuzz.py --kinds json requests --seed 7

A case passes when the command ends with an exit code of its own (0 to 2) within its time, with a message and no
traceback. Good inputs lie among the bad ones: each must be answered as it is alone.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import multiprocessing
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import yaml
from PIL import Image
from rich.console import Console
from rich.table import Table

from distilpose.cli.main import main as distilpose

ROOT = Path(__file__).parents[1]
PHOTOS = sorted((ROOT / "docs" / "images" / "photos").glob("*.jpg"))
WEIGHTS = ROOT / "src" / "distilpose" / "weights"
COUNTS = {"images": 300, "videos": 50, "json": 200, "checkpoints": 200, "configurations": 150, "requests": 500}
SECONDS = 120  # that a case may take
GOOD_EVERY = 20  # cases: one that is not changed
FOLDER = 60  # images, and FOLDER // 6 videos, of one run of predict
REPORT = 800  # characters of a fault
SIDE = 160  # pixels of the images' longer side
ODD = (None, "", "x" * 5000, -1, 0, 0.5, 1e308, float("nan"), float("inf"), 2**63, True, [], {}, [[]], "\x00", "../..")
BOXES = "20,20,120,150"


class Case(NamedTuple):
    """A command, and what must come of it.

    Attributes:
        name: for the report.
        arguments: of ``distilpose``.
        good: the input is not changed: the exit code must be 0.
        check: what is wrong with the output, looked at when the command has ended; None for nothing.
    """

    name: str
    arguments: list[str]
    good: bool = False
    check: Callable[[], str | None] | None = None


class Count(NamedTuple):
    """Cases of a kind, and what is wrong with some of them."""

    cases: int
    faults: list[str]


def change_bytes(data: bytes, random: Random, reach: int | None = None) -> bytes:
    """Flip, cut, repeat or overwrite some bytes, the first ``reach`` of them where it is given."""
    changed, end = bytearray(data), min(len(data), reach or len(data))
    for _ in range(random.choice((1, 1, 2, 8, 64))):
        place, length = random.randrange(end), random.choice((1, 2, 4, 64, 1024))
        way = random.randrange(6)
        if way == 0:
            changed[place % len(changed)] ^= 1 << random.randrange(8)
        elif way == 1:
            changed[place : place + length] = random.randbytes(length)
        elif way == 2:
            changed[place : place + length] = random.choice((b"\x00", b"\xff")) * length
        elif way == 3:
            del changed[place : place + length]
        elif way == 4:
            changed[place:place] = changed[place : place + length]
        elif random.random() < 0.3:
            del changed[place:]
        if len(changed) < 2:
            break
    return bytes(changed) or b"\x00"


def change_document(document: Any, random: Random) -> Any:
    """Replace, drop or repeat some values of a document of lists and mappings."""
    changed = json.loads(json.dumps(document))
    for _ in range(random.choice((1, 1, 2, 5))):
        node, key = random.choice(list(_places(changed)))
        way = random.randrange(4)
        if way == 0 and isinstance(node, dict):
            del node[key]
        elif way == 1 and isinstance(node, list):
            node.append(node[key])
        elif way == 2 and isinstance(node[key], int | float):
            node[key] = random.choice((str(node[key]), -node[key], node[key] * 1e9, node[key] + 0.5))
        else:
            node[key] = random.choice(ODD)
        if not changed:
            break
    return changed


def _places(node: Any) -> Iterator[tuple[Any, Any]]:
    for key in list(node) if isinstance(node, dict) else range(len(node)):
        yield node, key
        if isinstance(node[key], dict | list):
            yield from _places(node[key])


def write_photo(file: Path, index: int) -> Path:
    """A small photograph; the suffix says the format."""
    with Image.open(PHOTOS[index % len(PHOTOS)]) as image:
        image.thumbnail((SIDE, SIDE))
        image.save(file)
    return file


def folder_cases(folder: Path, random: Random, count: int, suffixes: Sequence[str], size: int) -> Iterator[Case]:
    """Runs of predict on folders of ``size`` changed files each, with good ones among them."""
    for start in range(0, count, size):
        mixed = folder / f"mixed_{start}"
        mixed.mkdir()
        for index in range(start, min(start + size, count)):
            file = mixed / f"bad_{index}{suffixes[index % len(suffixes)]}"
            _write_media(file, index)
            file.write_bytes(change_bytes(file.read_bytes(), random, random.choice((None, 512))))
        good = [mixed / f"good_{index}{suffix}" for index, suffix in enumerate(suffixes)]
        for index, file in enumerate(good):
            _write_media(file, index)
        out = folder / f"out_{start}"

        check = partial(_lost, out, [file.name for file in good])
        yield Case(mixed.name, ["predict", str(mixed), "--detector", "whole-image", "--out", str(out)], check=check)


def _lost(out: Path, names: list[str]) -> str | None:
    text = "".join(file.read_text() for file in out.rglob("*.json*"))
    lost = [name for name in names if name not in text]
    return f"lost {', '.join(lost)}" if lost else None


def _write_media(file: Path, index: int) -> None:
    if file.suffix not in (".mp4", ".mkv"):
        write_photo(file, index)
        return
    import av

    with av.open(str(file), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 96, 96, "yuv420p"
        with Image.open(PHOTOS[index % len(PHOTOS)]) as image:
            frame = image.convert("RGB").resize((96, 96))
        for _ in range(6):
            container.mux(stream.encode(av.VideoFrame.from_image(frame)))
        container.mux(stream.encode())


def image_cases(folder: Path, random: Random, count: int) -> Iterator[Case]:
    """Images of many formats, damaged."""
    suffixes = (".jpg", ".png", ".webp", ".gif", ".bmp", ".tif")
    return folder_cases(folder, random, count, suffixes, FOLDER)


def video_cases(folder: Path, random: Random, count: int) -> Iterator[Case]:
    """Short videos, damaged."""
    return folder_cases(folder, random, count, (".mp4", ".mkv"), FOLDER // 6)


def json_cases(folder: Path, random: Random, count: int) -> Iterator[Case]:
    """Annotation files of two small photographs, to evaluate and as boxes to predict in."""
    images, annotations = folder / "images", []
    images.mkdir()
    entries = []
    for index in range(2):
        photo = write_photo(images / f"{index}.jpg", index)
        with Image.open(photo) as image:
            entries.append({"id": index, "file_name": photo.name, "width": image.width, "height": image.height})
        keypoints = [value for k in range(17) for value in (30 + 4 * k, 20 + 5 * k, 2)]
        box = {"bbox": [20, 10, 80, 100], "area": 6000, "iscrowd": 0}
        annotations.append(
            {"id": index, "image_id": index, "category_id": 1, "num_keypoints": 17, "keypoints": keypoints} | box
        )
    category = {"id": 1, "name": "person"}
    document = {"images": entries, "annotations": annotations, "categories": [category]}
    for index in range(count):
        good = index % GOOD_EVERY == 0
        text = json.dumps(document if good else change_document(document, random)).encode()
        if not good and random.random() < 0.3:
            text = change_bytes(text, random)
        file = folder / f"{index}.json"
        file.write_bytes(text)
        if index % 4 == 0:
            arguments = ["evaluate", "--annotations", str(file), "--images", str(images)]
        else:
            arguments = ["predict", str(images), "--boxes", str(file), "--out", str(folder / f"out_{index}")]
        yield Case(file.name, arguments, good)


def checkpoint_cases(folder: Path, random: Random, count: int) -> Iterator[Case]:
    """Shipped weights and the exported file, damaged in their descriptions and anywhere."""
    photo = write_photo(folder / "photo.jpg", 0)
    for index in range(count):
        source = WEIGHTS / f"distilpose_mobilenet.{('onnx', 'safetensors')[index % 2]}"
        good = index % GOOD_EVERY == 0
        data = source.read_bytes()
        if not good and index % 3 and source.suffix == ".safetensors":
            length = int.from_bytes(data[:8], "little")
            header = json.dumps(change_document(json.loads(data[8 : 8 + length]), random)).encode()
            data = len(header).to_bytes(8, "little") + header + data[8 + length :]
        elif not good and index % 3:
            data = data[:-4096] + change_bytes(data[-4096:], random)
        elif not good:
            data = change_bytes(data, random, random.choice((None, 4096)))
        file = folder / f"model_{index % 4}{source.suffix}"
        file.write_bytes(data)
        out = ["--out", str(folder / f"out_{index}")]
        yield Case(
            f"{index}: {source.name}", ["predict", str(photo), "--boxes", BOXES, "--model", str(file), *out], good
        )


def hostile_texts() -> list[bytes]:
    """YAML that is made to break readers: aliases that unfold without end, tags, encodings, depth."""
    aliases = "\n".join(
        f"a{n}: &a{n} " + ("{x: 1}" if n == 0 else f"[{', '.join([f'*a{n - 1}'] * 9)}]") for n in range(30)
    )
    merged = aliases.replace("[", "{<<: [").replace("]", "]}")
    texts = [aliases, merged, "a: &a [*a]", "out: !!int x", "out: !!timestamp x", "1:", "? [a]\n: 1", "[" * 100_000]
    inside = [yaml.safe_dump({"out": "x", "data": text}) for text in (aliases, merged, "[" * 2000, "{a: &a [*a]}")]
    return [text.encode() for text in texts + inside] + ["out: x".encode("utf-16"), b"", b"\xef\xbb\xbfout: x"]


def configuration_cases(folder: Path, random: Random, count: int) -> Iterator[Case]:
    """Configurations of training and of sweeps; their data are not there, so that none starts."""
    files = sorted((ROOT / "configs").rglob("*.yaml"))
    hostile = hostile_texts()
    for index in range(count):
        source = random.choice(files)
        text = source.read_bytes()
        if index % 4 == 0:
            text = hostile[index // 4 % len(hostile)]
        elif index % 2:
            document = change_document(yaml.safe_load(text), random)
            text = yaml.safe_dump(document, allow_unicode=True).encode()
        else:
            text = change_bytes(text, random)
        file = folder / f"{index}.yaml"
        file.write_bytes(text)
        command = "ablate" if b"variants:" in source.read_bytes() else "train"
        root = "--base.data.root" if command == "ablate" else "--data.root"
        out = ["--out", str(folder / f"out_{index}")]
        yield Case(f"{index}: {source.name}", [command, str(file), root, str(folder / "nowhere"), *out])


FILES: dict[str, Callable[[Path, Random, int], Iterator[Case]]] = {
    "images": image_cases,
    "videos": video_cases,
    "json": json_cases,
    "checkpoints": checkpoint_cases,
    "configurations": configuration_cases,
}


def run_cases(cases: Iterator[Case]) -> Count:
    """Run commands one by one in a process of their own, which is replaced when it dies or hangs."""
    context, total, faults = multiprocessing.get_context("spawn"), 0, []
    worker: tuple[Any, Any] | None = None
    for case in cases:
        total += 1
        if worker is None:
            ours, theirs = context.Pipe()
            process = context.Process(target=_work, args=(theirs,), daemon=True)
            process.start()
            theirs.close()
            worker = process, ours
        process, ours = worker
        ours.send(case.arguments)
        try:
            fault = ours.recv() if ours.poll(SECONDS) else f"no answer after {SECONDS} s"
        except EOFError:
            process.join()
            fault = f"the process died with exit code {process.exitcode}"
        if not isinstance(fault, int):
            process.kill()
            worker = None
        elif case.good and fault != 0:
            fault = f"a good input: exit code {fault}"
        else:
            fault = None if case.check is None else case.check()
        if fault is not None:
            faults.append(f"{case.name}: {' '.join(case.arguments)}: {fault}")
    if worker is not None:
        worker[0].kill()
    return Count(total, faults)


def _work(pipe: Connection) -> None:
    """Run commands; answer each with its exit code, or the traceback of what it let through."""
    while True:
        arguments, quiet = pipe.recv(), io.StringIO()
        try:
            with contextlib.redirect_stdout(quiet), contextlib.redirect_stderr(quiet):
                code: int | str = distilpose(arguments)
        except SystemExit as leaving:
            code = leaving.code if isinstance(leaving.code, int) else 1
        except BaseException:
            code = traceback.format_exc()
        if "Traceback (most recent call last)" in quiet.getvalue():
            code = quiet.getvalue()
        pipe.send(code)


def run_requests(folder: Path, random: Random, count: int) -> Count:
    """Send changed requests to a server, and good ones between them."""
    photo = write_photo(folder / "photo.jpg", 0).read_bytes()
    line = b'--b\r\nContent-Disposition: form-data; name="%s"%s\r\n\r\n%s\r\n'
    body = line % (b"image", b'; filename="a.jpg"', photo) + line % (b"boxes", b"", b"[[20,20,120,150]]") + b"--b--\r\n"
    head = b"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=b\r\n"
    request = head + b"Content-Length: %d\r\nConnection: close\r\n\r\n" % len(body) + body
    command = [sys.executable, "-m", "distilpose", "serve", "--port", "0", "--upload-seconds", "2"]
    faults = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as server:
        assert server.stdout is not None
        port = next(int(found[1]) for text in server.stdout if (found := re.search(r"http://127\.0\.0\.1:(\d+)", text)))
        drain = multiprocessing.get_context("fork").Process(target=server.stdout.read, daemon=True)
        drain.start()
        until = time.monotonic() + SECONDS
        while not (expected := _send(port, request)).startswith(b"HTTP/1.1 200"):
            if time.monotonic() > until:
                return Count(0, [f"a good request got {expected[:200]!r}"])
            time.sleep(0.5)  # the model is being loaded
        for index in range(count):
            if index % GOOD_EVERY == 0:
                answer = _send(port, request)
                if _poses(answer) != _poses(expected):
                    faults.append(f"request {index}: a good one got {answer[:200]!r}")
                continue
            changed = change_bytes(request, random, random.choice((None, len(head) + 40, len(head) + 300)))
            answer = _send(port, changed)
            if re.match(rb"HTTP/1\.1 5(?!03|04)", answer):
                faults.append(f"request {index}: {answer[:200]!r}")
        if server.poll() is not None:
            faults.append(f"the server ended with exit code {server.poll()}")
        drain.kill()
        server.terminate()
    return Count(count, faults)


def _send(port: int, request: bytes) -> bytes:
    """Send bytes; everything that comes back until the server closes or is silent for long."""
    answer = b""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
        with contextlib.suppress(OSError):
            connection.sendall(request)
        while part := connection.recv(65536):
            answer += part
    return answer


def _poses(answer: bytes) -> Any:
    head, _, body = answer.partition(b"\r\n\r\n")
    return head.split(b"\r\n")[0], json.loads(body)["people"] if b" 200 " in head else body


def main() -> int:
    """Print the table and the faults; 1 if there is one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", nargs="+", choices=COUNTS, default=list(COUNTS))
    parser.add_argument("--share", type=float, default=1.0, help="of the cases, such as 0.1")
    options = parser.parse_args()
    table = Table("kind", "cases", "crashes and good inputs lost")
    found: list[str] = []
    for kind in options.kinds:
        random, folder = Random(f"{options.seed} {kind}"), Path(tempfile.mkdtemp(prefix="distilpose_fuzz_"))
        count = max(1, round(COUNTS[kind] * options.share))
        result = (
            run_requests(folder, random, count) if kind == "requests" else run_cases(FILES[kind](folder, random, count))
        )
        table.add_row(kind, str(count), str(len(result.faults)))
        found += result.faults
        if not result.faults:
            shutil.rmtree(folder)
    Console().print(table)
    for fault in found:
        print(fault if len(fault) < REPORT else f"{fault[: REPORT // 2]} ... {fault[-REPORT // 2 :]}")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
