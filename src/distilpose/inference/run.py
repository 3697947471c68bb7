"""One run of ``distilpose predict``: source after source through the stages, into the writers."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from distilpose.data.images import read_image
from distilpose.data.prefetch import map_in_threads, prefetch
from distilpose.errors import InputError, as_failure
from distilpose.formats.writers import PoseRecord, PoseWriter, open_writers
from distilpose.inference.batching import predict_stream
from distilpose.inference.interruption import Interruption
from distilpose.inference.options import OutputOptions, VideoOptions
from distilpose.inference.people import Frame, FrameId, People, locate
from distilpose.inference.predictor import PosePredictor
from distilpose.inference.progress import Meter
from distilpose.inference.result import PoseResult
from distilpose.inference.sources import CAMERA_PREFIX, Sources
from distilpose.types import ImageArray
from distilpose.video.camera import Webcam, watch_camera
from distilpose.video.pipeline import FrameResult, watch_video
from distilpose.video.preview import Preview
from distilpose.video.reader import VideoReader
from distilpose.video.writer import VideoWriter
from distilpose.visualization.annotators import (
    AnnotatedImageWriter,
    AnnotatedVideoWriter,
    Annotator,
    is_drawn,
    naming,
)
from distilpose.visualization.draw import DrawStyle, style_named

logger = logging.getLogger(__name__)

READERS = 2
IMAGES_AHEAD = 4
CROPS_NAME = "crops"
FAILURES_OF_A_VIDEO = 10  # that are told one by one
COUNTS_KEPT = 1000  # images whose people are counted one by one


class SourceCount(NamedTuple):
    """What was found in one source.

    Attributes:
        people: of an image; of a video those followed, each once.
        frames: of a video; None for an image.
    """

    people: int
    frames: int | None = None


@dataclass
class Run:
    """What one call of `predict_files` works with, and what it has done so far.

    Attributes:
        predictor: of the poses.
        people: where boxes come from.
        out: folder of the results.
        video: how videos and cameras are read.
        output: what is written.
        style: of drawing; None: sides on images, people on videos.
        drawings: file of the drawn image or video of each source.
        max_people: of an image.
        num_images: images predicted.
        num_frames: frames predicted.
        num_people: people in images.
        num_tracks: people in videos and cameras, each once for all its frames.
        num_undrawn: poses too unsure to be drawn, in every image and frame.
        num_empty: images in which nobody was found.
        counts: people of the first images, and of every video and camera.
        failures: a line for each source or frame that was left out.
        interrupted: whether images or videos were ended early.
    """

    predictor: PosePredictor
    people: People
    out: Path
    video: VideoOptions
    output: OutputOptions
    style: DrawStyle | None
    drawings: dict[Path, Path]
    max_people: int | None = None
    num_images: int = 0
    num_frames: int = 0
    num_people: int = 0
    num_tracks: int = 0
    num_undrawn: int = 0
    num_empty: int = 0
    counts: dict[Path, SourceCount] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    interrupted: bool = False
    _writers: list[PoseWriter] = field(default_factory=list)

    def predict(self, found: Sources, interruption: Interruption, meter: Meter) -> None:
        """Everything; writers are closed whatever happens."""
        with ExitStack() as stack:
            for writer in open_writers(self.out, self.output.formats):
                stack.callback(writer.close)
                self._writers.append(writer)
            if found.images:
                self._images(found.images, interruption, meter)
            for path in found.videos:
                if not interruption.requested:
                    self._video_file(path, interruption, meter)
            self.interrupted = interruption.requested
            for number in found.cameras:  # which an interrupt ends as it should
                if not interruption.requested:
                    self._camera(number, interruption, meter)

    def _annotator(self, default: str) -> Annotator:
        style = self.style or style_named(default)
        return Annotator(style, self.output.anonymize, self.output.keypoint_threshold)

    def _images(self, paths: Sequence[Path], interruption: Interruption, meter: Meter) -> None:
        def unread() -> Iterator[Path]:
            for path in paths:
                if interruption.requested:
                    return
                yield path

        frames = map_in_threads(_read, unread(), threads=READERS, ahead=IMAGES_AHEAD)
        located_images = prefetch(locate(frames, self.people.find, max_people=self.max_people), IMAGES_AHEAD)
        stream = predict_stream(self.predictor, located_images, keep_images=self.output.images or self.output.crops)
        with AnnotatedImageWriter(self._annotator("sides"), self.failures) as annotated, closing(stream):
            for frame_id, image, result, error in meter.track(stream, "Predicting", "images", len(paths)):
                if result is None:
                    assert error is not None
                    self.failures.append(naming(frame_id.source, error))
                    continue
                self.num_images += 1
                self._write(frame_id, result)
                if image is not None and self.output.images:
                    annotated.draw(frame_id.source, self.drawings[frame_id.source], image, result)
                self._cut(annotated, frame_id, image, result)

    def _video_file(self, path: Path, interruption: Interruption, meter: Meter) -> None:
        """A video that cannot be read or drawn is a failure; what was predicted of it stays."""
        before = self.num_frames, len(self.failures)
        try:
            with (
                VideoReader(path, every=self.video.every, start=self.video.start, end=self.video.end) as reader,
                ExitStack() as stack,
            ):
                frame_writers: list[Callable[[ImageArray, float], None]] = []
                if self.output.images:
                    writer = VideoWriter(
                        self.drawings[path], reader.size_hw, rate=reader.rate, sound_of=path, start=self.video.start
                    )
                    frame_writers.append(stack.enter_context(writer).write)
                frame_results = watch_video(
                    reader,
                    self.predictor,
                    self.people.find,
                    self.video,
                    max_people=self.max_people,
                    keep_images=self.output.images or self.output.crops,
                    interruption=interruption,
                )
                stack.enter_context(closing(frame_results))
                self._frames(meter.track(frame_results, path.name, "frames", reader.num_frames), frame_writers)
                lasts = "" if reader.duration is None else f" (it lasts {reader.duration:.1f} s)"
        except OSError:  # the disk's
            raise
        except Exception as error:
            self.failures.append(naming(path, as_failure(error)))
        if (self.num_frames, len(self.failures)) == before and not interruption.requested:
            self.failures.append(f"{path}: no frame between start and end{lasts}")

    def _camera(self, number: int, interruption: Interruption, meter: Meter) -> None:
        name = f"{CAMERA_PREFIX}{number}"
        try:
            camera = Webcam(number)
        except InputError as error:
            self.failures.append(str(error))
            return
        frame_results = watch_camera(
            camera,
            name,
            self.predictor,
            self.people.find,
            self.video,
            max_people=self.max_people,
            interruption=interruption,
            show=meter.note,
        )
        with closing(frame_results), ExitStack() as stack:
            first = next(frame_results, None)
            if first is None:
                self.failures.append(f"{name}: it gave no image")
                return
            frame_writers: list[Callable[[ImageArray, float], None]] = []
            if self.output.preview is not None:
                preview = stack.enter_context(Preview(self.output.preview))
                logger.warning("what %s sees: %s", name, preview.address)
                frame_writers.append(preview.show)
            if self.output.images:
                writer = VideoWriter(self.drawings[Path(name)], first.frame_id.size_hw)
                frame_writers.append(stack.enter_context(writer).write)
            self._frames(
                meter.track(_after(first, frame_results), f"{name} (Ctrl-C ends)", "frames", None), frame_writers
            )

    def _frames(
        self, frame_results: Iterable[FrameResult], frame_writers: Sequence[Callable[[ImageArray, float], None]]
    ) -> None:
        """Write frame after frame; ``frame_writers`` get the drawn ones."""
        failed, before, tracks = 0, self.num_frames, set[int]()
        annotator = self._annotator("people")
        with (
            AnnotatedImageWriter(annotator, self.failures) as cutter,
            AnnotatedVideoWriter(annotator, frame_writers) as annotated,
        ):
            for frame_id, image, result, error in frame_results:
                if result is not None and result.track_id is not None:
                    tracks.update(result.track_id.tolist())
                if result is None:
                    assert error is not None
                    failed += 1
                    if failed <= FAILURES_OF_A_VIDEO:
                        self.failures.append(naming(frame_id.source, error))
                    continue
                self.num_frames += 1
                self._write(frame_id, result)
                if image is not None and frame_writers:
                    assert frame_id.time is not None
                    annotated.draw(image, result, frame_id.time)
                self._cut(cutter, frame_id, image, result)
        self.num_tracks += len(tracks)
        if self.num_frames > before:
            self.counts[frame_id.source] = SourceCount(len(tracks), self.num_frames - before)
        if failed > FAILURES_OF_A_VIDEO:
            self.failures.append(f"{frame_id.source}: {failed - FAILURES_OF_A_VIDEO} more frames")

    def _write(self, frame_id: FrameId, result: PoseResult) -> None:
        self._count(frame_id, result)
        found = PoseRecord(
            source=frame_id.source.as_posix(),
            result=result,
            size_hw=frame_id.size_hw,
            image_id=self.people.image_ids.get(frame_id.source),
            frame=frame_id.frame,
            time=frame_id.time,
        )
        for writer in self._writers:
            writer.write(found)

    def _count(self, frame_id: FrameId, result: PoseResult) -> None:
        self.num_undrawn += int((~is_drawn(result)).sum())
        if frame_id.frame is None:
            self.num_people += len(result)
            self.num_empty += not len(result)
            if len(self.counts) < COUNTS_KEPT:
                self.counts[frame_id.source] = SourceCount(len(result))

    def _cut(
        self, annotated: AnnotatedImageWriter, frame_id: FrameId, image: ImageArray | None, result: PoseResult
    ) -> None:
        if image is None or not self.output.crops:
            return
        folder = self.out / CROPS_NAME
        folder.mkdir(exist_ok=True)
        stem = self.drawings[frame_id.source].stem
        annotated.cut(
            frame_id.source, stem if frame_id.frame is None else f"{stem}_{frame_id.frame:06}", folder, image, result
        )


def _read(path: Path) -> Frame:
    try:
        image = read_image(path)
    except Exception as error:  # of this file alone
        return FrameId(path), as_failure(error)
    return FrameId(path, size_hw=(image.shape[0], image.shape[1])), image


def _after(first: FrameResult, rest: Iterable[FrameResult]) -> Iterator[FrameResult]:
    yield first
    yield from rest
