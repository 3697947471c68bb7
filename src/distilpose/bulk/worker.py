"""One shard after another through detector and model: what a worker process does, with any engine or none."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from distilpose.bulk.inputs import BulkItem
from distilpose.bulk.output_files import BulkImage, RunFolder
from distilpose.errors import DistilPoseError, InputError
from distilpose.images import read_image
from distilpose.inference.detectors import Detector, check_detector_fits, create_detector
from distilpose.inference.people import Image, Place, Shot, best_rows, locate, people_by_detector
from distilpose.inference.predictor import PosePredictor
from distilpose.inference.stages import map_in_threads
from distilpose.inference.stream import Scene, predict_stream
from distilpose.loading import as_runner
from distilpose.postprocess import FlipTest
from distilpose.runtimes import OnnxRunner, OpenVinoRunner, Runner

READERS = 1  # threads that read ahead; the cores are shared out among the workers already
PICTURES_AHEAD = 4
ATTEMPTS = 3  # at a shard that kills its worker


@dataclass(frozen=True)
class Job:
    """What every worker does with its shards.

    Attributes:
        out: absolute path of the run's folder, the same on every machine.
        model: exported file or checkpoint, likewise.
        id_type: "int64" or "string", of the ids.
        detector: what `create_detector` takes; None takes the boxes of the list.
        detection_threshold: boxes with a lower score are left out; None leaves it to the detector.
        max_people: of a picture, those with the best boxes.
        flip_test: see `PosePredictor`.
        batch_size: crops that the model sees at once.
        threads: of the model's computation in one worker.
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


class ShardReport(NamedTuple):
    """What a worker says of a shard.

    Attributes:
        shard: its number.
        images: pictures in it, failed ones counted.
        disk_error: why its files could not be written; None if they could.
        error: what else went wrong, a fault of the program; None if nothing.
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
            load_runner(job.model, job.threads), flip_test=job.flip_test, batch_size=job.batch_size
        )
        self._detector: Detector | None = None
        if job.detector is not None:
            check_detector_fits(job.detector, self._predictor.skeleton)
            self._detector = create_detector(job.detector, threshold=job.detection_threshold)

    def work(self, shard: int, items: Sequence[BulkItem]) -> ShardReport:
        """Predict a shard and write its files; a picture that cannot be predicted is a row with the reason."""
        names, id_type = self._predictor.skeleton.keypoint_names, self._job.id_type
        try:
            if self._folder.is_finished(shard):  # by a worker that was killed before it could say so
                return ShardReport(shard, len(items))
            if self._folder.begin_shard(shard) > ATTEMPTS:
                reason = f"its worker died {ATTEMPTS} times, perhaps of a picture or for lack of memory"
                return ShardReport(shard, len(items), error=reason)
            images = self._predict_all(items)
            if isinstance(images, str):
                return ShardReport(shard, len(items), error=images)
            self._folder.write_shard(shard, images, names, id_type)
        except OSError as error:
            return ShardReport(shard, len(items), disk_error=error.strerror or str(error))
        return ShardReport(shard, len(items))

    def _predict_all(self, items: Sequence[BulkItem]) -> list[BulkImage] | str:
        try:
            return list(self.predict(items))
        except Exception as error:  # a fault of the program: the other shards go on, and the driver tells
            return f"{type(error).__name__}: {error}"

    def predict(self, items: Sequence[BulkItem]) -> Iterator[BulkImage]:
        """What becomes of each picture, in their order; memory is bounded by the pictures that are read ahead."""
        shots = map_in_threads(_read, items, threads=READERS, ahead=PICTURES_AHEAD)
        stream = predict_stream(self._predictor, self._scenes(items, shots), threads=1)
        with closing(stream):
            for item, (place, _, result, error) in zip(items, stream, strict=True):
                size_hw = None if place.size_hw == (0, 0) else place.size_hw
                reason = None if error is None else str(error)
                yield BulkImage(item.row, item.source, item.image_id, size_hw, result, reason)

    def _scenes(
        self, items: Iterable[BulkItem], shots: Iterable[Shot]
    ) -> Iterator[tuple[Place, Scene | DistilPoseError]]:
        most = self._job.max_people
        if self._detector is not None:
            yield from locate(shots, people_by_detector(self._detector, [], None).find, most=most)
            return
        for item, (place, image) in zip(items, shots, strict=True):
            if isinstance(image, DistilPoseError):
                yield place, image
                continue
            try:
                yield place, self._scene_by_list(item, image)
            except DistilPoseError as error:
                yield place, error

    def _scene_by_list(self, item: BulkItem, image: Image) -> Scene:
        boxes: ArrayLike = np.zeros((0, 4)) if not item.boxes else item.boxes
        count = len(item.boxes or ())
        score = np.ones(count) if item.box_scores is None else np.asarray(item.box_scores, dtype=np.float64)
        if item.boxes and any(len(box) != 4 for box in item.boxes):
            raise InputError(f"{item.source}: a box must be x1, y1, x2, y2, got {list(item.boxes)}")
        if score.shape != (count,):
            raise InputError(f"{item.source}: expected {count} box scores, one for each box, got {score.tolist()}")
        threshold = self._job.detection_threshold
        good = np.flatnonzero(score >= (-np.inf if threshold is None else threshold))
        kept = good[best_rows(score[good], self._job.max_people)]
        return Scene(image, np.asarray(boxes, dtype=np.float64)[kept], score[kept])


def load_runner(model: str | Path, threads: int) -> Runner:
    """A model that computes on ``threads`` cores; torch is imported for checkpoints only.

    Raises:
        CheckpointError: the file is unusable.
        ConfigError: its runtime is not installed.
    """
    suffix = Path(model).suffix
    if suffix == ".onnx":
        return OnnxRunner(model, threads)
    if suffix == ".xml":
        return OpenVinoRunner(model, threads)
    import torch

    torch.set_num_threads(threads)
    return as_runner(model)


class _Member(BytesIO):
    """The bytes of a picture in a tar file, named in messages as in the results."""

    def __init__(self, content: bytes, name: str) -> None:
        super().__init__(content)
        self._name = name

    def __str__(self) -> str:
        return self._name


def _read(item: BulkItem) -> Shot:
    place = Place(Path(item.source))
    try:
        image = read_image(item.file) if item.offset is None else _read_member(item)
    except DistilPoseError as error:
        return place, error
    return place._replace(size_hw=(image.shape[0], image.shape[1])), image


def _read_member(item: BulkItem) -> Image:
    assert item.offset is not None
    assert item.size is not None
    try:
        with open(item.file, "rb") as archive:
            archive.seek(item.offset, os.SEEK_SET)
            content = archive.read(item.size)
    except OSError as error:
        raise InputError(f"{item.source}: {item.file} cannot be read: {error.strerror or error}") from error
    return read_image(_Member(content, item.source))  # type: ignore[arg-type]  # Pillow reads files as well as paths
