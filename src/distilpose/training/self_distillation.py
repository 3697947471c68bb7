"""Self-distillation: in training the encoder runs several times, and its first run learns to do with one.

Prediction takes one cycle, so the model costs what it did before.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from distilpose.data.dataset import Batch
from distilpose.errors import ConfigError
from distilpose.losses import cycle_keypoint_loss, cycle_token_loss
from distilpose.models.distilpose import DistilPose
from distilpose.models.outputs import PoseOutput
from distilpose.training.distillation import NamedLosses, ReduceMean, Task


class SelfDistillation:
    """The terms that further cycles of a student's encoder add.

    Args:
        cycles: runs of the encoder's blocks, at least 2.
        token: weight of the token loss between first and last cycle.
        keypoint: weight of the loss between their positions.

    Source:
        SDPose (arXiv:2404.03518).
    """

    def __init__(self, cycles: int, token: float, keypoint: float) -> None:
        self._cycles = cycles
        self._token = token
        self._keypoint = keypoint

    def losses(
        self, model: nn.Module, output: PoseOutput[Tensor], batch: Batch, task: Task, mean_over_ranks: ReduceMean
    ) -> NamedLosses:
        """Named terms: those of the task on the last cycle, as ``cycled_*``, ``cycle_token`` and ``cycle_keypoint``.

        Args:
            model: the student.
            output: its output for the batch, the first cycle.
            batch: what it saw.
            task: what it learns.
            mean_over_ranks: see `Task.losses`.
        """
        assert isinstance(model, DistilPose)
        last = output
        for _ in range(self._cycles - 1):
            last = model.cycle(last)
        terms = task.losses(last, batch, mean_over_ranks)
        named: dict[str, Any] = {f"cycled_{name}": value for name, value in terms.items()}
        named["cycle_token"] = self._token * cycle_token_loss(output, last)
        named["cycle_keypoint"] = self._keypoint * cycle_keypoint_loss(output, last)
        return named


def make_self_distillation(model: nn.Module, cycles: int, token: float, keypoint: float) -> SelfDistillation | None:
    """None for a single cycle.

    Raises:
        ConfigError: the model is no student with a token encoder.
    """
    if cycles == 1:
        return None
    if not isinstance(model, DistilPose):
        raise ConfigError(f"cycles needs a distilpose_* student, got a {type(model).__name__}: set cycles to 1")
    return SelfDistillation(cycles, token, keypoint)
