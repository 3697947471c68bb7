"""One run of ``distilpose predict``: source after source through the stages, into the sinks."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path

from distilpose.data.images import read_image
from distilpose.data.prefetch import map_in_threads, run_ahead
from distilpose.errors import DistilPoseError, InputError
from distilpose.formats.writers import (
    JSON_LINES_NAME,
    PARQUET_NAME,
    PREDICTIONS_NAME,
    FrameResult,
    JsonLines,
    JsonList,
    ParquetFolder,
    Sink,
)
from distilpose.inference.batching import predict_stream
from distilpose.inference.interruption import Interruption
from distilpose.inference.options import FilmOptions, OutputOptions
from distilpose.inference.people import People, Place, Shot, locate
from distilpose.inference.predictor import PosePredictor
from distilpose.inference.progress import Meter
from distilpose.inference.result import PoseResult
from distilpose.inference.sources import CAMERA_PREFIX, Sources
from distilpose.types import ImageArray
from distilpose.video.camera import Webcam, watch_camera
from distilpose.video.pipeline import Seen, watch_film
from distilpose.video.preview import Preview
from distilpose.video.reader import VideoReader
from distilpose.video.writer import VideoWriter
from distilpose.visualization.annotators import Brush, FilmArtist, PictureArtist, naming
from distilpose.visualization.draw import DrawStyle, style_named

logger = logging.getLogger(__name__)

READERS = 2
PICTURES_AHEAD = 4
CROPS_NAME = "crops"
FAILURES_OF_A_FILM = 10  # that are told one by one


@dataclass
class Run:
    """What one call of `predict_files` works with, and what it has done so far.

    Attributes:
        predictor: of the poses.
        people: where boxes come from.
        out: folder of the results.
        film: how films and cameras are read.
        output: what is written.
        style: of drawing; None: sides on pictures, people on films.
        drawings: file of the drawn picture or film of each source.
        max_people: of a picture.
        num_images: pictures predicted.
        num_frames: frames predicted.
        num_people: people in them.
        failures: a line for each source or frame that was left out.
        interrupted: whether pictures or films were ended early.
    """

    predictor: PosePredictor
    people: People
    out: Path
    film: FilmOptions
    output: OutputOptions
    style: DrawStyle | None
    drawings: dict[Path, Path]
    max_people: int | None = None
    num_images: int = 0
    num_frames: int = 0
    num_people: int = 0
    failures: list[str] = field(default_factory=list)
    interrupted: bool = False
    _sinks: list[Sink] = field(default_factory=list)

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
            self.interrupted = interruption.requested
            for number in found.cameras:  # which an interrupt ends as it should
                if not interruption.requested:
                    self._camera(number, interruption, meter)

    def _open_sinks(self) -> Iterator[Sink]:
        """``predictions.json`` last: should another fail to open, an earlier run's stays."""
        if self.output.parquet:
            yield ParquetFolder(self.out / PARQUET_NAME)
        if self.output.json_lines:
            yield JsonLines(self.out / JSON_LINES_NAME)
        yield JsonList(self.out / PREDICTIONS_NAME)

    def _brush(self, default: str) -> Brush:
        style = self.style or style_named(default)
        return Brush(style, self.output.anonymise, self.output.keypoint_threshold)

    def _pictures(self, paths: Sequence[Path], interruption: Interruption, meter: Meter) -> None:
        def unread() -> Iterator[Path]:
            for path in paths:
                if interruption.requested:
                    return
                yield path

        shots = map_in_threads(_read, unread(), threads=READERS, ahead=PICTURES_AHEAD)
        scenes = run_ahead(locate(shots, self.people.find, most=self.max_people), PICTURES_AHEAD)
        stream = predict_stream(self.predictor, scenes, keep_images=self.output.pictures or self.output.crops)
        with PictureArtist(self._brush("sides"), self.failures) as artist, closing(stream):
            for place, image, result, error in meter.track(stream, "Predicting", "pictures", len(paths)):
                if result is None:
                    assert error is not None
                    self.failures.append(naming(place.source, error))
                    continue
                self.num_images += 1
                self._write(place, result)
                if image is not None and self.output.pictures:
                    artist.draw(place.source, self.drawings[place.source], image, result)
                self._cut(artist, place, image, result)

    def _film_file(self, path: Path, interruption: Interruption, meter: Meter) -> None:
        """A film that cannot be read or drawn is a failure; what was predicted of it stays."""
        before = self.num_frames, len(self.failures)
        try:
            with (
                VideoReader(path, every=self.film.every, start=self.film.start, end=self.film.end) as reader,
                ExitStack() as stack,
            ):
                takers: list[Callable[[ImageArray, float], None]] = []
                if self.output.pictures:
                    writer = VideoWriter(
                        self.drawings[path], reader.size_hw, rate=reader.rate, sound_of=path, start=self.film.start
                    )
                    takers.append(stack.enter_context(writer).write)
                seen = watch_film(
                    reader,
                    self.predictor,
                    self.people.find,
                    self.film,
                    most=self.max_people,
                    keep_images=self.output.pictures or self.output.crops,
                    interruption=interruption,
                )
                stack.enter_context(closing(seen))
                self._frames(meter.track(seen, path.name, "frames", reader.num_frames), takers)
                lasts = "" if reader.duration is None else f" (it lasts {reader.duration:.1f} s)"
        except DistilPoseError as error:
            self.failures.append(naming(path, error))
        if (self.num_frames, len(self.failures)) == before and not interruption.requested:
            self.failures.append(f"{path}: no frame between start and end{lasts}")

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
            self.predictor,
            self.people.find,
            self.film,
            most=self.max_people,
            interruption=interruption,
            show=meter.note,
        )
        with closing(seen), ExitStack() as stack:
            first = next(seen, None)
            if first is None:
                self.failures.append(f"{name}: it gave no picture")
                return
            takers: list[Callable[[ImageArray, float], None]] = []
            if self.output.preview is not None:
                preview = stack.enter_context(Preview(self.output.preview))
                logger.warning("what %s sees: %s", name, preview.address)
                takers.append(preview.show)
            if self.output.pictures:
                writer = VideoWriter(self.drawings[Path(name)], first.place.size_hw)
                takers.append(stack.enter_context(writer).write)
            self._frames(meter.track(_after(first, seen), f"{name} (Ctrl-C ends)", "frames", None), takers)

    def _frames(self, seen: Iterable[Seen], takers: Sequence[Callable[[ImageArray, float], None]]) -> None:
        """Write frame after frame; ``takers`` get the drawn ones."""
        failed = 0
        brush = self._brush("people")
        with PictureArtist(brush, self.failures) as cutter, FilmArtist(brush, takers) as artist:
            for place, image, result, error in seen:
                if result is None:
                    assert error is not None
                    failed += 1
                    if failed <= FAILURES_OF_A_FILM:
                        self.failures.append(naming(place.source, error))
                    continue
                self.num_frames += 1
                self._write(place, result)
                if image is not None and takers:
                    assert place.time is not None
                    artist.draw(image, result, place.time)
                self._cut(cutter, place, image, result)
        if failed > FAILURES_OF_A_FILM:
            self.failures.append(f"{place.source}: {failed - FAILURES_OF_A_FILM} more frames")

    def _write(self, place: Place, result: PoseResult) -> None:
        self.num_people += len(result)
        found = FrameResult(
            source=place.source.as_posix(),
            result=result,
            size_hw=place.size_hw,
            image_id=self.people.image_ids.get(place.source),
            frame=place.frame,
            time=place.time,
        )
        for sink in self._sinks:
            sink.add(found)

    def _cut(self, artist: PictureArtist, place: Place, image: ImageArray | None, result: PoseResult) -> None:
        if image is None or not self.output.crops:
            return
        folder = self.out / CROPS_NAME
        folder.mkdir(exist_ok=True)
        stem = self.drawings[place.source].stem
        artist.cut(place.source, stem if place.frame is None else f"{stem}_{place.frame:06}", folder, image, result)


def _read(path: Path) -> Shot:
    try:
        image = read_image(path)
    except DistilPoseError as error:
        return Place(path), error
    return Place(path, size_hw=(image.shape[0], image.shape[1])), image


def _after(first: Seen, rest: Iterable[Seen]) -> Iterator[Seen]:
    yield first
    yield from rest
