"""Crops of several requests in one run of the model."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from distilpose.data.preprocess import NetworkInput
from distilpose.inference.decoding import Keypoints, join_keypoints

RUNS_AHEAD = 2  # one in the worker, one full batch behind it, so that the worker never waits for the event loop
ROOM_BATCHES = 4  # crops waiting beyond so many batches: no new ones are cut


@dataclass(eq=False)
class _Waiting:
    """The crops of one image."""

    images: NetworkInput
    done: asyncio.Future[Keypoints]
    came: float  # time of the event loop
    taken: int = 0  # crops given to the worker so far
    found: int = 0  # crops that came back from it
    parts: list[Keypoints] = field(default_factory=list)
    batches: list[int] = field(default_factory=list)  # crops in the batches that it was part of

    @property
    def crops_left(self) -> int:
        return len(self.images) - self.taken


class Batcher:
    """Runs a model in a thread of its own, in batches filled from whatever waits. Used from one event loop.

    A full batch goes at once. A smaller one goes when the worker is idle and either nothing more is on its way or
    its oldest crop has waited for ``max_wait``.

    Args:
        run: 1 to ``batch_size`` crops to their keypoints; never called twice at the same time.
        batch_size: most crops of a run.
        max_wait: seconds.
        more_to_come: whether images are being prepared right now.
        on_batch: told the crops and seconds of each run.
    """

    def __init__(
        self,
        run: Callable[[NetworkInput], Keypoints],
        *,
        batch_size: int,
        max_wait: float,
        more_to_come: Callable[[], bool],
        on_batch: Callable[[int, float], None],
    ) -> None:
        self._run, self._batch_size, self._max_wait = run, batch_size, max_wait
        self._more_to_come, self._on_batch = more_to_come, on_batch
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="model")
        self._waiting: deque[_Waiting] = deque()
        self._running = 0
        self._timer: asyncio.TimerHandle | None = None
        self._room = asyncio.Event()
        self._room.set()

    async def __call__(self, images: NetworkInput) -> tuple[Keypoints, list[int]]:
        """Wait for the keypoints of one image.

        When the caller is cancelled, its crops that have not been run are dropped.

        Args:
            images: (N, 3, H, W) crops, N >= 1.

        Returns:
            Keypoints of the N crops, and how many crops the batches had that they were in.
        """
        loop = asyncio.get_running_loop()
        item = _Waiting(images, loop.create_future(), loop.time())
        self._waiting.append(item)
        self._pump()
        try:
            return await item.done, item.batches
        finally:
            if item in self._waiting:
                self._waiting.remove(item)
                self._update_room()

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
        crops = sum(item.crops_left for item in self._waiting)
        while self._running < RUNS_AHEAD and crops >= self._batch_size:
            crops -= self._start()
        if crops and not self._running:
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
        crops = sum(item.crops_left for item in self._waiting)
        (self._room.set if crops < ROOM_BATCHES * self._batch_size else self._room.clear)()

    def _start(self) -> int:
        """Give the worker a batch; returns its crops."""
        shares: list[tuple[_Waiting, NetworkInput]] = []
        free = self._batch_size
        while free and self._waiting:
            item = self._waiting[0]
            share = item.images[item.taken : item.taken + free]
            shares.append((item, share))
            item.taken += len(share)
            free -= len(share)
            if not item.crops_left:
                self._waiting.popleft()
        self._running += 1
        arrays = [share for _, share in shares]
        run = asyncio.get_running_loop().run_in_executor(self._worker, self._timed_run, arrays)
        run.add_done_callback(partial(self._finish, [(item, len(share)) for item, share in shares]))
        return self._batch_size - free

    def _timed_run(self, arrays: list[NetworkInput]) -> tuple[Keypoints, float]:
        start = time.perf_counter()
        images: NetworkInput = np.concatenate(arrays)  # type: ignore[assignment]  # all of one kind
        return self._run(images), time.perf_counter() - start

    def _finish(self, shares: list[tuple[_Waiting, int]], run: asyncio.Future[tuple[Keypoints, float]]) -> None:
        self._running -= 1
        if run.cancelled():
            return
        error = run.exception()
        if error is not None:
            self._fail([item for item, _ in shares], error)
        else:
            crops, start = sum(count for _, count in shares), 0
            keypoints, seconds = run.result()
            self._on_batch(crops, seconds)
            for item, count in shares:
                item.parts.append(keypoints.rows(start, start + count))
                item.batches.append(crops)
                item.found += count
                start += count
                if item.found == len(item.images) and not item.done.done():
                    item.done.set_result(join_keypoints(item.parts))
        self._pump()

    def _fail(self, items: list[_Waiting], error: BaseException) -> None:
        for item in items:
            if item in self._waiting:
                self._waiting.remove(item)
            if not item.done.done():
                item.done.set_exception(error)
