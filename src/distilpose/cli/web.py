"""The browser page for any static host."""

from __future__ import annotations

from typing import TYPE_CHECKING

from distilpose.cli.command import Command

if TYPE_CHECKING:
    from distilpose.serving.web import WebOptions


def _web(options: WebOptions) -> int:
    from distilpose.serving.web import build_page

    report = build_page(options)
    print(f"{', '.join(path.stem for path in report.models)} -> {report.folder} ({report.megabytes:.1f} MB)")
    return 0


WEB = Command(
    "write the page that finds poses in the browser, with its models and runtime",
    ("--out site", "--out site --models student.safetensors student8.onnx"),
    "distilpose.serving.web:WebOptions",
    _web,
)
