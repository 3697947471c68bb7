"""Poses for many requests at once: queue, decoding, detection, crops, the model in batches."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np

from distilpose.backends.device import usable_cores
from distilpose.detection.detectors import Detector
from distilpose.errors import DistilPoseError, UnforeseenError
from distilpose.formats.boxes import PersonBoxes
from distilpose.geometry.boxes import overlaps_image
from distilpose.inference.people import best_rows
from distilpose.inference.predictor import PosePredictor
from distilpose.inference.result import PoseResult
from distilpose.serving.batcher import Batcher
from distilpose.serving.errors import HTTPError, about_to_end, busy, unusable
from distilpose.serving.metrics import Metrics
from distilpose.serving.options import DECODERS, ServeOptions
from distilpose.serving.uploads import Upload, UploadReader, decode_image
from distilpose.types import ImageArray

logger = logging.getLogger(__name__)


class Answer(NamedTuple):
    """What became of an image."""

    result: PoseResult  # its people
    size_hw: tuple[int, int]  # (H, W) of the upright image in pixels
    batches: list[int]  # crops in the runs of the model that it was part of


class PoseService:
    """Poses for many requests at once, in bounded memory. Used from one event loop, made in any thread.

    At most ``queue`` images are accepted. Of those only a few are decoded at a time, and no more crops are cut than
    the model will soon want. Images with boxes do not wait for those that the detector has to look at.

    The predictor's batch size is that of the server. The detector is asked about images without boxes, by one thread at
    a time.
    """

    def __init__(self, predictor: PosePredictor, detector: Detector, options: ServeOptions) -> None:
        self.predictor, self.options, self.metrics = predictor, options, Metrics()
        self.draining = False  # nothing new is accepted
        self.accepted = 0  # images accepted and not answered yet
        self.in_flight = 0  # requests in work, from their headers to their answer
        self.failure: Exception | None = None  # why the model could not even be warmed up
        self.upload_reader = UploadReader(options)
        self._detector = detector
        threads = max(2, min(DECODERS, usable_cores()))
        self._cutters = ThreadPoolExecutor(threads, thread_name_prefix="decode")
        self._finders = ThreadPoolExecutor(1, thread_name_prefix="detect")
        self._to_cut, self._to_search = asyncio.Semaphore(threads), asyncio.Semaphore(threads)  # decoded images
        self._preparing = 0
        self._warm = False
        self._batcher = Batcher(
            predictor.run,
            batch_size=predictor.batch_size,
            max_wait=options.max_wait_ms / 1000,
            more_to_come=lambda: self._preparing > 0,
            on_batch=self._count_batch,
        )
        self.metrics.queue.set_function(lambda: self.accepted)
        self.metrics.held.set_function(lambda: self.upload_reader.held)
        self.metrics.ready.set_function(lambda: self.ready)

    @property
    def ready(self) -> bool:
        """Warm, and not about to end."""
        return self._warm and not self.draining

    def _count_batch(self, crops: int, seconds: float) -> None:
        self.metrics.crops.observe(crops)
        self.metrics.model_seconds.observe(seconds)

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
        self.upload_reader.give_up()

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
            raise about_to_end()
        if not self._warm:
            raise busy("the model is being loaded: try again a little later", "starting")
        self._check_room(1)
        self.in_flight += 1
        try:
            yield
        finally:
            self.in_flight -= 1

    @contextmanager
    def accept(self, images: int) -> Generator[float]:
        """Take places in the queue; gives the time of the event loop by which the answer is due.

        Raises:
            HTTPError: 503.
        """
        self._check_room(images)
        self.accepted += images
        try:
            yield asyncio.get_running_loop().time() + self.options.deadline
        finally:
            self.accepted -= images

    def _check_room(self, images: int) -> None:
        if self.accepted + images > self.options.queue:
            raise busy(f"{self.accepted} of {self.options.queue} places are taken: try again a little later")

    async def predict(self, upload: Upload, due: float) -> Answer:
        """Poses of one accepted image; for ``due`` see `accept`.

        Raises:
            HTTPError: 413 or 422 for the image, 504 when it is too late, 500 when model or detector failed.
        """
        try:
            async with asyncio.timeout_at(due):
                answer = await self._predict(upload)
        except TimeoutError:
            text = f"no answer within {self.options.deadline:g} seconds: the server has too much to do, or it is stuck"
            raise HTTPError(504, "deadline", text) from None
        except DistilPoseError as error:
            logger.error("the model failed: %s", error, exc_info=error if isinstance(error, UnforeseenError) else None)
            text = f"the model failed on this image: {' '.join(str(error).split())[:500]}"
            raise HTTPError(500, "model", text) from error
        self.metrics.images.inc()
        self.metrics.people.inc(len(answer.result))
        return answer

    async def _predict(self, upload: Upload) -> Answer:
        in_thread = asyncio.get_running_loop().run_in_executor
        async with self._to_search if upload.boxes_xyxy is None else self._to_cut:
            await self._batcher.room()
            self._preparing += 1
            try:
                image = await in_thread(self._cutters, decode_image, upload.content, self.options.max_pixels)
                if upload.boxes_xyxy is None:
                    people = await in_thread(self._finders, self._find, image, upload.max_people)
                else:
                    if not overlaps_image(upload.boxes_xyxy, image.shape[:2]).all():
                        raise unusable("boxes", "each box must be at least partly inside of the image")
                    people = PersonBoxes(upload.boxes_xyxy, np.ones(len(upload.boxes_xyxy)))
                cut = (image, people.boxes_xyxy, people.box_score)
                prepared = await in_thread(self._cutters, self.predictor.prepare, *cut)
            finally:
                self._preparing -= 1
        keypoints, batches = await self._batcher(prepared.images) if len(prepared.images) else (None, [])
        return Answer(self.predictor.finish(prepared, keypoints), (image.shape[0], image.shape[1]), batches)

    def _find(self, image: ImageArray, max_people: int) -> PersonBoxes:
        (found,) = self._detector([image])
        kept = best_rows(found.box_score, max_people)
        return PersonBoxes(found.boxes_xyxy[kept], found.box_score[kept])
