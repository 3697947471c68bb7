"""The files of a run: its weights, its best weights, and the state to resume from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from distilpose.backends.checkpoint import save_checkpoint
from distilpose.backends.description import ModelDescription
from distilpose.backends.torch import TorchBackend
from distilpose.compat import current_names
from distilpose.errors import CheckpointError, ConfigError
from distilpose.evaluation.evaluate import EvaluationSet, evaluate_set
from distilpose.files import write_file_atomically
from distilpose.inference.decoding import FlipTest
from distilpose.models import PoseModel

STATE_NAME = "state.ckpt"
LAST_NAME, BEST_NAME = "last.safetensors", "best.safetensors"
_FORMAT = 1


class Checkpoints:
    """Measure AP and write ``best.safetensors`` and ``last.safetensors`` into the folder of a run.

    Without ``validation`` there is no best file. ``summary`` is what the files say about the run.

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


def write_state(out: Path, state: Mapping[str, Any]) -> None:
    """Write the state of a run; a kill leaves the one before.

    Raises:
        InputError: it cannot be written.
    """
    with write_file_atomically(out / STATE_NAME) as part:
        torch.save({"format": _FORMAT, **state}, part)


def read_state(path: Path) -> dict[str, Any]:
    """What `write_state` wrote; no code of the file is run.

    Raises:
        CheckpointError: the file is broken or foreign.
    """
    again = f"start another run, with 'init: {path.parent / LAST_NAME}' if the weights of this one are there"
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises many unrelated types
        raise CheckpointError(f"{path} cannot be read ({type(error).__name__}): {again}") from error
    if not isinstance(state, dict) or state.get("format") != _FORMAT:
        raise CheckpointError(f"{path} was written by another version or program: {again}")
    return state
