"""Files in, files out: ``distilpose predict``."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from distilpose.draw import DrawStyle, style_named
from distilpose.errors import ConfigError, DistilPoseError, InputError
from distilpose.images import read_image
from distilpose.inference.artist import Brush, FilmArtist, PictureArtist, naming
from distilpose.inference.detectors import Detector, create_detector
from distilpose.inference.film import FilmOptions, Seen, watch_film
from distilpose.inference.interruption import Interruption
from distilpose.inference.live import Webcam, watch_camera
from distilpose.inference.people import Image, People, Place, Shot, locate, people_by_detector, people_by_file
from distilpose.inference.predictor import PosePredictor
from distilpose.inference.preview import Preview
from distilpose.inference.progress import Meter
from distilpose.inference.sinks import (
    JSON_LINES_NAME,
    PARQUET_NAME,
    PREDICTIONS_NAME,
    FrameResult,
    JsonLines,
    JsonList,
    ParquetFolder,
    Sink,
)
from distilpose.inference.sources import CAMERA_PREFIX, Sources, find_sources
from distilpose.inference.stages import map_in_threads, run_ahead
from distilpose.inference.stream import predict_stream
from distilpose.inference.video import VideoReader, import_av
from distilpose.inference.video_writer import VideoWriter
from distilpose.postprocess import FlipTest
from distilpose.results import PoseResult

if TYPE_CHECKING:
    from torch import nn

    from distilpose.runtimes import Runner

logger = logging.getLogger(__name__)

BATCH_SIZE = 8  # on CPUs more is no faster and takes memory
READERS = 2
PICTURES_AHEAD = 4
CROPS_NAME = "crops"
FAILURES_OF_A_FILM = 10  # that are told one by one


@dataclass(frozen=True)
class OutputOptions:
    """What is written beside ``predictions.json``.

    Attributes:
        pictures: drawn pictures and films.
        style: name in `draw.STYLES`; None draws sides on pictures, and people on films.
        anonymise: blur the faces in pictures, films and crops.
        keypoint_threshold: keypoints with a lower score are not drawn.
        crops: each person cut out of the picture, in ``crops/``.
        json_lines: ``poses.jsonl``, a line per picture or frame.
        parquet: ``poses.parquet``, a row per person.
        preview: port of a page on this machine that shows what a camera sees; 0 takes a free one, None shows none.
    """

    pictures: bool = True
    style: str | None = None
    anonymise: bool = False
    keypoint_threshold: float = 0.0
    crops: bool = False
    json_lines: bool = False
    parquet: bool = False
    preview: int | None = None


class PredictReport(NamedTuple):
    """What `predict_files` did.

    Attributes:
        predictions: the file written.
        num_images: pictures predicted, with people or without.
        num_frames: frames of films and cameras predicted.
        num_people: people in all of them, each once per frame.
        failures: a line for each picture, film or frame left out: its name and why. A command that has any exits
            with 1.
    """

    predictions: Path
    num_images: int
    num_frames: int
    num_people: int
    failures: tuple[str, ...]


def predict_files(
    sources: Iterable[str | Path],
    out: str | Path,
    *,
    model: nn.Module | Runner | str | Path,
    boxes: str | Path | None = None,
    annotations: str | Path | None = None,
    detector: str | Detector | None = None,
    detection_threshold: float | None = None,
    max_people: int | None = None,
    flip_test: FlipTest = "off",
    batch_size: int = BATCH_SIZE,
    film: FilmOptions | None = None,
    output: OutputOptions | None = None,
    progress: bool = False,
) -> PredictReport:
    """Predict the poses in pictures, films and what a camera sees, and write them to ``out``.

    ``predictions.json`` is a COCO results list, one entry per person: ``image_id``, ``category_id``, ``keypoints``
    (x, y, score in [0, 1] each), ``score`` (of the pose), and besides ``image`` (path), ``box_xyxy``, ``box_score``,
    ``raw_score`` (K) as the model gave it and ``sigma`` (K, 2) in image pixels; the last two are null from a model
    that has none. ``image_id`` is null where `boxes_file.match_image_ids` finds none. People in films have also
    ``frame`` (number from 0), ``time`` (seconds) and ``track_id``.

    A drawn picture or film is called after its source, with the folder's name in front where two share a name. People
    with a pose score below `artist.DRAWN_POSE_SCORE` are not drawn. An unreadable source or frame does not stop the
    rest. After an interrupt (Ctrl-C) or on a full disk all files hold what was predicted until then.

    Args:
        sources: what `find_sources` takes.
        out: folder, made if missing.
        model: what `PosePredictor` takes.
        boxes: boxes file, see `boxes_file.match_boxes`.
        annotations: COCO file that gives images their ids.
        detector: what `create_detector` takes, or a detector; either this or ``boxes``.
        detection_threshold: boxes with a lower score are left out; None leaves it to the detector.
        max_people: of a picture, those with the best boxes.
        flip_test: see `PosePredictor`.
        batch_size: crops that the model sees at once, of one or several pictures.
        film: how films and cameras are read.
        output: what is written.
        progress: show bars on the standard error stream.

    Raises:
        InputError: no source, an unusable boxes or annotation file, ``out`` would overwrite an input, or the disk is
            full.
        ConfigError: not exactly one of ``boxes`` and ``detector``, or an option is out of range.
        CheckpointError: the model file is unusable.
        KeyboardInterrupt: after an interrupt, when all files are closed.
    """
    film, output = film or FilmOptions(), output or OutputOptions()
    found = find_sources(sources)
    if found.films:
        import_av()
    if max_people is not None and max_people < 1:
        raise ConfigError(f"max_people must be at least 1, got {max_people}")
    if (boxes is None) == (detector is None):
        given = "neither" if boxes is None else "both"
        raise ConfigError(f"expected either a boxes file or a detector (such as whole-image), got {given}")
    annotation_file = None if annotations is None else Path(annotations)
    if detector is not None:
        built = create_detector(detector, threshold=detection_threshold) if isinstance(detector, str) else detector
        people = people_by_detector(built, found.pictures, annotation_file)
    else:
        assert boxes is not None
        if found.cameras:
            raise ConfigError("a boxes file knows nothing of a camera: give a detector in place of it")
        threshold = float("-inf") if detection_threshold is None else detection_threshold
        people = people_by_file(Path(boxes), found.pictures, found.films, annotation_file, threshold)
    style = None if output.style is None else style_named(output.style)
    predictor = PosePredictor(model, flip_test=flip_test, batch_size=batch_size)
    drawings = _drawing_paths(found, Path(out))
    inputs = [*found.pictures, *found.films, *(Path(file) for file in (boxes, annotations) if file is not None)]
    outputs = [Path(out) / PREDICTIONS_NAME, *(drawings.values() if output.pictures else ())]
    _prepare_folder(Path(out), outputs, inputs)
    run = _Run(predictor, people, Path(out), film, output, style, drawings, max_people)
    try:
        with Interruption() as interruption, Meter(progress) as meter:
            run.predict(found, interruption, meter)
    except OSError as error:
        reason = error.strerror or error
        raise InputError(f"cannot write to {out} ({reason}): what was written before can be read") from error
    if interruption.requested:
        raise KeyboardInterrupt
    return PredictReport(
        Path(out) / PREDICTIONS_NAME, run.num_images, run.num_frames, run.num_people, tuple(run.failures)
    )


class _Run:
    """One call of `predict_files`: what it writes to, and what it has counted."""

    def __init__(
        self,
        predictor: PosePredictor,
        people: People,
        out: Path,
        film: FilmOptions,
        output: OutputOptions,
        style: DrawStyle | None,
        drawings: dict[Path, Path],
        max_people: int | None,
    ) -> None:
        self._predictor, self._people, self._out = predictor, people, out
        self._film, self._output, self._style = film, output, style
        self._drawings, self._max_people = drawings, max_people
        self._sinks: list[Sink] = []
        self.num_images = self.num_frames = self.num_people = 0
        self.failures: list[str] = []

    def predict(self, found: Sources, interruption: Interruption, meter: Meter) -> None:
        """Everything; sinks are closed whatever happens."""
        with ExitStack() as stack:
            for sink in self._open_sinks():
                stack.callback(sink.close)
                self._sinks.append(sink)
            if found.pictures:
                self._pictures(found.pictures, interruption, meter)
            for path in found.films:
                if not interruption.requested:
                    self._film_file(path, interruption, meter)
            for number in found.cameras:
                if not interruption.requested:
                    self._camera(number, interruption, meter)

    def _open_sinks(self) -> Iterable[Sink]:
        yield JsonList(self._out / PREDICTIONS_NAME)
        if self._output.json_lines:
            yield JsonLines(self._out / JSON_LINES_NAME)
        if self._output.parquet:
            yield ParquetFolder(self._out / PARQUET_NAME)

    def _brush(self, default: str) -> Brush:
        style = self._style or style_named(default)
        return Brush(style, self._output.anonymise, self._output.keypoint_threshold)

    def _pictures(self, paths: Sequence[Path], interruption: Interruption, meter: Meter) -> None:
        def unread() -> Iterable[Path]:
            for path in paths:
                if interruption.requested:
                    return
                yield path

        output = self._output
        shots = map_in_threads(_read, unread(), threads=READERS, ahead=PICTURES_AHEAD)
        scenes = run_ahead(locate(shots, self._people.find, most=self._max_people), PICTURES_AHEAD)
        stream = predict_stream(self._predictor, scenes, keep_images=output.pictures or output.crops)
        with PictureArtist(self._brush("sides"), self.failures) as artist, closing(stream):
            for place, image, result, error in meter.track(stream, "Predicting", "pictures", len(paths)):
                if result is None:
                    assert error is not None
                    self.failures.append(naming(place.source, error))
                    continue
                self.num_images += 1
                self._write(place, result)
                if image is not None and output.pictures:
                    artist.draw(place.source, self._drawings[place.source], image, result)
                if image is not None and output.crops:
                    artist.cut(place.source, self._stem(place), self._crops_folder(), image, result)

    def _film_file(self, path: Path, interruption: Interruption, meter: Meter) -> None:
        options, keep = self._film, self._output.pictures or self._output.crops
        try:
            reader = VideoReader(path, every=options.every, start=options.start, end=options.end)
        except InputError as error:
            self.failures.append(naming(path, error))
            return
        seen = watch_film(
            reader,
            self._predictor,
            self._people.find,
            options,
            most=self._max_people,
            keep_images=keep,
            interruption=interruption,
        )
        with reader, closing(seen), ExitStack() as stack:
            film_artist = None
            if self._output.pictures:
                writer = VideoWriter(
                    self._drawings[path], reader.size_hw, rate=reader.rate, sound_of=path, start=options.start
                )
                stack.enter_context(writer)
                film_artist = stack.enter_context(FilmArtist(self._brush("people"), [writer.write]))
            self._frames(meter.track(seen, path.name, "frames", reader.num_frames), film_artist)

    def _camera(self, number: int, interruption: Interruption, meter: Meter) -> None:
        name = f"{CAMERA_PREFIX}{number}"
        try:
            camera = Webcam(number)
        except InputError as error:
            self.failures.append(str(error))
            return
        seen = watch_camera(
            camera,
            name,
            self._predictor,
            self._people.find,
            self._film,
            most=self._max_people,
            interruption=interruption,
            show=meter.note,
        )
        with closing(seen), ExitStack() as stack:
            first = next(seen, None)
            if first is None or first.image is None:
                self.failures.append(f"{name}: it gave no picture")
                return
            takers: list[Callable[[Image, float], None]] = []
            if self._output.preview is not None:
                preview = stack.enter_context(Preview(self._output.preview))
                logger.warning("what %s sees: %s", name, preview.address)
                takers.append(preview.show)
            if self._output.pictures:
                size_hw = (first.image.shape[0], first.image.shape[1])
                takers.append(stack.enter_context(VideoWriter(self._drawings[Path(name)], size_hw)).write)
            film_artist = stack.enter_context(FilmArtist(self._brush("people"), takers)) if takers else None
            self._frames(meter.track(_after(first, seen), f"{name} (Ctrl-C ends)", "frames", None), film_artist)

    def _frames(self, seen: Iterable[Seen], film_artist: FilmArtist | None) -> None:
        """Write frame after frame."""
        failed = 0
        source = ""
        with PictureArtist(self._brush("people"), self.failures) as artist:
            for place, image, result, error in seen:
                source = str(place.source)
                if result is None:
                    assert error is not None
                    failed += 1
                    if failed <= FAILURES_OF_A_FILM:
                        self.failures.append(naming(place.source, error))
                    continue
                self.num_frames += 1
                self._write(place, result)
                if image is not None and film_artist is not None:
                    assert place.time is not None
                    film_artist.draw(image, result, place.time)
                if image is not None and self._output.crops:
                    artist.cut(place.source, self._stem(place), self._crops_folder(), image, result)
        if failed > FAILURES_OF_A_FILM:
            self.failures.append(f"{source}: {failed - FAILURES_OF_A_FILM} more frames")

    def _write(self, place: Place, result: PoseResult) -> None:
        self.num_people += len(result)
        found = FrameResult(
            source=place.source.as_posix(),
            result=result,
            size_hw=place.size_hw,
            image_id=self._people.image_ids.get(place.source),
            frame=place.frame,
            time=place.time,
        )
        for sink in self._sinks:
            sink.add(found)

    def _stem(self, place: Place) -> str:
        stem = self._drawings[place.source].stem
        return stem if place.frame is None else f"{stem}_{place.frame:06}"

    def _crops_folder(self) -> Path:
        folder = self._out / CROPS_NAME
        folder.mkdir(exist_ok=True)
        return folder


def _read(path: Path) -> Shot:
    try:
        image = read_image(path)
    except DistilPoseError as error:
        return Place(path), error
    return Place(path, size_hw=(image.shape[0], image.shape[1])), image


def _after(first: Seen, rest: Iterable[Seen]) -> Iterable[Seen]:
    yield first
    yield from rest


def _prepare_folder(out: Path, outputs: Iterable[Path], inputs: Iterable[Path]) -> None:
    overwritten = {path.resolve() for path in outputs} & {path.resolve() for path in inputs}
    if overwritten:
        raise InputError(f"{out} would get a file in place of the input {min(overwritten)}: choose another folder")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{out} cannot be made a folder ({error.strerror}): choose another") from error


def _drawing_paths(found: Sources, out: Path) -> dict[Path, Path]:
    """One name per source; names may not differ in case only, which some file systems ignore."""
    cameras = {Path(f"{CAMERA_PREFIX}{number}"): f"webcam_{number}" for number in found.cameras}
    paths = [*found.pictures, *found.films, *cameras]
    films = {*found.films, *cameras}
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
        drawings[path] = out / f"{name}{'.mp4' if path in films else '.jpg'}"
    return drawings
