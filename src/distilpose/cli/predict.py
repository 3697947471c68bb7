"""Poses in images, videos and what a camera sees."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from distilpose.cli.command import DEFAULT_MODEL, FLIP_TEST_HELP, FLIP_TESTS, MODEL_HELP, Command

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace

    from distilpose.inference.predict import PredictReport

SOURCE_HELP = "images, videos, folders, patterns such as 'photos/**/*.jpg', file: addresses, webcam:0"
DETECTOR_HELP = (
    "where boxes come from without --boxes. hf:FOLDER or hf:ID: a detector of the transformers library; onnx:FILE; "
    "hog: OpenCV's, which finds whole upright people only; whole-image: one person fills the image. Default: a small "
    "hf: model if it is there or can be downloaded, else hog"
)
DETECT_EVERY_HELP = (
    "videos and cameras: run the detector in each n-th frame; between detections, boxes follow the tracked poses; "
    "use it when detection is the bottleneck (default: 1)"
)


def _predict_arguments(parser: ArgumentParser) -> None:
    from distilpose.visualization.draw import STYLES

    add = parser.add_argument
    add("sources", nargs="+", metavar="SOURCE", help=SOURCE_HELP)
    add("--out", default="poses", metavar="DIR", help="folder of the results (default: poses)")
    add("--model", default=DEFAULT_MODEL, metavar="NAME|FILE", help=MODEL_HELP)
    add("--boxes", metavar="FILE", help="person boxes: COCO detections or annotations (json)")
    add("--annotations", metavar="FILE", help="COCO json whose images tell which id each file has")
    add("--detector", metavar="NAME", help=DETECTOR_HELP)
    add("--detection-threshold", type=float, metavar="S", help="leave out boxes with a lower score")
    add("--max-people", type=int, metavar="N", help="of each image, those with the best boxes")
    add("--flip-test", choices=FLIP_TESTS, default="off", help=FLIP_TEST_HELP)
    add("--batch-size", type=int, default=8, metavar="N", help="crops per run of the model (default: 8)")
    add("--every", type=int, default=1, metavar="N", help="videos: take each n-th frame")
    add("--start", type=_seconds, default=0.0, metavar="TIME", help="videos: first second, or [HOURS:]MINUTES:SECONDS")
    add("--end", type=_seconds, metavar="TIME", help="videos and cameras: where to stop")
    add("--detect-every", type=int, default=1, metavar="N", help=DETECT_EVERY_HELP)
    add("--no-smoothing", action="store_true", help="videos: write poses as the model gives them, frame by frame")
    add("--style", choices=tuple(STYLES), help="how people are drawn (default: sides on images, people on videos)")
    add("--anonymize", action="store_true", help="blur faces of the people found in all that is drawn")
    add("--keypoint-threshold", type=float, default=0.0, metavar="S", help="do not draw keypoints of a lower score")
    add("--no-images", action="store_true", help="draw neither images nor videos")
    add("--save-crops", action="store_true", help="write each person cut out of the image, in crops/")
    add("--json-lines", action="store_true", help="write poses.jsonl: a line per image or frame")
    add("--preview", type=int, metavar="PORT", help="camera: show it on a page of this machine; 0: any free port")
    add("--parquet", action="store_true", help="write poses.parquet: a row per person")


def _seconds(text: str) -> float:
    import argparse

    try:
        parts = [float(part) for part in str(text).split(":")]
    except ValueError:
        parts = []
    if not 1 <= len(parts) <= 3 or any(part < 0 for part in parts):
        raise argparse.ArgumentTypeError(f"expected seconds or [HOURS:]MINUTES:SECONDS, got {text!r}")
    return float(sum(part * 60.0**power for power, part in enumerate(reversed(parts))))


def _predict(args: Namespace) -> int:
    from distilpose.inference.options import OutputOptions, VideoOptions
    from distilpose.inference.predict import PredictInterruptedError, predict_files

    try:
        report = predict_files(
            args.sources,
            args.out,
            model=args.model,
            boxes=args.boxes,
            annotations=args.annotations,
            detector=args.detector if args.boxes or args.detector else "auto",
            detection_threshold=args.detection_threshold,
            max_people=args.max_people,
            flip_test=args.flip_test,
            batch_size=args.batch_size,
            video=VideoOptions(
                every=args.every,
                start=args.start,
                end=args.end,
                detect_every=args.detect_every,
                smooth=not args.no_smoothing,
            ),
            output=OutputOptions(
                images=not args.no_images,
                style=args.style,
                anonymize=args.anonymize,
                keypoint_threshold=args.keypoint_threshold,
                crops=args.save_crops,
                json_lines=args.json_lines,
                parquet=args.parquet,
                preview=args.preview,
            ),
            progress=True,
        )
    except PredictInterruptedError as stop:
        _tell(stop.report, args.out)
        raise
    _tell(report, args.out)
    return 1 if report.failures else 0


def _tell(report: PredictReport, out: str) -> None:
    for failure in report.failures:
        print(f"failed: {failure}", file=sys.stderr)
    done = [f"{report.num_images} images"] if report.num_images or not report.num_frames else []
    done += [f"{report.num_frames} frames"] if report.num_frames else []
    done += [f"{report.num_people} people", f"{len(report.failures)} failed"]
    print(f"{', '.join(done)} -> {out}")


PREDICT = Command(
    "find poses in images, videos and what a camera sees; writes predictions.json, drawn images and videos",
    (
        "photo.jpg",
        "video.mp4 --detect-every 5 --start 1:30 --end 2:00",
        "webcam:0 --detect-every 10 --end 60",
        "photos clips --detector onnx:detector.onnx --style labels --json-lines",
        "val2017 --boxes detections.json --annotations val2017.json --out out",
    ),
    _predict_arguments,
    _predict,
)
