"""Models as files that run without torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from distilpose.cli.command import Command

if TYPE_CHECKING:
    from distilpose.export.options import ExportOptions


def _export(options: ExportOptions) -> int:
    from distilpose.export.export import export_file

    report = export_file(options)
    print(f"{report.description.model} -> {' and '.join(map(str, report.files))} ({report.megabytes:.1f} MB)")
    if not report.errors:
        print("not compared with torch: Core ML files run on macOS alone")
        return 0
    worst = report.largest_error
    print(
        f"largest error against torch at batches {', '.join(map(str, report.batches))}: {worst.largest:.1e} of the "
        f"largest {worst.output} (batch {worst.batch})"
    )
    return 0


EXPORT = Command(
    "write an ONNX, OpenVINO, LiteRT or Core ML file that runs without torch, compared with torch",
    (
        "--model student.safetensors --out student.onnx",
        "--int8 --calibration data/person_keypoints.json --out student.xml",
        "--fp16 --uint8-input --out web/student.onnx",
    ),
    "distilpose.export.options:ExportOptions",
    _export,
)
