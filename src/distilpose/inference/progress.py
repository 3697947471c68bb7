"""How far a batch is: a bar with rate and time left on the standard error stream, or nothing."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Self, TypeVar

from distilpose.errors import printable
from distilpose.inference.interruption import Interruption

if TYPE_CHECKING:
    from rich.progress import TaskID

ItemT = TypeVar("ItemT")


class Meter:
    """Shows how far the work on several sources is.

    Args:
        show: False shows nothing.
        interruption: that may end the work early.
    """

    def __init__(self, show: bool, interruption: Interruption | None = None) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(elapsed_when_finished=True),
            TextColumn("{task.fields[note]}", markup=False),
            console=Console(stderr=True),
            disable=not show,
        )
        self._interruption = interruption
        self._task: TaskID | None = None

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def track(self, items: Iterable[ItemT], title: str, unit: str, total: int | None) -> Iterator[ItemT]:
        """The same items, counted; ``total`` is how many will come, if that is known."""
        self._task = task = self._progress.add_task(printable(title), total=total, rate="", note="")
        start = time.perf_counter()
        for done, item in enumerate(items, start=1):
            yield item
            rate = f"{done / (time.perf_counter() - start):.1f} {unit}/s"
            self._progress.update(task, completed=done, rate=rate)
        if self._interruption is None or not self._interruption.requested:  # else it would look finished
            self._progress.update(task, total=self._progress.tasks[task].completed)

    def note(self, text: object) -> None:
        """Show a remark beside the bar."""
        if self._task is not None:
            self._progress.update(self._task, note=printable(text))
