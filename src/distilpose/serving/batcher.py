"""Crops of several requests in one run of the model."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np

from distilpose.data.preprocess import NetworkInput
from distilpose.inference.decoding import Keypoints, join_keypoints

RUNS_AHEAD = 2  # one in the worker, one full batch behind it, so that the worker never waits for the event loop
ROOM_BATCHES = 4  # crops waiting beyond so many batches: no new ones are cut


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
