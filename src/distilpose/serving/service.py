"""Poses for many requests at once: queue, decoding, detection, crops, the model in batches."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from typing import NamedTuple, TypeVar

import numpy as np
from starlette.requests import Request

from distilpose.backends.device import usable_cores
from distilpose.data.preprocess import NetworkInput
from distilpose.detection.detectors import Detector, WholeImage
from distilpose.errors import DistilPoseError
from distilpose.formats.boxes import PersonBoxes
from distilpose.inference.decoding import Keypoints
from distilpose.inference.people import best_rows
from distilpose.inference.predictor import PosePredictor, PreparedImage
from distilpose.inference.result import PoseResult
from distilpose.serving.batcher import Batcher
from distilpose.serving.errors import HTTPError, busy
from distilpose.serving.images import decode_image
from distilpose.serving.metrics import Metrics
from distilpose.serving.options import DECODERS, ServeOptions
from distilpose.serving.uploads import Upload, UploadReader
from distilpose.types import ImageArray

logger = logging.getLogger(__name__)

T = TypeVar("T")


class Answer(NamedTuple):
    """What became of an image.

    Attributes:
        result: its people.
        size_hw: (H, W) of the upright image in pixels.
        batches: crops in the runs of the model that it was part of.
    """

    result: PoseResult
    size_hw: tuple[int, int]
    batches: list[int]


class _Cut(NamedTuple):
    size_hw: tuple[int, int]
    prepared: PreparedImage


class PoseService:
    """Poses for many requests at once, in bounded memory. Used from one event loop, made in any thread.

    At most ``queue`` images are accepted. Of those only a few are decoded at a time, and no more crops are cut than
    the model will soon want. Images with boxes do not wait for those that the detector has to look at.

    Args:
        predictor: its batch size is that of the server.
        detector: of people in images that come without boxes; used by one thread at a time.
        options: limits.
        metrics: counts.

    Attributes:
        predictor: as above.
        upload_reader: that reads bodies.
        draining: nothing new is accepted.
        in_flight: requests in work, from their headers to their answer.
        failure: why the model could not even be warmed up; None while all is well.
    """

    def __init__(self, predictor: PosePredictor, detector: Detector, options: ServeOptions, metrics: Metrics) -> None:
        self.predictor = predictor
        self.draining = False
        self.in_flight = 0
        self.failure: Exception | None = None
        self.upload_reader = UploadReader(options)
        self._detector, self._options, self._metrics = detector, options, metrics
        self._whole_image = isinstance(detector, WholeImage)
        threads = max(2, min(DECODERS, usable_cores()))
        self._cutters = ThreadPoolExecutor(threads, thread_name_prefix="decode")
        self._finders = ThreadPoolExecutor(1, thread_name_prefix="detect")
        self._to_cut, self._to_search = asyncio.Semaphore(threads), asyncio.Semaphore(threads)  # decoded images
        self._receiving = set[asyncio.Timeout]()
        self._accepted = self._preparing = 0
        self._warm = False
        self._batcher = Batcher(
            predictor.run,
            batch_size=predictor.batch_size,
            max_wait=options.max_wait_ms / 1000,
            more_to_come=lambda: self._preparing > 0,
            on_batch=metrics.batch,
        )
        metrics.watch(lambda: self._accepted, lambda: self.upload_reader.held, lambda: self.ready)

    @property
    def ready(self) -> bool:
        """Warm, and not about to end."""
        return self._warm and not self.draining

    @property
    def accepted(self) -> int:
        """Images accepted and not answered yet."""
        return self._accepted

    async def warm_up(self) -> None:
        """Run the model once with one crop and once with a full batch: the first runs are slow.

        A model that fails here fails always: `failure` is set, and the server ends.
        """
        image = np.zeros((64, 48, 3), dtype=np.uint8)
        try:
            for people in {1, self.predictor.batch_size}:
                await self._batcher(self.predictor.prepare(image, [[0, 0, 48, 64]] * people).images)
        except Exception as error:  # each runtime has exceptions of its own
            logger.exception("the model failed on its first crops")
            self.failure = error
        else:
            self._warm = True

    def drain(self) -> None:
        """Accept nothing more, and give up the uploads that are still on their way."""
        self.draining = True
        for limit in self._receiving:
            if not limit.expired():
                limit.reschedule(0)

    def close(self) -> None:
        """Wait for what the threads are doing; the rest is dropped."""
        for pool in (self._cutters, self._finders):
            pool.shutdown(cancel_futures=True)
        self._batcher.close()

    @contextmanager
    def request(self) -> Generator[None]:
        """Let a request in, before its body is read, or refuse it at once.

        Raises:
            HTTPError: 503: what it asks for could not be accepted.
        """
        if self.draining:
            raise _about_to_end()
        if not self._warm:
            raise busy("the model is being loaded: try again a little later", "starting")
        self._check_room(1)
        self.in_flight += 1
        try:
            yield
        finally:
            self.in_flight -= 1

    @asynccontextmanager
    async def body(self, request: Request) -> AsyncGenerator[bytearray]:
        """Read the body of a request within the limits; `drain` gives it up.

        Raises:
            HTTPError: 408, 413 or 503.
        """
        seconds = self._options.upload_seconds
        limit = asyncio.timeout(seconds)
        self._receiving.add(limit)
        async with AsyncExitStack() as stack:
            try:
                async with limit:
                    content = await stack.enter_async_context(self.upload_reader.body(request))
            except TimeoutError:
                if self.draining:
                    raise _about_to_end() from None
                text = f"expected the whole request within {seconds:g} seconds: send a smaller image"
                raise HTTPError(408, "upload-slow", text, {"Connection": "close"}) from None
            finally:
                self._receiving.discard(limit)
            yield content

    @contextmanager
    def accept(self, images: int) -> Generator[float]:
        """Take places in the queue; gives the time of the event loop by which the answer is due.

        Raises:
            HTTPError: 503.
        """
        self._check_room(images)
        self._accepted += images
        try:
            yield asyncio.get_running_loop().time() + self._options.deadline
        finally:
            self._accepted -= images

    def _check_room(self, images: int) -> None:
        if self._accepted + images > self._options.queue:
            raise busy(f"{self._accepted} of {self._options.queue} places are taken: try again a little later")

    async def predict(self, upload: Upload, due: float) -> Answer:
        """Poses of one accepted image.

        Args:
            upload: the image.
            due: see `accept`.

        Raises:
            HTTPError: 413 or 422 for the image, 504 when it is too late, 500 when the model failed.
        """
        try:
            async with asyncio.timeout_at(due):
                return await self._predict(upload)
        except TimeoutError:
            text = f"no answer within {self._options.deadline:g} seconds: the server has too much to do, or it is stuck"
            raise HTTPError(504, "deadline", text) from None

    async def _predict(self, upload: Upload) -> Answer:
        keypoints, batches = None, list[int]()
        try:
            size_hw, prepared = await self._prepare(upload)
            if len(prepared.images):
                keypoints, batches = await self._run(prepared.images)
            result = self.predictor.finish(prepared, keypoints)
        except DistilPoseError as error:
            raise _model_failed(error) from error
        self._metrics.image(len(result))
        return Answer(result, size_hw, batches)

    async def _run(self, images: NetworkInput) -> tuple[Keypoints, list[int]]:
        try:
            return await self._batcher(images)
        except Exception as error:  # each runtime has exceptions of its own
            raise _model_failed(error) from error

    async def _prepare(self, upload: Upload) -> _Cut:
        has_boxes = upload.boxes_xyxy is not None or self._whole_image
        async with self._to_cut if has_boxes else self._to_search:
            await self._batcher.room()
            self._preparing += 1
            try:
                if has_boxes:
                    return await self._in(self._cutters, lambda: self._decode_and_cut(upload))
                image = await self._in(self._cutters, lambda: self._decode(upload))
                people = await self._in(self._finders, lambda: self._find(image, upload))
                return await self._in(self._cutters, lambda: self._cut(image, people))
            finally:
                self._preparing -= 1

    @staticmethod
    async def _in(pool: ThreadPoolExecutor, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(pool, work)

    def _decode(self, upload: Upload) -> ImageArray:
        return decode_image(upload.content, self._options.max_pixels)

    def _decode_and_cut(self, upload: Upload) -> _Cut:
        image = self._decode(upload)
        if upload.boxes_xyxy is None:
            return self._cut(image, self._find(image, upload))
        return self._cut(image, PersonBoxes(upload.boxes_xyxy, np.ones(len(upload.boxes_xyxy))))

    def _find(self, image: ImageArray, upload: Upload) -> PersonBoxes:
        (found,) = self._detector([image])
        kept = best_rows(found.box_score, upload.max_people)
        return PersonBoxes(found.boxes_xyxy[kept], found.box_score[kept])

    def _cut(self, image: ImageArray, people: PersonBoxes) -> _Cut:
        prepared = self.predictor.prepare(image, people.boxes_xyxy, people.box_score)
        return _Cut((image.shape[0], image.shape[1]), prepared)


def _about_to_end() -> HTTPError:
    http_error = busy("the server is about to end: ask another one", "draining")
    http_error.headers["Connection"] = "close"
    return http_error


def _model_failed(error: Exception) -> HTTPError:
    expected = isinstance(error, DistilPoseError)
    logger.error("the model failed: %s", error, exc_info=None if expected else error)
    return HTTPError(500, "model", f"the model failed on this image: {' '.join(str(error).split())[:500]}")
