"""The files of a run: its weights, its best weights, and the state to resume from."""

from __future__ import annotations

import os
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from distilpose.backends.checkpoint import save_checkpoint
from distilpose.backends.description import ModelDescription
from distilpose.backends.torch import TorchBackend
from distilpose.compat import current_names
from distilpose.errors import CheckpointError, ConfigError
from distilpose.evaluation.evaluate import EvaluationSet, evaluate_set
from distilpose.inference.decoding import FlipTest
from distilpose.models import PoseModel

STATE_NAME = "state.ckpt"
LAST_NAME, BEST_NAME = "last.safetensors", "best.safetensors"
_FORMAT = 1


class Checkpoints:
    """Measure AP and write ``best.safetensors`` and ``last.safetensors``.

    Args:
        out: folder of the run.
        description: of the model.
        validation: what AP is measured on; without it there is no best file.
        flip_test: of the measurement.
        summary: what the files say about the run.

    Attributes:
        best_ap: the best AP so far as a fraction; None before the first.
        best_epoch: when it was reached.
    """

    def __init__(
        self,
        out: Path,
        description: ModelDescription,
        validation: EvaluationSet | None,
        flip_test: FlipTest,
        summary: Mapping[str, Any],
    ) -> None:
        self._out = out
        self._description = description
        self._validation = validation
        self._flip_test = flip_test
        self._summary = summary
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
        """Remember it.

        Raises:
            ConfigError: the run was started with another teacher.
        """
        before, now = current_names(state["teacher"]), self._teacher
        changed = sorted(key for key in {*before, *now} if before.get(key) != now.get(key))
        if changed:
            raise ConfigError(
                f"{self._out} holds a run with another teacher ({', '.join(changed)} changed): take that one again, or "
                "choose another out"
            )
        self.best_ap, self.best_epoch = state["best_ap"], state["best_epoch"]

    @property
    def _teacher(self) -> dict[str, Any]:
        return dict(self._summary.get("teacher_description") or {})


def write_state(out: Path, state: Mapping[str, Any]) -> None:
    """Write the state of a run beside its place and then move it there, so that a kill leaves the one before.

    Raises:
        ConfigError: it cannot be written.
    """
    part = out / f".{STATE_NAME}.part"
    try:
        torch.save({"format": _FORMAT, **state}, part)
        os.replace(part, out / STATE_NAME)
    except (OSError, RuntimeError) as error:  # torch's writer says RuntimeError on a full disk
        part.unlink(missing_ok=True)
        raise ConfigError(
            f"{out / STATE_NAME} cannot be written: {error}: make room, then go on with --resume"
        ) from error


def read_state(path: Path) -> dict[str, Any]:
    """What `write_state` wrote; no code of the file is run.

    Raises:
        CheckpointError: the file is broken or foreign.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises many unrelated types
        raise CheckpointError(_refusal(path, f"cannot be read ({type(error).__name__})")) from error
    if not isinstance(state, dict) or state.get("format") != _FORMAT:
        raise CheckpointError(_refusal(path, "was written by another version or program"))
    return state


def _refusal(path: Path, fault: str) -> str:
    weights = path.parent / LAST_NAME
    return f"{path} {fault}: start another run, with 'init: {weights}' if the weights of this one are there"


@contextmanager
def locked(out: Path) -> Generator[None]:
    """The folder of a run, made if needed, for one process alone.

    Raises:
        ConfigError: it cannot be made, or another training writes there.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        file = (out / ".lock").open("a+", encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"out must be a folder to write to, got {out}: {error.strerror}") from error
    with file:
        try:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except ImportError:
            pass  # Windows has no such lock
        except BlockingIOError as error:
            file.seek(0)
            raise ConfigError(
                f"{out} is in use by another training (process {file.read().strip()}): wait for it, or choose another "
                "out"
            ) from error
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield
