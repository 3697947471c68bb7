"""Around the steps of a run: evaluation, checkpoints, records and the progress display."""

from __future__ import annotations

import csv
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from distilpose.backends.checkpoint import save_checkpoint
from distilpose.backends.description import ModelDescription
from distilpose.backends.torch import TorchBackend
from distilpose.compat import current_names
from distilpose.errors import ConfigError
from distilpose.evaluation.evaluate import EvaluationSet, evaluate_set
from distilpose.inference.decoding import FlipTest
from distilpose.training.module import PoseTraining

STATE_NAME = "state.ckpt"
EVALUATED = ("AP", "AP50", "AP75", "AR")


class Checkpoints(Callback):
    """Measure AP and write ``best.safetensors``, ``last.safetensors`` and the state to resume from.

    Every file is written beside its place and then moved there, so that a kill never leaves half a file.

    Args:
        out: folder of the run.
        description: of the model.
        validation: what AP is measured on; without it there is no best file.
        flip_test: of the measurement.
        every: epochs between measurements.
        summary: what the files say about the run.
    """

    def __init__(
        self,
        out: Path,
        description: ModelDescription,
        validation: EvaluationSet | None,
        flip_test: FlipTest,
        every: int,
        summary: Mapping[str, Any],
    ) -> None:
        self._out = out
        self._description = description
        self._validation = validation
        self._flip_test = flip_test
        self._every = every
        self._summary = summary
        self.metrics: dict[str, float] = {}
        self.best_ap: float | None = None
        self.best_epoch: int | None = None

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run must remember."""
        return {
            "best_ap": self.best_ap,
            "best_epoch": self.best_epoch,
            "metrics": self.metrics,
            "teacher": self._summary.get("teacher_description"),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Remember it.

        Raises:
            ConfigError: the run was started with another teacher.
        """
        if "teacher" in state_dict:
            _check_teacher(
                self._out, current_names(state_dict["teacher"] or {}), self._summary.get("teacher_description") or {}
            )
        self.best_ap, self.best_epoch = state_dict["best_ap"], state_dict["best_epoch"]
        self.metrics = state_dict["metrics"]

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Evaluate when it is time, then write."""
        assert isinstance(pl_module, PoseTraining)
        epoch = trainer.current_epoch + 1
        if trainer.is_global_zero:
            self._evaluate_and_save(pl_module, epoch, last=epoch == trainer.max_epochs, step=trainer.global_step)
        part = self._out / (STATE_NAME + ".part")
        trainer.save_checkpoint(part)
        if trainer.is_global_zero:
            os.replace(part, self._out / STATE_NAME)
        trainer.strategy.barrier()

    def _evaluate_and_save(self, module: PoseTraining, epoch: int, last: bool, step: int) -> None:
        model = module.best_weights
        training: dict[str, Any] = {**self._summary, "epoch": epoch, "steps": step}
        better = False
        if self._validation is not None and (last or epoch % self._every == 0):
            was_training = model.training
            backend = TorchBackend(model, self._description)
            self.metrics = dict(evaluate_set(backend, self._validation, flip_test=self._flip_test).metrics)
            model.train(was_training)
            training["validation"] = {"flip_test": self._flip_test, **self.metrics}
            better = self.best_ap is None or self.metrics["AP"] > self.best_ap
        skeleton = self._description.skeleton
        save_checkpoint(model, self._out / "last.safetensors", skeleton=skeleton, training=training)
        if better:
            self.best_ap, self.best_epoch = self.metrics["AP"], epoch
            save_checkpoint(model, self._out / "best.safetensors", skeleton=skeleton, training=training)


def _check_teacher(out: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    changed = sorted(key for key in {*before, *now} if before.get(key) != now.get(key))
    if changed:
        raise ConfigError(
            f"{out} holds a run with another teacher ({', '.join(changed)} changed): take that one again, or choose "
            "another out"
        )


class Records(Callback):
    """Write every loss term by name to ``losses.csv`` and TensorBoard, and AP to ``evaluation.csv``.

    A resumed run continues the files; rows of steps that are done again are replaced.

    Args:
        out: folder of the run.
        every: steps between rows; a row holds the mean since the last one.
        checkpoints: where the latest AP is.
    """

    def __init__(self, out: Path, every: int, checkpoints: Checkpoints) -> None:
        self._losses = CsvFile(out / "losses.csv")
        self._evaluation = CsvFile(out / "evaluation.csv")
        self._every = every
        self._checkpoints = checkpoints
        self._sums: dict[str, Tensor] = {}
        self._count = 0
        self._since = time.monotonic()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Drop rows beyond the state that the run resumes from."""
        if trainer.is_global_zero:
            self._losses.keep_up_to(trainer.global_step)
            self._evaluation.keep_up_to(trainer.global_step)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Time spent outside the steps is not counted as training."""
        self._since = time.monotonic() if self._count == 0 else self._since

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Collect the terms; write a row when it is time."""
        for name, value in outputs["terms"].items():
            self._sums[name] = self._sums.get(name, torch.zeros_like(value)) + value
        self._count += 1
        if self._count < self._every and batch_idx + 1 < trainer.num_training_batches:
            return
        if trainer.is_global_zero:
            self._write(trainer, len(batch.images) * trainer.world_size)
        self._sums, self._count, self._since = {}, 0, time.monotonic()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the AP of this epoch, if it was measured; `Checkpoints` stands before this callback."""
        metrics = self._checkpoints.metrics
        if not trainer.is_global_zero or not metrics:
            return
        row = {"epoch": trainer.current_epoch + 1, **{name: metrics[name] for name in EVALUATED}}
        self._evaluation.append(trainer.global_step, row)
        for logger in trainer.loggers:
            logger.log_metrics({f"validation/{name}": metrics[name] for name in EVALUATED}, step=trainer.global_step)
        self._checkpoints.metrics = {}

    def _write(self, trainer: Trainer, batch_size: int) -> None:
        means = {name: (total / self._count).item() for name, total in self._sums.items()}
        rate = trainer.optimizers[0].param_groups[0]["lr"]
        seconds = time.monotonic() - self._since
        speed = batch_size * self._count / max(seconds, 1e-9)
        row = {"epoch": trainer.current_epoch + 1, "learning_rate": rate, "samples_per_second": round(speed, 1)}
        self._losses.append(trainer.global_step, {**row, **means})
        for logger in trainer.loggers:
            values = {f"train/{name}": value for name, value in means.items()}
            logger.log_metrics({**values, "learning_rate": rate, "samples_per_second": speed}, step=trainer.global_step)


class CsvFile:
    """A table that grows row by row, its first column the step."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def append(self, step: int, row: Mapping[str, object]) -> None:
        """Add a row; the first one also writes the header."""
        new = not self._path.exists()
        with self._path.open("a", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            if new:
                writer.writerow(["step", *row])
            writer.writerow([step, *row.values()])

    def keep_up_to(self, step: int) -> None:
        """Drop the rows of later steps."""
        if not self._path.exists():
            return
        with self._path.open(newline="", encoding="utf-8") as file:
            header, *rows = list(csv.reader(file)) or [[]]
        kept = [row for row in rows if row and int(row[0]) <= step]
        part = self._path.with_suffix(".part")
        with part.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([header, *kept])
        os.replace(part, self._path)


class ProgressDisplay(Callback):
    """A rich progress bar over the whole run: epoch, loss, AP, samples per second, time left.

    Args:
        console: where to draw; on something that is no terminal, one line per evaluated epoch.
        checkpoints: where the latest AP is.
    """

    def __init__(self, console: Console, checkpoints: Checkpoints) -> None:
        self._console = console
        self._checkpoints = checkpoints
        self._progress: Progress | None = None
        self._bar: Any = None
        self._loss = 0.0
        self._seen, self._since = 0, 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Open the bar."""
        if not trainer.is_global_zero:
            return
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[speed]} samples/s"),
            TimeRemainingColumn(),
        )
        self._progress = Progress(*columns, console=self._console, disable=not self._console.is_terminal)
        total = int(trainer.num_training_batches) * (trainer.max_epochs or 1)
        self._bar = self._progress.add_task("training", total=total, completed=trainer.global_step, speed="-")
        self._progress.start()
        self._seen, self._since = 0, time.monotonic()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Move the bar."""
        if self._progress is None:
            return
        self._seen += len(batch.images) * trainer.world_size
        speed = f"{self._seen / max(time.monotonic() - self._since, 1e-9):.1f}"
        if trainer.global_step % 10 == 0 or batch_idx == 0:
            self._loss = float(outputs["terms"]["total"])
        text = f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs} loss {self._loss:.5f}{self._best()}"
        self._progress.update(self._bar, completed=trainer.global_step, description=text, speed=speed)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Where there is no terminal, say how far the run is."""
        if self._progress is None:
            return
        if not self._console.is_terminal and self._checkpoints.metrics:
            ap = self._checkpoints.metrics["AP"] * 100
            self._console.print(f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}: AP {ap:.1f}{self._best()}")
        self._seen, self._since = 0, time.monotonic()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Close the bar, also after an error."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None

    def _best(self) -> str:
        best = self._checkpoints.best_ap
        return "" if best is None else f", best AP {best * 100:.1f} (epoch {self._checkpoints.best_epoch})"
