"""Poses in images, videos and what a camera sees."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from distilpose.cli.command import Command, printable

if TYPE_CHECKING:
    from distilpose.inference.options import PredictOptions
    from distilpose.inference.predict import PredictReport


def _predict(options: PredictOptions) -> int:
    from distilpose.inference.predict import PredictInterruptedError, predict_files

    try:
        report = predict_files(options, progress=True)
    except PredictInterruptedError as stop:
        _tell(stop.report, options)
        raise
    _tell(report, options)
    return 1 if report.failures else 0


def _tell(report: PredictReport, options: PredictOptions) -> None:
    for failure in report.failures:
        print(printable(f"failed: {failure}"), file=sys.stderr)
    images = f"{report.num_images} images with {report.num_people} people"
    done = [images] if report.num_images or not report.num_frames else []
    done += [f"{report.num_frames} frames with {report.num_tracks} tracks"] if report.num_frames else []
    done += [f"{len(report.failures)} failed"]
    print(printable(f"{', '.join(done)} -> {options.out}"))
    if options.output.anonymize != "none" and options.output.images:
        from distilpose.visualization.anonymize import anonymized_note

        print(anonymized_note(options.output.anonymize, report.num_people + report.num_tracks))


PREDICT = Command(
    "find poses in images, videos and what a camera sees; writes predictions.json, drawn images and videos",
    (
        "photo.jpg",
        "video.mp4 --detect-every 5 --start 1:30 --end 2:00",
        "webcam:0 --detect-every 10 --end 60",
        "photos clips --detector onnx:detector.onnx --style labels --format csv,openpose",
        "val2017 --boxes detections.json --annotations val2017.json --out out",
    ),
    "distilpose.inference.options:PredictOptions",
    _predict,
)
