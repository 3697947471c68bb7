"""One shard after another through detector and model: what a worker process does, with any engine or none."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np

from distilpose.backends.loading import as_backend
from distilpose.bulk.inputs import BulkItem
from distilpose.bulk.output_files import Attempts, BulkImage, RunFolder
from distilpose.bulk.reading import TransientError, is_absent, read_item
from distilpose.data.prefetch import map_in_threads
from distilpose.detection.detectors import Detector, check_detector_fits, create_detector
from distilpose.errors import DistilPoseError, InputError, UnforeseenError
from distilpose.inference.batching import LocatedImage, predict_stream
from distilpose.inference.decoding import FlipTest
from distilpose.inference.people import Frame, FrameId, best_rows, locate, people_by_detector
from distilpose.inference.predictor import PosePredictor
from distilpose.types import FloatArray, ImageArray

READERS = 1  # threads that read ahead; the cores are shared out among the workers already
IMAGES_AHEAD = 4
ATTEMPTS = 3  # at a shard that kills its worker; after them it is done image by image
ATTEMPTS_ALONE = 2  # at an image that kills its worker
ALIKE = 10  # images: that so many fail together, all of a shard, is no chance


@dataclass(frozen=True)
class Job:
    """What every worker does with its shards.

    Attributes:
        out: absolute path of the run's folder, the same on every machine.
        model: exported file or checkpoint, likewise.
        id_type: "int64" or "string", of the ids.
        detector: what `create_detector` takes; None takes the boxes of the list.
        detection_threshold: boxes with a lower score are left out; None leaves it to the detector.
        max_people: of an image, those with the best boxes.
        flip_test: see `PosePredictor`.
        batch_size: crops that the model sees at once.
        threads: of the model's computation in one worker.
        accept_failures: write rows of failed images also where it looks as if storage or program failed, not they.
    """

    out: str
    model: str
    id_type: str
    detector: str | None
    detection_threshold: float | None = None
    max_people: int | None = None
    flip_test: FlipTest = "off"
    batch_size: int = 8
    threads: int = 1
    accept_failures: bool = False


class ShardReport(NamedTuple):
    """What a worker says of a shard.

    Attributes:
        shard: its number.
        images: images in it, failed ones counted.
        disk_error: why its files could not be written, and where; None if they could.
        error: what else kept it from being done, such as storage that fails; None if nothing.
    """

    shard: int
    images: int
    disk_error: str | None = None
    error: str | None = None


class ShardWorker:
    """Holds model and detector, and predicts shards with them.

    Args:
        job: what to do.

    Raises:
        ConfigError: an option is out of range, or a package is missing.
        CheckpointError: the model file is unusable.
        InputError: the detector's file is.
    """

    def __init__(self, job: Job) -> None:
        self._job = job
        self._folder = RunFolder(job.out)
        self._predictor = PosePredictor(
            as_backend(job.model, threads=job.threads), flip_test=job.flip_test, batch_size=job.batch_size
        )
        self._detector: Detector | None = None
        if job.detector is not None:
            check_detector_fits(job.detector, self._predictor.skeleton)
            self._detector = create_detector(job.detector, threshold=job.detection_threshold)

    def work(self, shard: int, items: Sequence[BulkItem]) -> ShardReport:
        """Predict a shard and write its files; an image that cannot be predicted is a row with the reason."""
        names, id_type = self._predictor.skeleton.keypoint_names, self._job.id_type
        try:
            if self._folder.is_finished(shard):  # by a worker that was killed before it could say so
                return ShardReport(shard, len(items))
            images = self._predict_shard(shard, items, self._folder.begin_shard(shard))
            self._folder.write_shard(shard, images, names, id_type)
        except TransientError as error:
            return ShardReport(shard, len(items), error=f"{error} (on {platform.node()})")
        except OSError as error:
            return ShardReport(shard, len(items), disk_error=str(self._folder.unwritable(error, platform.node())))
        return ShardReport(shard, len(items))

    def _predict_shard(self, shard: int, items: Sequence[BulkItem], before: Attempts) -> list[BulkImage]:
        """All at once, or one by one where one of them is known to break more than itself.

        Raises:
            TransientError: storage or memory failed, or all images fail in a way that is not theirs.
        """
        if before.deaths < ATTEMPTS:
            try:
                return self._checked(self.predict(items))
            except TransientError:
                raise
            except Exception as error:  # of which image is not known
                self._raise_transient(error)
        return self._checked(self._predict_alone(shard, item, before.of_row[item.row]) for item in items)

    def _predict_alone(self, shard: int, item: BulkItem, deaths: int) -> BulkImage:
        failed = BulkImage(item.row, item.source, item.image_id, None, None, "", suspect=True)
        if deaths >= ATTEMPTS_ALONE:
            return failed._replace(error=f"its worker died of it {deaths} times, perhaps for lack of memory")
        self._folder.note_row(shard, item.row)
        try:
            (image,) = self.predict([item])
        except TransientError:
            raise
        except Exception as error:  # a fault of the program: this image shows it, the others go on
            self._raise_transient(error)
            return failed._replace(error=f"{type(error).__name__}: {error}")
        return image

    def _raise_transient(self, error: Exception) -> None:
        if isinstance(error, OSError | MemoryError) and not self._job.accept_failures:
            raise TransientError(f"{type(error).__name__}: {error}") from error

    def _checked(self, images: Iterable[BulkImage]) -> list[BulkImage]:
        found = list(images)
        if len(found) >= ALIKE and all(image.suspect for image in found) and not self._job.accept_failures:
            raise TransientError(
                f"all {len(found)} images failed, the first one so: {found[0].error}. If the images are not to "
                "blame, see that their folder is mounted there; if they are, accept_failures (--accept-failures) "
                "writes them as failed"
            )
        return found

    def predict(self, items: Sequence[BulkItem]) -> Iterator[BulkImage]:
        """What becomes of each image, in their order; memory is bounded by the images that are read ahead."""
        read = partial(read_item, accept_failures=self._job.accept_failures)
        frames = map_in_threads(read, items, threads=READERS, ahead=IMAGES_AHEAD)
        stream = predict_stream(self._predictor, self._located_images(items, frames), threads=1)
        with closing(stream):
            for item, (frame_id, _, result, error) in zip(items, stream, strict=True):
                size_hw = None if frame_id.size_hw == (0, 0) else frame_id.size_hw
                reason = None if error is None else str(error)
                if isinstance(error, UnforeseenError) and isinstance(error.__cause__, Exception):
                    self._raise_transient(error.__cause__)
                suspect = isinstance(error, UnforeseenError) or is_absent(error)
                yield BulkImage(item.row, item.source, item.image_id, size_hw, result, reason, suspect)

    def _located_images(
        self, items: Iterable[BulkItem], frames: Iterable[Frame]
    ) -> Iterator[tuple[FrameId, LocatedImage | DistilPoseError]]:
        max_people = self._job.max_people
        if self._detector is not None:
            yield from locate(frames, people_by_detector(self._detector, [], None).find, max_people=max_people)
            return
        for item, (frame_id, image) in zip(items, frames, strict=True):
            if isinstance(image, DistilPoseError):
                yield frame_id, image
                continue
            try:
                yield frame_id, self._located_by_list(item, image)
            except DistilPoseError as error:
                yield frame_id, error

    def _located_by_list(self, item: BulkItem, image: ImageArray) -> LocatedImage:
        boxes, score = _people_of(item)
        threshold = self._job.detection_threshold
        good = np.flatnonzero(score >= (-np.inf if threshold is None else threshold))
        kept = good[best_rows(score[good], self._job.max_people)]
        return LocatedImage(image, boxes[kept], score[kept])


def _people_of(item: BulkItem) -> tuple[FloatArray, FloatArray]:
    """(N, 4) boxes in image pixels and (N,) scores of the list.

    Raises:
        InputError: a value is missing, or their numbers differ.
    """
    boxes = list(item.boxes or ())
    if any(box is None or len(box) != 4 or None in box for box in boxes):
        raise InputError(f"{item.source}: a box must be x1, y1, x2, y2, got {boxes}")
    score = np.ones(len(boxes)) if item.box_scores is None else np.asarray(item.box_scores, dtype=np.float64)
    if score.shape != (len(boxes),):
        raise InputError(f"{item.source}: expected {len(boxes)} box scores, one for each box, got {score.tolist()}")
    if not np.isfinite(score).all():
        raise InputError(f"{item.source}: box scores must be finite, got {list(item.box_scores or ())}")
    return np.asarray(boxes, dtype=np.float64).reshape(-1, 4), score
