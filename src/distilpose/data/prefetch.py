"""Work side by side: an iterator run ahead in a thread, and a map over threads that keeps the order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import Any, TypeVar

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")

_END: Any = object()


def prefetch(items: Iterable[ItemT], size: int) -> Generator[ItemT]:
    """The same items, produced by a thread of their own up to ``size`` ahead.

    An error of ``items`` is raised in its place. Closing waits for the item in production, then closes ``items``.
    """
    iterator = iter(items)
    pending: deque[Future[ItemT]] = deque()
    pool = ThreadPoolExecutor(1, thread_name_prefix="ahead")
    try:
        while True:
            pending.extend(pool.submit(next, iterator, _END) for _ in range(size - len(pending)))
            item = pending.popleft().result()
            if item is _END:
                return
            yield item
    finally:
        pool.shutdown(cancel_futures=True)
        close(iterator)


def map_in_threads(
    function: Callable[[ItemT], ResultT], items: Iterable[ItemT], *, threads: int, ahead: int
) -> Generator[ResultT]:
    """``map``, with calls in threads up to ``ahead`` of the one that is waited for."""
    rest = iter(items)
    pending: deque[Future[ResultT]] = deque()
    pool = ThreadPoolExecutor(threads, thread_name_prefix="map")
    try:
        while True:
            pending.extend(pool.submit(function, item) for item in islice(rest, ahead - len(pending)))
            if not pending:
                return
            yield pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
        close(rest)


def close(iterator: Iterator[Any]) -> None:
    """Close a generator; other iterators have nothing to close."""
    if isinstance(iterator, Generator):
        iterator.close()
