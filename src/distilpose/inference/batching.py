"""Many images through one predictor: batches reach across images, and cropping overlaps with the network."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable
from contextlib import closing
from dataclasses import dataclass, field
from typing import Generic, NamedTuple, TypeVar

import numpy as np
from numpy.typing import ArrayLike

from distilpose.data.prefetch import map_in_threads
from distilpose.data.preprocess import NetworkInput
from distilpose.errors import DistilPoseError, as_failure
from distilpose.inference.decoding import Keypoints, join_keypoints
from distilpose.inference.predictor import PosePredictor, PreparedImage
from distilpose.inference.result import PoseResult
from distilpose.types import ImageArray

KeyT = TypeVar("KeyT")

THREADS = 2
MAX_IMAGE_BYTES = 256 * 2**20  # of images held at once, when they are kept


class LocatedImage(NamedTuple):
    """An image and who is in it."""

    image: ImageArray  # (H, W, 3) uint8 RGB
    boxes_xyxy: ArrayLike  # (N, 4) image pixels
    box_score: ArrayLike | None = None  # (N,) confidence of the detector; 1 each when None


class Predicted(NamedTuple, Generic[KeyT]):
    """What became of one image; either ``result`` or ``error`` is there."""

    key: KeyT  # as it was given
    image: ImageArray | None  # when images are kept
    result: PoseResult | None  # its people
    error: DistilPoseError | None  # why there is none


@dataclass
class _Waiting(Generic[KeyT]):
    """An image some of whose crops have not been through the network."""

    key: KeyT
    image: ImageArray | None
    prepared: PreparedImage | None
    error: DistilPoseError | None = None
    parts: list[Keypoints] = field(default_factory=list)
    taken: int = 0  # crops given to the network so far

    @property
    def crops_left(self) -> int:
        return 0 if self.prepared is None or self.error is not None else len(self.prepared.transforms) - self.taken


def predict_stream(
    predictor: PosePredictor,
    located_images: Iterable[tuple[KeyT, LocatedImage | DistilPoseError]],
    *,
    keep_images: bool = False,
    threads: int = THREADS,
) -> Generator[Predicted[KeyT]]:
    """Predict images in order, the crops of several in one batch, while threads cut the crops of the next ones.

    Memory is bounded: no more than a batch of images is taken ahead, and kept images no further than
    `MAX_IMAGE_BYTES`.

    Args:
        predictor: its batch size is the number of crops that reach the network at once.
        located_images: what each image is called, and the image, or why there is none.
        keep_images: hand the images on.
        threads: that cut crops.

    Yields:
        One `Predicted` per located image, in their order. What an image or the network does wrong is in it.
    """

    def prepare(named: tuple[KeyT, LocatedImage | DistilPoseError]) -> _Waiting[KeyT]:
        key, located = named
        try:
            if isinstance(located, DistilPoseError):
                raise located
            prepared = predictor.prepare(located.image, located.boxes_xyxy, located.box_score)
        except Exception as error:  # of this image alone
            return _Waiting(key, None, None, as_failure(error))
        return _Waiting(key, located.image if keep_images else None, prepared)

    ahead = 2 * threads if keep_images else max(threads, predictor.batch_size)
    waiting: deque[_Waiting[KeyT]] = deque()
    with closing(map_in_threads(prepare, located_images, threads=threads, ahead=ahead)) as prepared_images:
        for last in prepared_images:
            waiting.append(last)
            sizes = [item.image.nbytes for item in waiting if item.image is not None]
            is_full = len(waiting) >= predictor.batch_size or sum(sizes + sizes[-1:]) > MAX_IMAGE_BYTES
            while (crops := sum(item.crops_left for item in waiting)) >= predictor.batch_size or (crops and is_full):
                _run_batch(predictor, waiting)
            while waiting and waiting[0].crops_left == 0:
                yield _finish(predictor, waiting.popleft())
        for item in waiting:
            while item.crops_left:
                _run_batch(predictor, waiting)
            yield _finish(predictor, item)


def _run_batch(predictor: PosePredictor, waiting: Iterable[_Waiting[KeyT]]) -> None:
    """Send the first crops that wait through the network; a failure stays with their images."""
    shares: list[tuple[_Waiting[KeyT], int]] = []
    free = predictor.batch_size
    for item in waiting:
        take = min(item.crops_left, free)
        if take:
            shares.append((item, take))
            free -= take
    arrays: list[NetworkInput] = []
    try:
        for item, take in shares:
            assert item.prepared is not None
            arrays.append(predictor.crops(item.prepared, item.taken, item.taken + take))
            item.taken += take
        images: NetworkInput = np.concatenate(arrays)  # type: ignore[assignment]  # all of one kind
        keypoints = predictor.run(images)
    except Exception as error:  # of a foreign runtime
        for item, _ in shares:
            item.error = as_failure(error)
        return
    start = 0
    for item, take in shares:
        item.parts.append(keypoints.rows(start, start + take))
        start += take


def _finish(predictor: PosePredictor, item: _Waiting[KeyT]) -> Predicted[KeyT]:
    if item.error is not None:
        return Predicted(item.key, None, None, item.error)
    assert item.prepared is not None
    try:
        keypoints = join_keypoints(item.parts) if item.parts else None
        return Predicted(item.key, item.image, predictor.finish(item.prepared, keypoints), None)
    except Exception as error:  # numbers that no pose has
        return Predicted(item.key, None, None, as_failure(error))
