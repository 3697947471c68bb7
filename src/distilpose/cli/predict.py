"""Poses in pictures, films and what a camera sees."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from distilpose.cli.command import DEFAULT_MODEL, FLIP_TEST_HELP, FLIP_TESTS, MODEL_HELP, Command

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace

    from distilpose.inference.predict import PredictReport

SOURCE_HELP = "pictures, films, folders, patterns such as 'photos/**/*.jpg', file: addresses, webcam:0"
DETECTOR_HELP = (
    "where boxes come from without --boxes. hf:FOLDER or hf:ID: a detector of the transformers library; onnx:FILE; "
    "hog: OpenCV's, which finds whole upright people only; whole-image: one person fills the picture. Default: a small "
    "hf: model if it is there or can be downloaded, else hog"
)
DETECT_EVERY_HELP = (
    "films and cameras: run the detector in each n-th frame; in between, people are where their pose leads (default: 1)"
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
    add("--max-people", type=int, metavar="N", help="of each picture, those with the best boxes")
    add("--flip-test", choices=FLIP_TESTS, default="off", help=FLIP_TEST_HELP)
    add("--batch-size", type=int, default=8, metavar="N", help="crops per run of the model (default: 8)")
    add("--every", type=int, default=1, metavar="N", help="films: take each n-th frame")
    add("--start", type=_seconds, default=0.0, metavar="TIME", help="films: first second, or [HOURS:]MINUTES:SECONDS")
    add("--end", type=_seconds, metavar="TIME", help="films and cameras: where to stop")
    add("--detect-every", type=int, default=1, metavar="N", help=DETECT_EVERY_HELP)
    add("--no-smoothing", action="store_true", help="films: write poses as the model gives them, frame by frame")
    add("--style", choices=tuple(STYLES), help="how people are drawn (default: sides on pictures, people on films)")
    add("--anonymise", action="store_true", help="blur faces of the people found in all that is drawn")
    add("--keypoint-threshold", type=float, default=0.0, metavar="S", help="do not draw keypoints of a lower score")
    add("--no-pictures", action="store_true", help="draw neither pictures nor films")
    add("--save-crops", action="store_true", help="write each person cut out of the picture, in crops/")
    add("--json-lines", action="store_true", help="write poses.jsonl: a line per picture or frame")
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
    from distilpose.inference.options import FilmOptions, OutputOptions
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
            film=FilmOptions(
                every=args.every,
                start=args.start,
                end=args.end,
                detect_every=args.detect_every,
                smooth=not args.no_smoothing,
            ),
            output=OutputOptions(
                pictures=not args.no_pictures,
                style=args.style,
                anonymise=args.anonymise,
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
    "find poses in pictures, films and what a camera sees; writes predictions.json, drawn pictures and films",
    (
        "photo.jpg",
        "film.mp4 --detect-every 5 --start 1:30 --end 2:00",
        "webcam:0 --detect-every 10 --end 60",
        "photos clips --detector onnx:detector.onnx --style labels --json-lines",
        "val2017 --boxes detections.json --annotations val2017.json --out out",
    ),
    _predict_arguments,
    _predict,
)
