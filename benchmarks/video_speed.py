"""A video to a drawn video: frames a second of the whole, and where the time of a frame goes."""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from rich.console import Console
from rich.table import Table

from distilpose.backends.base import InferenceBackend
from distilpose.backends.loading import DEFAULT_MODEL, as_backend
from distilpose.benchmark.measure import highest_peak
from distilpose.detection.detectors import create_detector
from distilpose.errors import DistilPoseError
from distilpose.export.export import SUFFIXES, export_model
from distilpose.inference.interruption import Interruption
from distilpose.inference.options import OutputOptions, PredictOptions, VideoOptions
from distilpose.inference.people import people_by_detector
from distilpose.inference.predict import predict_files
from distilpose.inference.predictor import PosePredictor
from distilpose.inference.result import PoseResult
from distilpose.types import ImageArray
from distilpose.video.pipeline import watch_video
from distilpose.video.reader import VideoReader
from distilpose.video.smoothing import smooth_zero_lag
from distilpose.video.tracking import PoseTracker
from distilpose.video.writer import VideoWriter
from distilpose.visualization.annotators import Annotator
from distilpose.visualization.draw import STYLES
from tracking_and_smoothing import measure_smoothing_of, smoothing_table

T = TypeVar("T")

STAGE_FRAMES = 150  # from the middle of the video, on which each stage is timed alone
DETECT_EVERY = 5
STAGES = ("decoding", "detection", "crops and network", "tracking and smoothing", "drawing", "encoding")


class VideoSpeed(NamedTuple):
    """One runtime on one video.

    Attributes:
        runtime: its name.
        people: per frame, on the frames of the stages.
        milliseconds: of one frame, each stage alone, one after the other.
        frames_per_second: the whole video to drawn video and ``predictions.json``: with the detector in every frame, in
            each fifth, and, if there is anybody, with its boxes from a file.
    """

    runtime: str
    people: float
    milliseconds: dict[str, float]
    frames_per_second: dict[str, float]


def measure_video(video: Path, detector: str, model: str | Path, say: Callable[[str], None]) -> list[VideoSpeed]:
    """Measure a video with torch and, exported, in OpenVINO.

    Args:
        video: file.
        detector: name that `create_detector` takes.
        model: what `load_model` takes.
        say: is told what is being measured.
    """
    speeds = []
    with tempfile.TemporaryDirectory() as folder:
        exported = Path(folder) / f"model{SUFFIXES['openvino']}"
        export_model(model, exported, format="openvino")
        boxes = Path(folder) / "boxes"
        predict_files(PredictOptions([video], boxes, model=as_backend(exported, None), detector=detector,
                      video=VideoOptions(smooth=False), output=OutputOptions(images=False)))  # fmt: skip
        for runtime, source in (("torch", model), ("OpenVINO", exported)):
            backend = as_backend(source, None)
            say(f"{video.name} in {runtime}")
            people, milliseconds = _stages(video, detector, backend, Path(folder))
            rates = _whole(video, detector, backend, boxes / "predictions.json", Path(folder) / "out")
            speeds.append(VideoSpeed(runtime, people, milliseconds, rates))
    return speeds


def tracked_poses(video: Path, detector: str, model: str | Path) -> list[tuple[PoseResult, float]]:
    """The people of every frame with track ids, not smoothed, and its time in seconds."""
    predictor, poses = PosePredictor(model), []
    with VideoReader(video) as reader, Interruption() as interruption:
        finder = people_by_detector(create_detector(detector), [], None).find
        options = VideoOptions(smooth=False, detect_every=DETECT_EVERY)
        for seen in watch_video(reader, predictor, finder, options, keep_images=False, interruption=interruption):
            if seen.result is not None:
                poses.append((seen.result, seen.place.time or 0.0))
    return poses


def _whole(video: Path, detector: str, backend: InferenceBackend, boxes: Path, out: Path) -> dict[str, float]:
    ways: dict[str, tuple[VideoOptions, dict[str, Any]]] = {
        "detector in every frame": (VideoOptions(), {"detector": detector}),
        f"in each {DETECT_EVERY}th": (VideoOptions(detect_every=DETECT_EVERY), {"detector": detector}),
    }
    if json.loads(boxes.read_text()):
        ways["boxes from a file"] = (VideoOptions(), {"boxes": boxes})
    rates = {}
    for name, (options, source) in ways.items():
        report, seconds = _timed(
            lambda options=options, source=source: predict_files(
                PredictOptions(  # type: ignore[misc]
                    [video], out, model=backend, video=options, **source
                )
            )
        )
        rates[name] = report.num_frames / seconds
    return rates


def _stages(video: Path, detector_name: str, backend: InferenceBackend, folder: Path) -> tuple[float, dict[str, float]]:
    """People per frame, and milliseconds of a frame in each stage alone."""
    with VideoReader(video) as reader:
        middle = max(0.0, (reader.duration or 0.0) / 2 - STAGE_FRAMES / reader.rate / 2)
    with VideoReader(video, start=middle) as reader, closing(iter(reader.frames())) as frames:  # type: ignore[type-var]
        next(frames)
        taken, decoding = _timed(lambda: [frame for frame, _ in zip(frames, range(STAGE_FRAMES), strict=False)])
        rate, size_hw = reader.rate, reader.size_hw
    good = [(frame_id, image) for frame_id, image in taken if not isinstance(image, DistilPoseError)]
    images, times = [image for _, image in good], [frame_id.time or 0.0 for frame_id, _ in good]
    detector = create_detector(detector_name)
    predictor = PosePredictor(backend)
    detector(images[:1])
    found, detection = _timed(lambda: detector(images))
    predictor(images[0], [[0, 0, 100, 100]])
    results, poses = _timed(lambda: [predictor(image, *people) for image, people in zip(images, found, strict=True)])
    smooth, tracking = _timed(lambda: _over_time(results, times))
    annotator = Annotator(STYLES["people"])
    drawn, drawing = _timed(
        lambda: [annotator.annotate(image, result) for image, result in zip(images, smooth, strict=True)]
    )
    _, encoding = _timed(lambda: _encode(folder / "video.mp4", drawn, times, size_hw, rate))
    seconds = (decoding, detection, poses, tracking, drawing, encoding)
    milliseconds = {name: 1000 * of_all / len(images) for name, of_all in zip(STAGES, seconds, strict=True)}
    return float(np.mean([len(result) for result in results])), milliseconds


def _over_time(results: Sequence[PoseResult], times: Sequence[float]) -> list[PoseResult]:
    tracker = PoseTracker()
    tracked = ((None, tracker.update(result, at), at) for result, at in zip(results, times, strict=True))
    return [result for _, result in smooth_zero_lag(tracked) if result is not None]


def _encode(
    path: Path, drawn: Iterable[ImageArray], times: Sequence[float], size_hw: tuple[int, int], rate: float
) -> None:
    with VideoWriter(path, size_hw, rate=rate, start=times[0]) as writer:
        for image, at in zip(drawn, times, strict=True):
            writer.write(image, at)


def _timed(work: Callable[[], T]) -> tuple[T, float]:
    start = time.perf_counter()
    result = work()
    return result, time.perf_counter() - start


def video_table(speeds: Sequence[VideoSpeed], video: Path, detector: str, peak: float) -> Table:
    """Milliseconds of a frame in each stage alone, and frames per second of the whole; ``peak`` in GFLOP/s."""
    title = (
        f"{video.name}, detector {detector}: ms of a frame, each stage alone; then the whole. Peak {peak:.0f} GFLOP/s"
    )
    table = Table(title=title)
    table.add_column("what")
    for speed in speeds:
        table.add_column(speed.runtime, justify="right", no_wrap=True)
    for stage in STAGES:
        table.add_row(stage, *(f"{speed.milliseconds[stage]:.1f}" for speed in speeds))
    table.add_row("sum", *(f"{sum(speed.milliseconds.values()):.1f}" for speed in speeds))
    table.add_row("people of a frame", *(f"{speed.people:.2f}" for speed in speeds), end_section=True)
    for way in speeds[0].frames_per_second:
        table.add_row(f"frames/s, {way}", *(f"{speed.frames_per_second[way]:.1f}" for speed in speeds))
    if "boxes from a file" not in speeds[0].frames_per_second:  # nobody was found
        return table
    alone = [sum(speed.milliseconds.values()) - speed.milliseconds["detection"] for speed in speeds]
    whole = [1000 / speed.frames_per_second["boxes from a file"] for speed in speeds]
    saved = (f"{100 * (1 - of_all / of_each):.0f} %" for of_all, of_each in zip(whole, alone, strict=True))
    table.add_row("saved by stages side by side, without detection", *saved)
    return table


def main() -> None:
    """Show speed from video to drawn video, and how much steadier smoothing makes its poses."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("videos", nargs="+", type=Path, help="video files")
    parser.add_argument("--model", default=DEFAULT_MODEL, help="trained model")
    parser.add_argument("--detector", default="auto", help="of people")
    args = parser.parse_args()
    console, progress = Console(), Console(stderr=True)
    steadiness = []
    for video in args.videos:
        found = measure_video(video, args.detector, args.model, progress.print)
        console.print(video_table(found, video, args.detector, highest_peak()))
        steadiness += measure_smoothing_of(tracked_poses(video, args.detector, args.model), video.name)
    console.print(smoothing_table(steadiness))


if __name__ == "__main__":
    main()
