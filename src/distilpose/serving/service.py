"""Poses for many requests at once: queue, decoding, detection, crops, the model in batches."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np

from distilpose.backends.device import usable_cores
from distilpose.data.preprocess import NetworkInput
from distilpose.detection.detectors import Detector
from distilpose.errors import DistilPoseError, UnforeseenError
from distilpose.formats.boxes import PersonBoxes
from distilpose.geometry.boxes import overlaps_image
from distilpose.inference.decoding import Keypoints, join_keypoints
from distilpose.inference.people import best_rows, checked_people
from distilpose.inference.predictor import PosePredictor
from distilpose.inference.result import PoseResult
from distilpose.serving.errors import HTTPError, about_to_end, busy, unusable
from distilpose.serving.metrics import Metrics
from distilpose.serving.options import DECODERS, ServeOptions
from distilpose.serving.uploads import Upload, UploadReader, decode_image
from distilpose.types import ImageArray

logger = logging.getLogger(__name__)

RUNS_AHEAD = 2  # one in the worker, one full batch behind it, so that the worker never waits for the event loop
ROOM_BATCHES = 4  # crops waiting beyond so many batches: no new ones are cut


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
                count = len(prepared.transforms)
                crops = await in_thread(self._cutters, self.predictor.crops, prepared, 0, count)
            finally:
                self._preparing -= 1
        keypoints, batches = await self._batcher(crops) if count else (None, [])
        return Answer(self.predictor.finish(prepared, keypoints), (image.shape[0], image.shape[1]), batches)

    def _find(self, image: ImageArray, max_people: int) -> PersonBoxes:
        (found,) = checked_people(self._detector([image]), 1)
        kept = best_rows(found.box_score, max_people)
        return PersonBoxes(found.boxes_xyxy[kept], found.box_score[kept])


@dataclass(eq=False)
class _Crop:
    image: NetworkInput  # (1, 3, H, W)
    done: asyncio.Future[tuple[Keypoints, int, int]]  # its keypoints, the number of its batch, crops in that
    came: float  # time of the event loop


class Batcher:
    """Runs a model in a thread of its own, in batches filled from whatever waits. Used from one event loop.

    A full batch goes at once. A smaller one goes when the worker is idle and either nothing more is on its way or
    its oldest crop has waited for ``max_wait``.
    """

    def __init__(
        self,
        run: Callable[[NetworkInput], Keypoints],  # of 1 to ``batch_size`` crops; never called twice at the same time
        *,
        batch_size: int,
        max_wait: float,  # seconds
        more_to_come: Callable[[], bool],  # whether images are being prepared right now
        on_batch: Callable[[int, float], None],  # told the crops and seconds of each run
    ) -> None:
        self._run, self._batch_size, self._max_wait = run, batch_size, max_wait
        self._more_to_come, self._on_batch = more_to_come, on_batch
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="model")
        self._waiting: deque[_Crop] = deque()
        self._running = self._batches = 0
        self._timer: asyncio.TimerHandle | None = None
        self._room = asyncio.Event()
        self._room.set()

    async def __call__(self, images: NetworkInput) -> tuple[Keypoints, list[int]]:
        """Wait for the keypoints of one image, (N, 3, H, W) crops, and how many crops their batches had; N >= 1.

        When the caller is cancelled, its crops that have not been run are dropped.
        """
        loop = asyncio.get_running_loop()
        crops = [_Crop(images[row : row + 1], loop.create_future(), loop.time()) for row in range(len(images))]
        self._waiting += crops
        self._pump()
        try:
            found = await asyncio.gather(*(crop.done for crop in crops))
        finally:
            for crop in crops:
                crop.done.cancel()
            self._update_room()
        sizes = {batch: size for _, batch, size in found}
        return join_keypoints([keypoints for keypoints, _, _ in found]), list(sizes.values())

    async def room(self) -> None:
        """Wait until more crops are wanted: those cut too early would only take memory."""
        while not self._room.is_set():
            await self._room.wait()

    def close(self) -> None:
        """Wait for the run in work; nobody waits for those behind it."""
        self._stop_timer()
        self._worker.shutdown(cancel_futures=True)

    def _pump(self) -> None:
        """Start what can be started."""
        self._update_room()
        while self._running < RUNS_AHEAD and len(self._waiting) >= self._batch_size:
            self._start()
        if self._waiting and not self._running:
            loop, due = asyncio.get_running_loop(), self._waiting[0].came + self._max_wait
            if loop.time() >= due or not self._more_to_come():
                self._start()
            else:
                self._stop_timer()
                self._timer = loop.call_at(due, self._pump)
        self._update_room()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _update_room(self) -> None:
        """Forget the crops that nobody waits for any more, and see how many are left."""
        self._waiting = deque(crop for crop in self._waiting if not crop.done.done())
        (self._room.set if len(self._waiting) < ROOM_BATCHES * self._batch_size else self._room.clear)()

    def _start(self) -> None:
        crops = [self._waiting.popleft() for _ in range(min(self._batch_size, len(self._waiting)))]
        self._running += 1
        self._batches += 1
        run = asyncio.get_running_loop().run_in_executor(self._worker, self._timed_run, [crop.image for crop in crops])
        run.add_done_callback(partial(self._finish, crops, self._batches))

    def _timed_run(self, images: list[NetworkInput]) -> tuple[Keypoints, float]:
        start = time.perf_counter()
        batch: NetworkInput = np.concatenate(images)  # type: ignore[assignment]  # all of one kind
        return self._run(batch), time.perf_counter() - start

    def _finish(self, crops: list[_Crop], batch: int, run: asyncio.Future[tuple[Keypoints, float]]) -> None:
        self._running -= 1
        if run.cancelled():
            return
        error = run.exception()
        if error is None:
            keypoints, seconds = run.result()
            self._on_batch(len(crops), seconds)
        for row, crop in enumerate(crops):
            if crop.done.done():
                continue
            if error is not None:
                crop.done.set_exception(error)
            else:
                crop.done.set_result((keypoints.rows(row, row + 1), batch, len(crops)))
        self._pump()
