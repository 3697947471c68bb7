"""Work side by side keeps its order, its bounds and its errors."""

import threading
import time
from collections.abc import Iterator

import pytest

from distilpose.data.prefetch import map_in_threads, prefetch


def counted(limit: int, produced: list[int], closed: list[bool] | None = None) -> Iterator[int]:
    try:
        for number in range(limit):
            produced.append(number)
            yield number
    finally:
        if closed is not None:
            closed.append(True)


def test_run_ahead_keeps_order_and_runs_no_further_than_allowed() -> None:
    produced: list[int] = []
    most = 0
    for position, item in enumerate(prefetch(counted(50, produced), 4)):
        assert item == position
        time.sleep(0.001)
        most = max(most, len(produced) - position)
    assert 2 <= most <= 5
    assert list(prefetch([], 3)) == []


def test_run_ahead_works_in_another_thread() -> None:
    threads = prefetch((threading.current_thread().name for _ in range(3)), 2)
    assert all(name.startswith("ahead") for name in threads)


def test_an_error_comes_in_its_place() -> None:
    def failing() -> Iterator[int]:
        yield 1
        yield 2
        raise OSError("gone")

    items = prefetch(failing(), 4)
    assert [next(items), next(items)] == [1, 2]
    with pytest.raises(OSError, match="gone"):
        next(items)


def test_closing_closes_what_it_reads_from() -> None:
    for stage in (lambda items: prefetch(items, 3), lambda items: map_in_threads(abs, items, threads=2, ahead=3)):
        closed: list[bool] = []
        stream = stage(counted(100, [], closed))
        next(stream)
        stream.close()
        assert closed == [True]


def test_map_in_threads_is_map() -> None:
    def slow_first(number: int) -> int:
        time.sleep(0.02 if number == 0 else 0)
        return number**2

    produced: list[int] = []
    assert list(map_in_threads(slow_first, counted(20, produced), threads=3, ahead=5)) == [n**2 for n in range(20)]
    results = map_in_threads(slow_first, counted(20, produced := []), threads=2, ahead=4)
    next(results)
    assert len(produced) == 4
    results.close()
