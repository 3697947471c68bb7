"""Files in, files out: ``distilpose predict``."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import replace
from itertools import chain, count
from pathlib import Path

from distilpose.backends.device import AUTO
from distilpose.detection.detectors import DEFAULT_DETECTOR
from distilpose.errors import ConfigError, InputError, require_package
from distilpose.files import OutputLock, resolved, short_stem
from distilpose.formats.writers import WRITERS
from distilpose.inference.interruption import Interruption
from distilpose.inference.options import PredictOptions
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
from distilpose.inference.run import CROPS_NAME, PredictReport, Run
from distilpose.inference.sources import CAMERA_PREFIX, STDIN, Sources, find_sources
from distilpose.visualization.anonymize import check_has_face


class PredictInterruptedError(KeyboardInterrupt):
    """The user stopped it; all files hold what was predicted until then, and ``report`` says what was done."""

    def __init__(self, report: PredictReport) -> None:
        super().__init__("interrupted")
        self.report = report


def predict_files(options: PredictOptions, *, progress: bool = False) -> PredictReport:
    """Predict the poses in images, videos and what a camera sees, and write them to ``options.out``.

    ``predictions.json`` is a COCO results list, one entry per person: ``image_id``, ``category_id``, ``keypoints``
    (x, y, score in [0, 1] each), ``score`` (of the pose), and besides ``image`` (path), ``box_xyxy``, ``box_score``,
    ``raw_score`` (K) as the model gave it and ``sigma`` (K, 2) in image pixels; the last two are null from a model
    that has none. ``image_id`` is that of `match_image_ids`, the next free number for a frame of a video. People in
    videos have also ``frame`` (number from 0), ``time`` (seconds) and ``track_id``.

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
    out, output = Path(options.out), options.output
    found = find_sources(options.sources, exclude=out)
    _check_options(found, options)
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
    if options.boxes is not None or options.detector == "whole-image":
        options = replace(options, video=replace(options.video, detect_every=options.video.detect_every or 1))
    if options.detector == "whole-image":
        options = replace(options, max_people=1)  # not also the one who was followed
    _prepare_folder(found, options)
    try:
        with (
            OutputLock(out, "distilpose predict"),
            Interruption() as interruption,
            Meter(progress, interruption) as meter,
        ):
            run = Run(options, predictor, people, _drawing_paths(found, out), interruption, meter)
            report = run.predict(found)
    except OSError as error:
        reason = error.strerror or error
        raise InputError(f"cannot write to {out} ({reason}): what was written before can be read") from error
    if run.interrupted:
        raise PredictInterruptedError(report)
    return report


def _check_options(found: Sources, options: PredictOptions) -> None:
    if found.videos or found.cameras:
        require_package("av", "reading videos")
    if len(found.cameras) > 1:
        raise ConfigError(f"expected one camera, got {len(found.cameras)}: watch the others in runs of their own")
    if found.cameras and not found.videos and (options.video.every != 1 or options.video.start != 0):
        raise ConfigError("every and start choose frames of videos, got a camera, of which the newest frame is taken")
    if options.output.preview is not None and not found.cameras:
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


def _prepare_folder(found: Sources, options: PredictOptions) -> None:
    """Make the folder; refuse one where results or drawn namesakes would take the place of an input.

    Names of which none exists are refused too: an empty result would replace that of an earlier run.
    """
    named = (*found.images, *found.videos)
    if named and not found.cameras and not any(path == STDIN or os.path.lexists(path) for path in named):
        raise InputError(f"{named[0]} does not exist: expected an image, a video or a folder of them")
    out, sources = Path(options.out), {resolved(path) for path in named}
    files = [file for file in (options.boxes, options.annotations) if file is not None and len(str(file)) < 4096]
    inputs = sources | {resolved(file) for file in files}
    folders = {path.parent for path in inputs}
    names = [WRITERS[name].name for name in options.output.formats] + [CROPS_NAME] * options.output.crops
    for name in names:
        target = resolved(out / name)  # of a file, or of a folder of files
        if target in inputs or any(target in (folder, *folder.parents) for folder in folders):
            raise InputError(f"{out} would get results in place of the input {name}: choose another folder")
    if options.output.images and resolved(out) in {path.parent for path in sources}:
        raise InputError(f"{out} holds sources, whose files drawn ones could replace: choose another folder")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{out} cannot be made a folder ({error.strerror}): choose another") from error


def _drawing_paths(found: Sources, out: Path) -> dict[Path, Path]:
    """One name per source; names may not differ in case only, which some file systems ignore."""
    named = [(path, "stdin" if path == STDIN else path.stem, ".jpg") for path in found.images] + [
        (path, path.stem, ".mp4") for path in found.videos
    ]
    named += [(Path(f"{CAMERA_PREFIX}{number}"), f"webcam_{number}", ".mp4") for number in found.cameras]
    stems = Counter(stem.lower() for _, stem, _ in named)
    used: set[str] = set()
    drawings = {}
    for path, stem, suffix in named:
        base = short_stem(stem if stems[stem.lower()] == 1 else f"{resolved(path).parent.name}_{stem}")
        names = chain([base], (f"{base}_{number}" for number in count(2)))
        name = next(name for name in names if name.lower() not in used)
        used.add(name.lower())
        drawings[path] = out / f"{name}{suffix}"
    return drawings
