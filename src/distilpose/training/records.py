"""What a run writes: tables, images and a progress bar; its weights, and the state to resume from."""

from __future__ import annotations

import csv
import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from typing import Any, Self

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn
from torch import Tensor

from distilpose.backends.checkpoint import save_checkpoint
from distilpose.backends.description import ModelDescription
from distilpose.backends.torch import TorchBackend
from distilpose.compat import current_names
from distilpose.errors import CheckpointError, ConfigError, missing_package
from distilpose.evaluation.evaluate import EvaluationSet, evaluate_set
from distilpose.files import write_file_atomically
from distilpose.inference.decoding import FlipTest
from distilpose.inference.result import PoseResult
from distilpose.models import PoseModel
from distilpose.skeletons import Skeleton
from distilpose.training.config import TrainConfig
from distilpose.training.step import BatchView
from distilpose.types import Float32Array, ImageArray

EVALUATED = ("AP", "AP50", "AP75", "AR")
STATE_NAME = "state.ckpt"
LAST_NAME, BEST_NAME = "last.safetensors", "best.safetensors"
_FORMAT = 1
# What may differ when a run is resumed: how long and where it runs, what it writes, where its files lie. Rates may, as
# they are lowered after a divergence. `Checkpoints.load_state` compares the teachers themselves; of devices and
# data.batch_size the product counts.
_FREE = frozenset((
    "out", "epochs", "evaluate_every", "flip_test", "log_every", "accelerator", "precision", "devices",
    "sync_batchnorm", "teacher", "teacher_cache", "data.root", "data.workers", "data.check_images", "data.cache_images",
    "data.validation", "data.batch_size", "data.train.images", "optimizer.lr", "optimizer.warmup_steps",
    "optimizer.warmup_factor", "optimizer.schedule", "optimizer.milestones", "optimizer.gamma",
))  # fmt: skip
TAG = "heatmaps"
_MIN_HEIGHT = 256  # of a crop in the image; smaller ones are enlarged
_TITLE_HEIGHT = 24
_DIMMED = 0.4  # brightness of a crop under a heatmap


class Records:
    """Write every loss term by name and every AP, and show how far the run is; on other ranks than 0, do nothing.

    A resumed run continues the files; rows of steps that are done again are replaced. On something that is no terminal,
    one line per evaluated epoch stands for the bar. A row holds the mean since the last one. ``steps_per_epoch`` are
    the batches of one process, ``steps`` those that are done already; ``active`` is False on other ranks than 0.

    Raises:
        ConfigError: tensorboard is not installed.
    """

    def __init__(
        self, config: TrainConfig, console: Console, *, steps_per_epoch: int, steps: int, processes: int, active: bool
    ) -> None:
        self._active, self._console, self._processes = active, console, processes
        self._every, self._epochs, self._steps_per_epoch = config.log_every, config.epochs, steps_per_epoch
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
        out = Path(config.out)
        self._losses, self._evaluation = out / "losses.csv", out / "evaluation.csv"
        for file in (self._losses, self._evaluation):
            _keep_rows(file, steps)
        self._board = SummaryWriter(out / "tensorboard", purge_step=steps + 1)
        self._progress = Progress(
            "{task.description}", BarColumn(), MofNCompleteColumn(), "{task.fields[speed]} samples/s",
            TimeRemainingColumn(), console=console, disable=not console.is_terminal,
        )  # fmt: skip
        self._bar = self._progress.add_task(
            "training", total=config.epochs * steps_per_epoch, completed=steps, speed="-"
        )

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

    def add_view(self, crops: ImageArray, view: BatchView, skeleton: Skeleton, steps: int) -> None:
        """Show in TensorBoard what was made of crops; see `draw_view`."""
        self._board.add_image(TAG, draw_view(crops, view, skeleton), steps, dataformats="HWC")

    def _log(self, values: Mapping[str, Any], steps: int) -> None:
        for name, value in values.items():
            self._board.add_scalar(name, value, steps)


def _append_row(path: Path, row: Mapping[str, object]) -> None:
    """Add a row to a table; the first one also writes the header."""
    new = not path.exists() or path.stat().st_size == 0
    with path.open("a", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([row, row.values()] if new else [row.values()])


def _keep_rows(path: Path, steps: int) -> None:
    """Drop the rows of later steps, and a last one that was cut; delete a file without a header, as of a full disk."""
    if not path.exists():
        return
    with path.open(newline="", encoding="utf-8") as file:
        header, *rows = list(csv.reader(file)) or [[]]
    if not header:
        path.unlink()
        return
    kept = [row for row in rows if len(row) == len(header) and int(row[0]) <= steps]
    with write_file_atomically(path) as part, part.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *kept])


class Checkpoints:
    """Measure AP and write ``best.safetensors`` and ``last.safetensors`` into the folder of a run.

    Without ``validation`` there is no best file, and ``best_ap`` (a fraction) and ``best_epoch`` stay None. ``summary``
    is what the files say about the run.
    """

    def __init__(
        self,
        out: Path,
        description: ModelDescription,
        validation: EvaluationSet | None,
        flip_test: FlipTest,
        summary: Mapping[str, Any],
    ) -> None:
        self._out, self._description = out, description
        self._validation, self._flip_test = validation, flip_test
        self._summary = summary
        self._teacher = dict(summary.get("teacher_description") or {})
        self.best_ap: float | None = None
        self.best_epoch: int | None = None

    def write(self, model: PoseModel, epoch: int, steps: int, *, evaluate: bool) -> dict[str, float]:
        """Write the weights of a finished epoch; the metrics, which are empty where nothing was measured."""
        training: dict[str, Any] = {**self._summary, "epoch": epoch, "steps": steps}
        metrics: dict[str, float] = {}
        if evaluate and self._validation is not None:
            was_training = model.training
            backend = TorchBackend(model, self._description)
            metrics = dict(evaluate_set(backend, self._validation, flip_test=self._flip_test).metrics)
            model.train(was_training)
            training["validation"] = {"flip_test": self._flip_test, **metrics}
        skeleton = self._description.skeleton
        save_checkpoint(model, self._out / LAST_NAME, skeleton=skeleton, training=training)
        if metrics and (self.best_ap is None or metrics["AP"] > self.best_ap):
            self.best_ap, self.best_epoch = metrics["AP"], epoch
            save_checkpoint(model, self._out / BEST_NAME, skeleton=skeleton, training=training)
        return metrics

    def state(self) -> dict[str, Any]:
        """What a resumed run must remember."""
        return {"best_ap": self.best_ap, "best_epoch": self.best_epoch, "teacher": self._teacher}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Remember it; a `ConfigError` if the run was started with another teacher."""
        before, now = current_names(state["teacher"]), self._teacher
        changed = sorted(key for key in {*before, *now} if before.get(key) != now.get(key))
        if changed:
            raise ConfigError(
                f"{self._out} holds a run with another teacher ({', '.join(changed)} changed): take that one again, or "
                "choose another out"
            )
        self.best_ap, self.best_epoch = state["best_ap"], state["best_epoch"]


def write_state(out: Path, state: Mapping[str, Any]) -> None:
    """Write the state of a run; a kill leaves the one before, and a full disk is an `InputError`."""
    with write_file_atomically(out / STATE_NAME) as part:
        torch.save({"format": _FORMAT, **state}, part)


def read_state(path: Path) -> dict[str, Any]:
    """What `write_state` wrote, without running code of the file; a `CheckpointError` if it is broken or foreign."""
    again = f"start another run, with 'init: {path.parent / LAST_NAME}' if the weights of this one are there"
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises many unrelated types
        raise CheckpointError(f"{path} cannot be read ({type(error).__name__}): {again}") from error
    if not isinstance(state, dict) or state.get("format") != _FORMAT:
        raise CheckpointError(f"{path} was written by another version or program: {again}")
    return state


def settings_state(config: TrainConfig, processes: int) -> dict[str, Any]:
    """What `check_same_settings` compares when the run is resumed, as plain values."""
    return {"settings": _plain(asdict(config)), "crops_per_step": processes * int(config.data.batch_size)}


def check_same_settings(state: Mapping[str, Any], config: TrainConfig, processes: int) -> None:
    """Refuse to resume with settings under which the run would be another one; states of earlier versions hold none.

    Raises:
        ConfigError: some differ; the text names them.
    """
    changed = list(dict.fromkeys(_changed(current_names(state.get("settings", {})), config)))
    crops = processes * config.data.batch_size
    if crops != state.get("crops_per_step", crops):
        changed.append(f"data.batch_size times devices ({state['crops_per_step']} before, {crops} now)")
    if changed:
        raise ConfigError(
            f"{config.out} holds a run with other settings: {', '.join(changed)} changed. Resume it with those it was "
            f"started with, or start another run from its weights: 'init: {Path(config.out) / LAST_NAME}' and another "
            "out"
        )


def _changed(before: Mapping[str, Any], now: Any, prefix: str = "") -> Iterator[str]:
    """Names of the fields of a dataclass whose values differ, as far as both versions of the program know them."""
    for item in fields(now):
        name, value = f"{prefix}{item.name}", getattr(now, item.name)
        if name in _FREE or item.name not in before:
            continue
        old = before[item.name]
        parts = list(value) if isinstance(value, list | tuple) else [value]
        olds = old if isinstance(old, list) else [old]
        if parts and all(map(is_dataclass, parts)) and len(parts) == len(olds):
            for one, other in zip(parts, olds, strict=True):
                yield from _changed(other, one, f"{name}.")
        elif _plain(value) != old:
            yield name


def _plain(value: Any) -> Any:
    """A value as JSON gives it back, which a state can hold and which compares alike on both sides."""
    return json.loads(json.dumps(value, default=str))


def draw_view(crops: ImageArray, view: BatchView, skeleton: Skeleton) -> ImageArray:
    """(N, H, W, 3) uint8 RGB crops and what was made of them -> one (rows, columns, 3) uint8 RGB image.

    One row per crop: the crop with its keypoints, then one titled column per set of heatmaps laid over it, the highest
    value over all keypoints, clipped to [0, 1]; cell c of W lies at c / W of the crop. Small crops are enlarged to at
    least 256 rows.
    """
    height, width = crops.shape[1:3]
    zoom = -(-_MIN_HEIGHT // height)
    size_hw = (zoom * height, zoom * width)
    large = [_stretch(crop, size_hw) for crop in crops]
    columns = [_column("crop", large)]
    if view.xy_norm is not None:
        xy_large = view.xy_norm.float().cpu().numpy() * np.array(size_hw[::-1], dtype=np.float32)
        people = [PoseResult.from_keypoints(xy[None], skeleton) for xy in xy_large]
        columns = [_column("keypoints", [each.draw(crop) for each, crop in zip(people, large, strict=True)])]
    for title, tensor in view.heatmaps.items():
        maps = tensor.float().cpu().numpy()
        overlaid = [_overlay(crop, _stretch(m.max(0), size_hw)) for crop, m in zip(large, maps, strict=True)]
        columns.append(_column(title, overlaid))
    return np.concatenate(columns, axis=1)


def _stretch(plane: NDArray[Any], size_hw: tuple[int, int]) -> NDArray[Any]:
    """Enlarge so that cell c of W lands at c / W of the new width; half-pixel rules would shift a heatmap."""
    height, width = size_hw
    matrix = np.array([[width / plane.shape[1], 0, 0], [0, height / plane.shape[0], 0]])
    return cv2.warpAffine(plane, matrix, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def _overlay(crop: ImageArray, heatmap: Float32Array) -> ImageArray:
    heat = np.clip(heatmap, 0, 1)
    colors = cv2.applyColorMap((255 * heat).astype(np.uint8), cv2.COLORMAP_INFERNO)[..., ::-1]  # OpenCV's are BGR
    mixed = heat[..., None] * colors + (1 - heat[..., None]) * _DIMMED * crop
    return np.rint(mixed).astype(np.uint8)


def _column(title: str, rows: list[ImageArray]) -> ImageArray:
    strip = np.zeros((_TITLE_HEIGHT, rows[0].shape[1], 3), dtype=np.uint8)
    cv2.putText(strip, title, (6, 17), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (255, 255, 255), 1, cv2.LINE_AA)
    return np.concatenate([strip, *rows])
