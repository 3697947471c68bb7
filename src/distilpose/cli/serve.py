"""Poses over HTTP."""

from __future__ import annotations

from typing import TYPE_CHECKING

from distilpose.cli.command import Command

if TYPE_CHECKING:
    from distilpose.serving.options import ServeOptions


def _serve(options: ServeOptions) -> int:
    from distilpose.errors import ConfigError

    try:
        from distilpose.serving.server import serve
    except ModuleNotFoundError as error:
        raise ConfigError(f'serving needs {error.name}: pip install "distilpose[serve]"') from error
    serve(options, lambda text: print(text, flush=True))
    return 0


SERVE = Command(
    "answer images over HTTP with their poses; POST /v1/predict, described at /openapi.json",
    (
        "",
        "--model student.onnx --port 9000",
        "--model student.xml --detector onnx:detector.onnx --host 0.0.0.0 --api-key-file key.txt",
    ),
    "distilpose.serving.options:ServeOptions",
    _serve,
)
