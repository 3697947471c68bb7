"""Models as files that run without torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from distilpose.cli.command import DEFAULT_MODEL, MODEL_HELP, Command

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace


def _export_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--model", default=DEFAULT_MODEL, metavar="NAME|FILE", help=MODEL_HELP)
    parser.add_argument("--format", required=True, choices=("onnx", "openvino"), help="of the file")
    parser.add_argument("--out", required=True, metavar="FILE", help="ending in .onnx, or .xml for openvino")
    parser.add_argument("--fp16", action="store_true", help="store weights in 16 bits: half the size, equally fast")
    parser.add_argument("--int8", action="store_true", help="compute in 8 bits: a quarter of the size, twice as fast")
    parser.add_argument(
        "--calibration",
        metavar="FILE|DIR",
        help="for --int8: COCO keypoint json of people like those to come, or a folder of images of one person each",
    )
    parser.add_argument("--images", metavar="DIR", help="images of a --calibration FILE (default: images/ beside it)")
    parser.add_argument("--uint8-input", action="store_true", help="read uint8 pixels and normalize inside the file")


def _export(args: Namespace) -> int:
    from distilpose.export.export import export_file

    report = export_file(
        args.model,
        args.out,
        format=args.format,
        fp16=args.fp16,
        int8=args.int8,
        calibration=args.calibration,
        images=args.images,
        uint8_input=args.uint8_input,
    )
    worst = report.largest_error
    print(f"{report.description.model} -> {' and '.join(map(str, report.files))} ({report.megabytes:.1f} MB)")
    print(
        f"largest error against torch at batches {', '.join(map(str, report.batches))}: {worst.largest:.1e} of the "
        f"largest {worst.output} (batch {worst.batch})"
    )
    return 0


EXPORT = Command(
    "write an ONNX or OpenVINO file that runs without torch, compared with torch",
    (
        "--model student.safetensors --format onnx --out student.onnx",
        "--format openvino --int8 --calibration data/person_keypoints.json --out student.xml",
        "--format onnx --fp16 --uint8-input --out web/student.onnx",
    ),
    _export_arguments,
    _export,
)
