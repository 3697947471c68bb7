"""One shard after another through detector and model: what a worker process does, with any engine or none."""

from __future__ import annotations

import errno
import platform
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from distilpose.backends.loading import as_backend
from distilpose.bulk.inputs import BulkItem
from distilpose.bulk.options import BulkOptions
from distilpose.bulk.output_files import Attempts, BulkImage, RunFolder
from distilpose.data.images import NamedBytes, read_image
from distilpose.data.prefetch import map_in_threads
from distilpose.errors import DistilPoseError, InputError, UnforeseenError
from distilpose.files import disk_errors
from distilpose.geometry import check_boxes_xyxy
from distilpose.inference.batching import LocatedImage, predict_stream
from distilpose.inference.people import Frame, FrameId, best_rows, locate, open_detector, people_by_detector
from distilpose.inference.predictor import PosePredictor
from distilpose.types import FloatArray, ImageArray

READERS = 1  # threads that read ahead; the cores are shared out among the workers already
IMAGES_AHEAD = 4
ATTEMPTS = 3  # at a shard that kills its worker; after them it is done image by image
ATTEMPTS_ALONE = 2  # at an image that kills its worker
ALIKE = 10  # images: that so many fail together, all of a shard, is no chance
_ABSENT = frozenset({errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.EPERM})
_OF_THE_IMAGE = _ABSENT | {errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP, errno.EINVAL}


class TransientError(Exception):
    """An image could not be read for a reason outside of it, such as storage or memory: later it may go well."""


class ShardReport(NamedTuple):
    """What a worker says of a shard."""

    shard: int  # its number
    images: int  # images in it, failed ones counted
    disk_error: str | None = None  # why its files could not be written, and where; None if they could
    error: str | None = None  # what else kept it from being done, such as storage that fails; None if nothing


class ShardWorker:
    """Holds model and detector, and predicts shards with them.

    ``out`` and ``model`` of the options are paths that mean the same on every machine; without a detector the boxes of
    the list are taken. ``id_type`` is "int64" or "string", of the ids.

    Raises:
        ConfigError: an option is out of range, or a package is missing.
        CheckpointError: the model file is unusable.
        InputError: the detector's file is.
    """

    def __init__(self, options: BulkOptions, id_type: str = "int64") -> None:
        self._options, self._id_type = options, id_type
        self._folder = RunFolder(options.out)
        backend = as_backend(options.model, options.device, threads=options.threads)
        self._predictor = PosePredictor(backend, flip_test=options.flip_test, batch_size=options.batch_size)
        self._find = None
        if options.detector is not None:
            detector = open_detector(
                options.detector,
                self._predictor,
                threshold=options.detection_threshold,
                threads=options.threads,
                tile=options.tile,
            )
            self._find = people_by_detector(detector, [], None).find

    def work(self, shard: int, items: Sequence[BulkItem]) -> ShardReport:
        """Predict a shard and write its files; an image that cannot be predicted is a row with the reason."""
        names = self._predictor.skeleton.keypoint_names
        try:
            with disk_errors(self._folder.path):
                if not self._folder.is_finished(shard):  # by a worker that was killed before it could say so
                    images = self._predict_shard(shard, items, self._folder.begin_shard(shard))
                    self._folder.write_shard(shard, images, names, self._id_type)
        except TransientError as error:
            return ShardReport(shard, len(items), error=f"{error} (on {platform.node()})")
        except InputError as error:
            return ShardReport(shard, len(items), disk_error=f"{error} (on {platform.node()})")
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

    def _raise_transient(self, error: BaseException | None) -> None:
        if isinstance(error, OSError | MemoryError) and not self._options.accept_failures:
            raise TransientError(f"{type(error).__name__}: {error}") from error

    def _checked(self, images: Iterable[BulkImage]) -> list[BulkImage]:
        found = list(images)
        if len(found) >= ALIKE and all(image.suspect for image in found) and not self._options.accept_failures:
            raise TransientError(
                f"all {len(found)} images failed, the first one so: {found[0].error}. If the images are not to "
                "blame, see that their folder is mounted there; if they are, accept_failures (--accept-failures) "
                "writes them as failed"
            )
        return found

    def predict(self, items: Sequence[BulkItem]) -> Iterator[BulkImage]:
        """What becomes of each image, in their order; memory is bounded by the images that are read ahead."""
        read = partial(read_item, accept_failures=self._options.accept_failures)
        frames = map_in_threads(read, items, threads=READERS, ahead=IMAGES_AHEAD)
        if self._find is not None:
            located = locate(frames, self._find, max_people=self._options.max_people)
        else:
            located = (self._located_by_list(item, frame) for item, frame in zip(items, frames, strict=True))
        with closing(predict_stream(self._predictor, located, threads=1)) as stream:
            for item, (frame_id, _, result, error) in zip(items, stream, strict=True):
                if isinstance(error, UnforeseenError):
                    self._raise_transient(error.__cause__)
                size_hw = None if frame_id.size_hw == (0, 0) else frame_id.size_hw
                reason = None if error is None else str(error)
                suspect = isinstance(error, UnforeseenError) or is_absent(error)
                yield BulkImage(item.row, item.source, item.image_id, size_hw, result, reason, suspect)

    def _located_by_list(self, item: BulkItem, frame: Frame) -> tuple[FrameId, LocatedImage | DistilPoseError]:
        frame_id, image = frame
        if isinstance(image, DistilPoseError):
            return frame_id, image
        try:
            boxes, score = _people_of(item)
            check_boxes_xyxy(boxes, image.shape[:2])
        except InputError as error:
            return frame_id, error
        threshold = self._options.detection_threshold
        good = np.flatnonzero(score >= (-np.inf if threshold is None else threshold))
        kept = good[best_rows(score[good], self._options.max_people)]
        return frame_id, LocatedImage(image, boxes[kept], score[kept])


def _people_of(item: BulkItem) -> tuple[FloatArray, FloatArray]:
    """(N, 4) boxes in image pixels and (N,) scores of the list."""
    boxes = list(item.boxes or ())
    if any(box is None or len(box) != 4 or None in box for box in boxes):
        raise InputError(f"{item.source}: a box must be x1, y1, x2, y2, got {boxes}")
    score = np.ones(len(boxes)) if item.box_scores is None else np.asarray(item.box_scores, dtype=np.float64)
    if score.shape != (len(boxes),):
        raise InputError(f"{item.source}: expected {len(boxes)} box scores, one for each box, got {score.tolist()}")
    if not np.isfinite(score).all():
        raise InputError(f"{item.source}: box scores must be finite, got {list(item.box_scores or ())}")
    return np.asarray(boxes, dtype=np.float64).reshape(-1, 4), score


def read_item(item: BulkItem, *, accept_failures: bool = False) -> Frame:
    """The image, or why there is none; with ``accept_failures`` every error is taken for one of the image.

    Raises:
        TransientError: storage or memory failed.
    """
    frame_id = FrameId(Path(item.source))
    try:
        image = _read(item)
    except InputError as error:
        cause = error.__cause__  # decoders raise an OSError without a number
        of_storage = isinstance(cause, OSError) and cause.errno is not None and cause.errno not in _OF_THE_IMAGE
        if not accept_failures and (of_storage or isinstance(cause, MemoryError)):
            raise TransientError(str(error)) from error
        return frame_id, error
    return frame_id._replace(size_hw=(image.shape[0], image.shape[1])), image


def is_absent(error: DistilPoseError | None) -> bool:
    """Whether an image was not there or not to be opened, as all of them are when a folder is not mounted."""
    cause = None if error is None else error.__cause__
    return isinstance(cause, OSError) and cause.errno in _ABSENT


def _read(item: BulkItem) -> ImageArray:
    if item.problem is not None:
        raise InputError(f"{item.source}: {item.problem}")
    if item.offset is None:
        return read_image(item.file)
    try:
        with open(item.file, "rb") as archive:
            archive.seek(item.offset)
            content = archive.read(item.size)
    except OSError as error:
        raise InputError(f"{item.source}: {item.file} cannot be read: {error.strerror or error}") from error
    if len(content) != item.size:
        raise InputError(f"{item.source}: {item.file} was cut off after it was listed")
    return read_image(NamedBytes(content, item.source))
