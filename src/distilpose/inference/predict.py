"""Files in, files out: ``distilpose predict``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from distilpose.backends.device import AUTO
from distilpose.detection.detectors import DEFAULT_DETECTOR
from distilpose.errors import ConfigError, InputError
from distilpose.files import OutputLock
from distilpose.formats.writers import PREDICTIONS_NAME
from distilpose.inference.interruption import Interruption
from distilpose.inference.options import OutputOptions, PredictOptions, VideoOptions
from distilpose.inference.people import (
    People,
    open_detector,
    people_by_detector,
    people_by_file,
    people_by_hand,
    read_boxes,
)
from distilpose.inference.predictor import PosePredictor
from distilpose.inference.progress import Meter
from distilpose.inference.run import Run, SourceCount
from distilpose.inference.sources import CAMERA_PREFIX, Sources, find_sources
from distilpose.video.reader import import_av
from distilpose.visualization.anonymize import check_has_face
from distilpose.visualization.draw import style_named


class PredictReport(NamedTuple):
    """What `predict_files` did.

    Attributes:
        predictions: the file written.
        num_images: images predicted, with people or without.
        num_frames: frames of videos and cameras predicted.
        num_people: people in images.
        failures: a line for each image, video or frame left out: its name and why. A command that has any exits
            with 1.
        num_empty: images in which nobody was found.
        num_undrawn: people too unsure to be drawn.
        num_others: files in folders that were left out for their suffix.
        counts: people of the first thousand images, and of every video and camera.
        num_tracks: people in videos and cameras, each once per video.
    """

    predictions: Path
    num_images: int
    num_frames: int
    num_people: int
    failures: tuple[str, ...]
    num_tracks: int = 0
    num_empty: int = 0
    num_undrawn: int = 0
    num_others: int = 0
    counts: Mapping[Path, SourceCount] = MappingProxyType({})


class PredictInterruptedError(KeyboardInterrupt):
    """The user stopped it; all files hold what was predicted until then.

    Attributes:
        report: of what was done.
    """

    def __init__(self, report: PredictReport) -> None:
        super().__init__("interrupted")
        self.report = report


def predict_files(options: PredictOptions, *, progress: bool = False) -> PredictReport:
    """Predict the poses in images, videos and what a camera sees, and write them to ``options.out``.

    ``predictions.json`` is a COCO results list, one entry per person: ``image_id``, ``category_id``, ``keypoints``
    (x, y, score in [0, 1] each), ``score`` (of the pose), and besides ``image`` (path), ``box_xyxy``, ``box_score``,
    ``raw_score`` (K) as the model gave it and ``sigma`` (K, 2) in image pixels; the last two are null from a model
    that has none. ``image_id`` is null where `boxes_file.match_image_ids` finds none. People in videos have also
    ``frame`` (number from 0), ``time`` (seconds) and ``track_id``.

    A drawn image or video is called after its source, with the folder's name in front where two share a name. People
    with a weak pose and box are not drawn (`annotators.is_drawn`). An unreadable source or frame does not stop the
    rest. After an interrupt (Ctrl-C) or on a full disk all files hold what was predicted until then.

    Args:
        options: what to predict and what to write. In Python, ``model`` is whatever `PosePredictor` takes and
            ``detector`` may be an object; either it or ``boxes`` is to be given.
        progress: show bars on the standard error stream.

    Raises:
        InputError: no source, an unusable boxes or annotation file, ``out`` holds sources or is in use by another
            process, or the disk is full.
        ConfigError: not exactly one of ``boxes`` and ``detector``, or an option is out of range or does not fit.
        CheckpointError: the model file is unusable.
        PredictInterruptedError: after an interrupt, when all files are closed. It ends a camera without an error.
    """
    video, output = options.video, options.output
    found = find_sources(options.sources, exclude=Path(options.out))
    _check_options(found, video, output)
    if video.detect_every is None and (options.boxes is not None or options.detector == "whole-image"):
        video = replace(video, detect_every=1)  # boxes that cost nothing are taken in every frame
    style = None if output.style is None else style_named(output.style)
    predictor = PosePredictor(
        options.model,
        flip_test=options.flip_test,
        device=None if options.device == AUTO else options.device,
        batch_size=options.batch_size,
        threads=options.threads,
    )
    if output.anonymize == "face":
        check_has_face(predictor.skeleton)
    people = _people(found, options, predictor)
    folder, drawings = Path(options.out), _drawing_paths(found, Path(options.out))
    files = [Path(file) for file in (options.boxes, options.annotations) if file is not None and len(str(file)) < 4096]
    inputs = [*found.images, *found.videos, *files]
    _prepare_folder(folder, inputs, [*found.images, *found.videos] if output.images else [])
    run = Run(predictor, people, folder, video, output, style, drawings, options.max_people)
    try:
        with (
            OutputLock(folder, "distilpose predict"),
            Interruption() as interruption,
            Meter(progress, interruption) as meter,
        ):
            run.predict(found, interruption, meter)
    except OSError as error:
        reason = error.strerror or error
        raise InputError(f"cannot write to {folder} ({reason}): what was written before can be read") from error
    report = PredictReport(
        folder / PREDICTIONS_NAME,
        run.num_images,
        run.num_frames,
        run.num_people,
        tuple(run.failures),
        run.num_tracks,
        run.num_empty,
        run.num_undrawn,
        found.num_others,
        run.counts,
    )
    if run.interrupted:
        raise PredictInterruptedError(report)
    return report


def _check_options(found: Sources, video: VideoOptions, output: OutputOptions) -> None:
    if found.videos or found.cameras:
        import_av()
    if len(found.cameras) > 1:
        raise ConfigError(f"expected one camera, got {len(found.cameras)}: watch the others in runs of their own")
    if found.cameras and not found.videos and (video.every != 1 or video.start != 0):
        raise ConfigError("every and start choose frames of videos, got a camera, of which the newest frame is taken")
    if output.preview is not None and not found.cameras:
        raise ConfigError("preview shows what a camera sees, got no camera among the sources")


def _people(found: Sources, options: PredictOptions, predictor: PosePredictor) -> People:
    annotations = None if options.annotations is None else Path(options.annotations)
    if options.boxes is None:
        detector = open_detector(
            DEFAULT_DETECTOR if options.detector is None else options.detector,
            predictor,
            threshold=options.detection_threshold,
            threads=options.threads,
            tile=options.tile,
        )
        return people_by_detector(detector, found.images, annotations)
    if options.detector is not None:
        raise ConfigError("expected either boxes or a detector, got both")
    if (typed := read_boxes(str(options.boxes))) is not None:
        return people_by_hand(typed, found.images, annotations)
    if found.cameras:
        raise ConfigError("a boxes file knows nothing of a camera: give a detector in place of it")
    least = float("-inf") if options.detection_threshold is None else options.detection_threshold
    return people_by_file(Path(options.boxes), found.images, found.videos, annotations, least)


def _prepare_folder(out: Path, inputs: Sequence[Path], sources: Sequence[Path]) -> None:
    """Refuse a folder where results would take the place of something else; ``sources`` get drawn namesakes."""
    if (out / PREDICTIONS_NAME).resolve() in {path.resolve() for path in inputs}:
        raise InputError(f"{out} would get a file in place of the input {PREDICTIONS_NAME}: choose another folder")
    if out.resolve() in {path.resolve().parent for path in sources}:
        raise InputError(f"{out} holds sources, whose files drawn ones could replace: choose another folder")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{out} cannot be made a folder ({error.strerror}): choose another") from error


def _drawing_paths(found: Sources, out: Path) -> dict[Path, Path]:
    """One name per source; names may not differ in case only, which some file systems ignore."""
    cameras = {Path(f"{CAMERA_PREFIX}{number}"): f"webcam_{number}" for number in found.cameras}
    paths = [*found.images, *found.videos, *cameras]
    videos = {*found.videos, *cameras}
    stems = Counter((cameras.get(path) or path.stem).lower() for path in paths)
    used: set[str] = set()
    drawings = {}
    for path in paths:
        stem = cameras.get(path) or path.stem
        base = stem if stems[stem.lower()] == 1 else f"{path.resolve().parent.name}_{stem}"
        name, number = base, 1
        while name.lower() in used:
            number += 1
            name = f"{base}_{number}"
        used.add(name.lower())
        drawings[path] = out / f"{name}{'.mp4' if path in videos else '.jpg'}"
    return drawings
