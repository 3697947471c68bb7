"""What a run tells while it trains: ``losses.csv``, ``evaluation.csv``, TensorBoard and the progress bar."""

from __future__ import annotations

import csv
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn
from torch import Tensor

from distilpose.errors import missing_package
from distilpose.files import write_file_atomically
from distilpose.types import ImageArray

EVALUATED = ("AP", "AP50", "AP75", "AR")


class Records:
    """Write every loss term by name and every AP, and show how far the run is; on other ranks than 0, do nothing.

    A resumed run continues the files; rows of steps that are done again are replaced. On something that is no terminal,
    one line per evaluated epoch stands for the bar.

    Args:
        out: folder of the run.
        console: where the bar is drawn.
        every: steps between rows; a row holds the mean since the last one.
        epochs: of the run.
        steps_per_epoch: batches of one process.
        steps: that are done already.
        processes: of the run.
        active: False on other ranks than 0.

    Raises:
        ConfigError: tensorboard is not installed.
    """

    def __init__(
        self, out: Path, console: Console, *, every: int, epochs: int, steps_per_epoch: int, steps: int,
        processes: int, active: bool = True,
    ) -> None:  # fmt: skip
        self._active, self._console, self._processes = active, console, processes
        self._every, self._epochs, self._steps_per_epoch = every, epochs, steps_per_epoch
        self._sums: dict[str, Tensor] = {}
        self._count = self._crops = self._seen = 0
        self._since = self._seen_since = time.monotonic()
        self._loss, self._best = 0.0, ""
        if not active:
            return
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise missing_package("tensorboard", "training") from error
        self._losses, self._evaluation = out / "losses.csv", out / "evaluation.csv"
        for file in (self._losses, self._evaluation):
            _keep_rows(file, steps)
        self._board = SummaryWriter(out / "tensorboard", purge_step=steps or None)
        self._progress = Progress(
            "{task.description}", BarColumn(), MofNCompleteColumn(), "{task.fields[speed]} samples/s",
            TimeRemainingColumn(), console=console, disable=not console.is_terminal,
        )  # fmt: skip
        self._bar = self._progress.add_task("training", total=epochs * steps_per_epoch, completed=steps, speed="-")

    def __enter__(self) -> Self:
        if self._active:
            self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Close the files and the bar, also after an error."""
        if self._active:
            self._progress.stop()
            self._board.close()

    def begin_epoch(self) -> None:
        """Time spent outside the steps is not counted as training."""
        self._seen, self._seen_since = 0, time.monotonic()
        self._since = self._seen_since if self._count == 0 else self._since

    def add_step(self, epoch: int, steps: int, crops: int, rate: float, terms: Mapping[str, Tensor]) -> None:
        """Collect the terms of a step, the ``steps``-th of the run; write a row when it is time."""
        if not self._active:
            return
        for name, value in terms.items():
            self._sums[name] = self._sums[name] + value if name in self._sums else value
        self._count += 1
        self._crops += crops * self._processes
        self._seen += crops * self._processes
        if steps % 10 == 0 or not self._loss:
            self._loss = float(terms["total"])
        now = time.monotonic()
        text = f"epoch {epoch}/{self._epochs} loss {self._loss:.5f}{self._best}"
        speed = self._seen / max(now - self._seen_since, 1e-9)
        self._progress.update(self._bar, completed=steps, description=text, speed=f"{speed:.1f}")
        if self._count < self._every and steps % self._steps_per_epoch:
            return
        means = {name: (total / self._count).item() for name, total in self._sums.items()}
        speed = self._crops / max(now - self._since, 1e-9)
        row = {"step": steps, "epoch": epoch, "learning_rate": rate, "samples_per_second": round(speed, 1)}
        _append_row(self._losses, {**row, **means})
        values = {f"train/{name}": value for name, value in means.items()}
        self._log({**values, "learning_rate": rate, "samples_per_second": speed}, steps)
        self._sums, self._count, self._crops, self._since = {}, 0, 0, now

    def add_evaluation(self, epoch: int, steps: int, metrics: Mapping[str, float], best: str) -> None:
        """Write the AP of an epoch; ``best`` says what was best so far."""
        self._best = best
        values = {name: metrics[name] for name in EVALUATED}
        _append_row(self._evaluation, {"step": steps, "epoch": epoch, **values})
        self._log({f"validation/{name}": value for name, value in values.items()}, steps)
        if not self._console.is_terminal:
            self._console.print(f"epoch {epoch}/{self._epochs}: AP {metrics['AP'] * 100:.1f}{best}")

    def add_image(self, tag: str, image: ImageArray, steps: int) -> None:
        """Show an (H, W, 3) uint8 RGB image in TensorBoard."""
        self._board.add_image(tag, image, steps, dataformats="HWC")

    def _log(self, values: Mapping[str, Any], steps: int) -> None:
        for name, value in values.items():
            self._board.add_scalar(name, value, steps)


def _append_row(path: Path, row: Mapping[str, object]) -> None:
    """Add a row to a table; the first one also writes the header."""
    new = not path.exists()
    with path.open("a", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([row, row.values()] if new else [row.values()])


def _keep_rows(path: Path, steps: int) -> None:
    """Drop the rows of later steps, and a last one that was cut."""
    if not path.exists():
        return
    with path.open(newline="", encoding="utf-8") as file:
        header, *rows = list(csv.reader(file)) or [[]]
    kept = [row for row in rows if len(row) == len(header) and int(row[0]) <= steps]
    with write_file_atomically(path) as part, part.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *kept])
