"""One run of ``distilpose predict``: source after source through the stages, into the writers."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from io import BytesIO
from itertools import chain, takewhile
from pathlib import Path
from typing import Any, NamedTuple

from distilpose.data.images import read_image
from distilpose.data.prefetch import map_in_threads, prefetch
from distilpose.errors import InputError, as_failure, naming
from distilpose.files import utf8_text
from distilpose.formats.image_ids import free_ids
from distilpose.formats.writers import PREDICTIONS_NAME, PoseRecord, PoseWriter, open_writers
from distilpose.inference.batching import Predicted, predict_stream
from distilpose.inference.interruption import Interruption
from distilpose.inference.options import PredictOptions
from distilpose.inference.people import Frame, FrameId, People, locate
from distilpose.inference.predictor import PosePredictor
from distilpose.inference.progress import Meter
from distilpose.inference.result import PoseResult
from distilpose.inference.sources import CAMERA_PREFIX, STDIN, Sources
from distilpose.video.camera import Preview, Webcam, watch_camera
from distilpose.video.pipeline import FrameResult, watch_video
from distilpose.video.reader import VideoReader
from distilpose.video.writer import VideoWriter
from distilpose.visualization.annotators import AnnotatedWriter, Annotator, FrameWriter, is_drawn
from distilpose.visualization.draw import style_named

logger = logging.getLogger(__name__)

READERS = 2
IMAGES_AHEAD = 4
CROPS_NAME = "crops"
FAILURES_OF_A_VIDEO = 10  # that are told one by one
COUNTS_KEPT = 1000  # images whose people are counted one by one


class SourceCount(NamedTuple):
    """What was found in one source."""

    people: int  # of an image; of a video those followed, each once
    frames: int | None = None  # of a video; None for an image
    undrawn: int = 0  # of an image: people too unsure to be drawn


@dataclass
class PredictReport:
    """What `predict_files` did.

    Attributes:
        predictions: the file written.
        num_images: images predicted, with people or without.
        num_frames: frames of videos and cameras predicted.
        num_people: people in images.
        num_tracks: people in videos and cameras, each once per video.
        num_empty: images in which nobody was found.
        num_undrawn: people too unsure to be drawn.
        num_others: files in folders that are neither images nor videos: by their suffix, or pipes and broken links.
        failures: a line for each image, video or frame left out: its name and why. A command that has any exits
            with 1.
        counts: people of the first thousand images, and of every video and camera.
    """

    predictions: Path
    num_images: int = 0
    num_frames: int = 0
    num_people: int = 0
    num_tracks: int = 0
    num_empty: int = 0
    num_undrawn: int = 0
    num_others: int = 0
    failures: Sequence[str] = ()
    counts: Mapping[Path, SourceCount] = field(default_factory=dict)


class Run:
    """One call of `predict_files`; ``drawings`` has the file of the drawn image or video of each source."""

    def __init__(
        self,
        options: PredictOptions,
        predictor: PosePredictor,
        people: People,
        drawings: Mapping[Path, Path],
        interruption: Interruption,
        meter: Meter,
    ) -> None:
        self._options, self._video, self._output = options, options.video, options.output
        self._predictor, self._people, self._drawings = predictor, people, drawings
        self._frame_ids = free_ids({*people.image_ids.values()})
        self._interruption, self._meter = interruption, meter
        self._out = Path(options.out)
        self._keep_images = self._output.images or self._output.crops
        self._failures: list[str] = []
        self._counts: dict[Path, SourceCount] = {}
        self._done = PredictReport(self._out / PREDICTIONS_NAME, failures=self._failures, counts=self._counts)
        self._writers: list[PoseWriter] = []
        self.interrupted = False

    def predict(self, found: Sources) -> PredictReport:
        """Everything; writers are closed whatever happens."""
        with ExitStack() as stack:
            for writer in open_writers(self._out, self._output.formats):
                stack.callback(writer.close)
                self._writers.append(writer)
            if found.images:
                self._images(found.images)
            for path in found.videos:
                if not self._interruption.requested:
                    self._video_file(path)
            self.interrupted = self._interruption.requested
            for number in found.cameras:  # which an interrupt ends as it should
                if not self._interruption.requested:
                    self._camera(number)
        self._done.num_others, self._done.failures = found.num_others, tuple(self._failures)
        return self._done

    def _annotated(self, default: str, frame_writers: Sequence[FrameWriter] = ()) -> AnnotatedWriter:
        style = style_named(self._output.style or default)
        annotator = Annotator(style, self._output.anonymize, self._output.keypoint_threshold)
        return AnnotatedWriter(annotator, self._failures, frame_writers)

    def _images(self, paths: Sequence[Path]) -> None:
        unread = takewhile(lambda _: not self._interruption.requested, paths)
        frames = map_in_threads(_read, unread, threads=READERS, ahead=IMAGES_AHEAD)
        located = prefetch(locate(frames, self._people.find, max_people=self._options.max_people), IMAGES_AHEAD)
        stream = predict_stream(self._predictor, located, keep_images=self._keep_images)
        with self._annotated("sides") as annotated, closing(stream):
            self._take(self._meter.track(stream, "Predicting", "images", len(paths)), annotated)

    def _video_file(self, path: Path) -> None:
        """A video that cannot be read or drawn is a failure; what was predicted of it stays."""
        before, options = (self._done.num_frames, len(self._failures)), self._video
        try:
            with (
                VideoReader(path, every=options.every, start=options.start, end=options.end) as reader,
                ExitStack() as stack,
            ):
                frame_writers: list[FrameWriter] = []
                if self._output.images:
                    drawing = self._drawings[path]
                    writer = VideoWriter(drawing, reader.size_hw, rate=reader.rate, sound_of=path, start=options.start)
                    frame_writers.append(stack.enter_context(writer).write)
                frame_results = watch_video(
                    reader,
                    self._predictor,
                    self._people.find,
                    options,
                    max_people=self._options.max_people,
                    keep_images=self._keep_images,
                    interruption=self._interruption,
                )
                stack.enter_context(closing(frame_results))
                annotated = stack.enter_context(self._annotated("people", frame_writers))
                self._take(self._meter.track(frame_results, path.name, "frames", reader.num_frames), annotated)
                lasts = "" if reader.duration is None else f" (it lasts {reader.duration:.1f} s)"
        except OSError:  # the disk's
            raise
        except Exception as error:
            self._failures.append(naming(path, as_failure(error)))
        if (self._done.num_frames, len(self._failures)) == before and not self._interruption.requested:
            self._failures.append(f"{path}: no frame between start and end{lasts}")

    def _camera(self, number: int) -> None:
        name = f"{CAMERA_PREFIX}{number}"
        try:
            camera = Webcam(number)
        except InputError as error:
            self._failures.append(str(error))
            return
        frame_results = watch_camera(
            camera,
            name,
            self._predictor,
            self._people.find,
            self._video,
            max_people=self._options.max_people,
            interruption=self._interruption,
            show=self._meter.note,
        )
        with closing(frame_results), ExitStack() as stack:
            first = next(frame_results, None)
            if first is None:
                self._failures.append(f"{name}: it gave no image")
                return
            frame_writers: list[FrameWriter] = []
            if self._output.preview is not None:
                preview = stack.enter_context(Preview(self._output.preview))
                logger.warning("what %s sees: %s", name, preview.address)
                frame_writers.append(preview.show)
            if self._output.images:
                writer = VideoWriter(self._drawings[Path(name)], first.frame_id.size_hw)
                frame_writers.append(stack.enter_context(writer).write)
            annotated = stack.enter_context(self._annotated("people", frame_writers))
            frames = chain([first], frame_results)
            self._take(self._meter.track(frames, f"{name} (Ctrl-C ends)", "frames", None), annotated)

    def _take(self, results: Iterable[Predicted[FrameId]] | Iterable[FrameResult], annotated: AnnotatedWriter) -> None:
        """Write result after result, of images or of the frames of one video."""
        done, failed, before, tracks = self._done, 0, self._done.num_frames, set[int]()
        for frame_id, image, result, error in results:
            if result is None:
                assert error is not None
                failed += frame_id.frame is not None
                if failed <= FAILURES_OF_A_VIDEO:
                    self._failures.append(naming(frame_id.source, error))
                continue
            self._write(frame_id, result)
            undrawn = int((~is_drawn(result)).sum())
            done.num_undrawn += undrawn
            stem = self._drawings[frame_id.source].stem
            if frame_id.frame is None:
                done.num_images += 1
                done.num_people += len(result)
                done.num_empty += not len(result)
                if len(self._counts) < COUNTS_KEPT:
                    self._counts[frame_id.source] = SourceCount(len(result), undrawn=undrawn)
                if image is not None and self._output.images:
                    annotated.draw(frame_id.source, self._drawings[frame_id.source], image, result)
            else:
                done.num_frames += 1
                stem = f"{stem}_{frame_id.frame:06}"
                tracks.update(() if result.track_id is None else result.track_id.tolist())
                if image is not None:
                    assert frame_id.time is not None
                    annotated.draw_frame(image, result, frame_id.time)
            if image is not None and self._output.crops:
                folder = self._out / CROPS_NAME
                folder.mkdir(exist_ok=True)
                annotated.cut(frame_id.source, stem, folder, image, result)
        if done.num_frames > before:
            done.num_tracks += len(tracks)
            self._counts[frame_id.source] = SourceCount(len(tracks), done.num_frames - before)
        if failed > FAILURES_OF_A_VIDEO:
            self._failures.append(f"{frame_id.source}: {failed - FAILURES_OF_A_VIDEO} more frames")

    def _write(self, frame_id: FrameId, result: PoseResult) -> None:
        record = PoseRecord(
            source=utf8_text(frame_id.source.as_posix()),
            result=result,
            size_hw=frame_id.size_hw,
            image_id=next(self._frame_ids) if frame_id.frame is not None else self._people.image_ids[frame_id.source],
            frame=frame_id.frame,
            time=frame_id.time,
        )
        for writer in self._writers:
            writer.write(record)


def _read(path: Path) -> Frame:
    try:
        file: Any = BytesIO(sys.stdin.buffer.read()) if path == STDIN else path
        image = read_image(file)
    except Exception as error:  # of this file alone
        return FrameId(path), InputError("the standard input is no image") if path == STDIN else as_failure(error)
    return FrameId(path, size_hw=(image.shape[0], image.shape[1])), image
