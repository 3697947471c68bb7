"""How far a batch is: a bar with rate and time left on the standard error stream, or nothing."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Self, TypeVar

from distilpose.errors import printable
from distilpose.inference.interruption import Interruption

if TYPE_CHECKING:
    from rich.progress import Progress

ItemT = TypeVar("ItemT")


class Meter:
    """Shows how far the work on several sources is.

    Args:
        show: False shows nothing.
        interruption: that may end the work early.
    """

    def __init__(self, show: bool, interruption: Interruption | None = None) -> None:
        self._progress = _bar() if show else None
        self._interruption = interruption

    def __enter__(self) -> Self:
        if self._progress is not None:
            self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._progress is not None:
            self._progress.stop()

    def track(self, items: Iterable[ItemT], title: str, unit: str, total: int | None) -> Iterator[ItemT]:
        """The same items, counted; ``total`` is how many will come, if that is known."""
        if self._progress is None:
            yield from items
            return
        task = self._progress.add_task(printable(title), total=total, rate="")
        done, start = 0, time.perf_counter()
        for item in items:
            yield item
            done += 1
            rate = f"{done / (time.perf_counter() - start):.1f} {unit}/s"
            self._progress.update(task, completed=done, rate=rate)
        if self._interruption is None or not self._interruption.requested:  # else it would look finished
            self._progress.update(task, total=done)


def _bar() -> Progress:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(elapsed_when_finished=True),
        console=Console(stderr=True),
    )
