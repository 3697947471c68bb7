"""The browser page for any static host."""

from __future__ import annotations

from typing import TYPE_CHECKING

from distilpose.cli.command import DEFAULT_MODEL, Command

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace


def _web_arguments(parser: ArgumentParser) -> None:
    add = parser.add_argument
    add("--out", metavar="DIR", help="folder to write, for any static host (default: where serve takes its page from)")
    add(
        "--models",
        nargs="+",
        default=[DEFAULT_MODEL],
        metavar="NAME|FILE",
        help="students to choose from: names, checkpoints, or .onnx files of distilpose export; the first is loaded "
        f"when the page opens (default: {DEFAULT_MODEL})",
    )
    add("--runtime", metavar="DIR", help="folder of the npm package onnxruntime-web (default: where make web puts it)")


def _web(args: Namespace) -> int:
    from distilpose.serving.web import build_page

    report = build_page(args.out, models=args.models, runtime=args.runtime)
    print(f"{', '.join(path.stem for path in report.models)} -> {report.folder} ({report.megabytes:.1f} MB)")
    return 0


WEB = Command(
    "write the page that finds poses in the browser, with its model and runtime",
    ("--out site", "--out site --models student.safetensors student8.onnx"),
    _web_arguments,
    _web,
)
