"""Poses in images, videos and what a camera sees."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from distilpose.cli.command import Command
from distilpose.errors import printable

if TYPE_CHECKING:
    from distilpose.inference.options import PredictOptions
    from distilpose.inference.run import PredictReport

LISTED = 20  # images whose people are told one by one


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
    for path, count in report.counts.items():
        if count.frames is not None:
            print(printable(f"{path}: {_number(count.frames, 'frame')}, {_number(count.people, 'person')} followed"))
        elif report.num_images <= LISTED:
            unsure = f", {count.undrawn} too unsure to be drawn" if count.undrawn and options.output.images else ""
            print(printable(f"{path}: {_number(count.people, 'person')}{unsure}"))
    done = []
    if report.num_images or not report.num_frames:
        done.append(f"{_number(report.num_images, 'image')} with {_number(report.num_people, 'person')}")
    if report.num_frames:
        done.append(f"{_number(report.num_frames, 'frame')} with {_number(report.num_tracks, 'track')}")
    done.append(f"{len(report.failures)} failed")
    print(printable(f"{', '.join(done)} -> {report.predictions}"))
    _hint(report, options)


def _hint(report: PredictReport, options: PredictOptions) -> None:
    """What a user may want to know or to try."""
    if report.num_empty:
        where = f"{report.num_empty} of {_number(report.num_images, 'image')}"
        if options.boxes is None:
            print(
                f"nobody was found in {where}: try --detection-threshold 0.2, --tile 640 for small people, --detector "
                "whole-image where one person fills the image, or --boxes X1,Y1,X2,Y2",
                file=sys.stderr,
            )
        else:
            told = f"{options.boxes} has no box for {where}: if it should, check the names and ids of the images in it"
            print(printable(told), file=sys.stderr)
    if report.num_undrawn and options.output.images and (report.num_images > LISTED or report.num_frames):
        print(f"too unsure to be drawn: {_number(report.num_undrawn, 'pose')}", file=sys.stderr)
    if report.num_others:
        print(f"left out, as neither images nor videos: {_number(report.num_others, 'file')}", file=sys.stderr)
    if options.output.anonymize != "none" and options.output.images:
        from distilpose.visualization.anonymize import anonymized_note

        print(anonymized_note(options.output.anonymize, report.num_people + report.num_tracks), file=sys.stderr)


def _number(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {'people' if noun == 'person' else noun + 's'}"


PREDICT = Command(
    "find poses in images, videos and what a camera sees; writes predictions.json, drawn images and videos",
    (
        "photo.jpg",
        "video.mp4 --detect-every 5 --start 1:30 --end 2:00",
        "webcam:0 --detect-every 10 --end 60",
        "photos clips --detector onnx:detector.onnx --style labels --format jsonl csv",
        "val2017 --boxes detections.json --annotations val2017.json --out out",
    ),
    "distilpose.inference.options:PredictOptions",
    _predict,
)
