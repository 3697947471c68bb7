"""Poses over HTTP."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from distilpose.cli.command import DEFAULT_MODEL, MODEL_HELP, Command

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace

KEY_VARIABLE = "DISTILPOSE_API_KEY"
DETECTOR_HELP = (
    "who looks for people in images that come without boxes: whole-image (default; one person fills the image), "
    "hog, hf:FOLDER, hf:ID, onnx:FILE, auto; see distilpose predict --help"
)
QUEUE_HELP = (
    "images accepted at once, then 503; so do uploads that together would hold more than 8 times --max-megabytes "
    "(default: 128)"
)
KEY_HELP = (
    f"requests to /v1 must carry what stands in this file in the header X-API-Key; {KEY_VARIABLE} in the environment "
    "does the same"
)
HOST_HELP = (
    "names besides localhost that the Host header may give; '*': any. A server on loopback without a key answers "
    "loopback names only, any other one all names (default: none)"
)


def _serve_arguments(parser: ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--host", default="127.0.0.1", help="address to listen at; 0.0.0.0: other machines as well (default: 127.0.0.1)"
    )
    add("--port", type=int, default=8000, help="0: any free port (default: 8000)")
    add("--model", default=DEFAULT_MODEL, metavar="NAME|FILE", help=MODEL_HELP)
    add("--detector", default="whole-image", metavar="NAME", help=DETECTOR_HELP)
    add(
        "--batch-size",
        type=int,
        default=8,
        metavar="N",
        help="crops per run of the model, of any requests (default: 8)",
    )
    add("--max-wait-ms", type=float, default=5.0, metavar="MS", help="wait so long for a fuller batch (default: 5)")
    add("--queue", type=int, default=128, metavar="N", help=QUEUE_HELP)
    add(
        "--deadline",
        type=float,
        default=10.0,
        metavar="S",
        help="seconds from upload to answer, then 504 (default: 10)",
    )
    add("--max-megabytes", type=float, default=20.0, metavar="MB", help="of a request, else 413 (default: 20)")
    add(
        "--max-megapixels",
        type=float,
        default=25.0,
        metavar="MP",
        help="of an image, else 413; at most 178 (default: 25)",
    )
    add("--max-people", type=int, default=50, metavar="N", help="of an image; more boxes: 422 (default: 50)")
    add("--api-key-file", metavar="FILE", help=KEY_HELP)
    add("--allow-host", nargs="+", default=[], metavar="NAME", help=HOST_HELP)
    add("--cors", nargs="+", default=[], metavar="ORIGIN", help="sites whose pages may ask; '*': any (default: none)")


def _api_key(file: str | None) -> str | None:
    from pathlib import Path

    from distilpose.errors import ConfigError

    if file is None:
        key = os.environ.get(KEY_VARIABLE)
        if key is not None and not key.strip():
            raise ConfigError(f"{KEY_VARIABLE} is set but empty: set a key, or unset it for an open server")
        return None if key is None else key.strip()
    try:
        text = Path(file).read_text(encoding="ascii").strip()
    except (OSError, ValueError) as error:
        raise ConfigError(f"{file} must be a text file with the API key, and cannot be read ({error})") from error
    if not text:
        raise ConfigError(f"{file} must hold the API key, and is empty")
    return text


def _serve(args: Namespace) -> int:
    from distilpose.errors import ConfigError

    try:
        from distilpose.serving.options import ServeOptions
        from distilpose.serving.server import PoseServer, serve
    except ModuleNotFoundError as error:
        raise ConfigError(f'serving needs {error.name}: pip install "distilpose[serve]"') from error
    options = ServeOptions(
        batch_size=args.batch_size,
        max_wait_ms=args.max_wait_ms,
        queue=args.queue,
        deadline=args.deadline,
        max_megabytes=args.max_megabytes,
        max_megapixels=args.max_megapixels,
        max_people=args.max_people,
        api_key=_api_key(args.api_key_file),
        cors=tuple(args.cors),
        allow_host=tuple(args.allow_host),
    )
    server = PoseServer(args.model, host=args.host, port=args.port, detector=args.detector, options=options)
    serve(server, lambda text: print(text, flush=True))
    return 0


SERVE = Command(
    "answer images over HTTP with their poses; POST /v1/predict, described at /openapi.json",
    (
        "",
        "--model student.onnx --port 9000",
        "--model student.xml --detector onnx:detector.onnx --host 0.0.0.0 --api-key-file key.txt",
    ),
    _serve_arguments,
    _serve,
)
