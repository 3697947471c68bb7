"""What is learned: a task turns a model's output on a batch into named losses. It owns the teacher."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple, Protocol, overload

import torch
from torch import Tensor, nn

from distilpose.data.dataset import Batch
from distilpose.errors import ConfigError
from distilpose.losses import (
    CELL,
    TOKEN_WEIGHT,
    DistillationLosses,
    DistillationOptions,
    ResidualFlow,
    distillation_losses,
    heatmap_loss,
    render_gaussian_heatmaps,
)
from distilpose.models.base import HeatmapModel, RegressionModel, TokenLayout
from distilpose.models.outputs import HeatmapOutput, PoseOutput
from distilpose.teachers.adapter import SourceTeacher
from distilpose.teachers.base import CropSpec, Teacher
from distilpose.teachers.checkpoint import model_source
from distilpose.teachers.keypoints import unnamed_skeleton
from distilpose.training.teacher_cache import TeacherCache

logger = logging.getLogger(__name__)

NamedLosses = dict[str, Tensor]
ReduceMean = Callable[[Tensor], Tensor]


class BatchView(NamedTuple):
    """What can be seen of a batch.

    Attributes:
        xy_norm: (B, K, 2) predicted keypoints as fractions of the crop; None from a heatmap model.
        heatmaps: (B, K, H, W) by title: what is learned from and what was made of it.
    """

    xy_norm: Tensor | None
    heatmaps: dict[str, Tensor]


class Task(Protocol):
    """Output and batch to loss terms; their sum is minimised."""

    def losses(self, output: Any, batch: Batch, mean_over_ranks: ReduceMean) -> NamedLosses:
        """Named scalar terms of one batch; ``mean_over_ranks`` averages a tensor over all processes."""
        ...

    def view(self, output: Any, batch: Batch) -> BatchView:
        """What a person can look at of one batch."""
        ...

    def find_fault(self) -> str | None:
        """What is wrong with what the last batch was learned from, if a loss is not finite because of it."""
        ...

    def extra_parameters(self) -> list[nn.Parameter]:
        """What is trained beside the model and left out of its checkpoints."""
        ...

    def to(self, device: torch.device) -> None:
        """Move what the task holds."""
        ...


class HeatmapTask:
    """Train a teacher on Gaussians around the labels.

    Args:
        target_sigma: of the Gaussians, in heatmap cells.
    """

    def __init__(self, target_sigma: float) -> None:
        self._target_sigma = target_sigma

    def losses(self, output: HeatmapOutput[Tensor], batch: Batch, mean_over_ranks: ReduceMean) -> NamedLosses:
        """The heatmap loss."""
        return {"heatmap": heatmap_loss(output, batch.xy_norm, batch.target_weight, self._target_sigma)}

    def view(self, output: HeatmapOutput[Tensor], batch: Batch) -> BatchView:
        """Predicted and target heatmaps; no target where there is no label."""
        height, width = output.heatmaps.shape[-2:]
        sigma = torch.full_like(batch.xy_norm, self._target_sigma)
        target = render_gaussian_heatmaps(batch.xy_norm, sigma, (height, width), sigma_floor=0.0)
        return BatchView(None, {"predicted": output.heatmaps, "target": target * batch.target_weight[..., None, None]})

    def find_fault(self) -> None:
        """Labels are finite."""

    def extra_parameters(self) -> list[nn.Parameter]:
        """None."""
        return []

    def to(self, device: torch.device) -> None:
        """Nothing to move."""


class DistillationTask:
    """Train a student on labels and, where there is one, a frozen teacher.

    Args:
        options: weights and variants of the terms; the token weight is a number where there is a teacher.
        teacher: on the same crops; None trains on labels alone.
        student_dim: width of the student's tokens. A learned projection leads to the teacher's where they differ.
        store: of the teacher's outputs.
    """

    def __init__(
        self,
        options: DistillationOptions,
        teacher: Teacher | None = None,
        student_dim: int | None = None,
        store: TeacherCache | None = None,
    ) -> None:
        self._options = options
        self._store = store
        self._teacher = teacher
        self._keypoint_mask: Tensor | None = None
        self._projection: nn.Linear | None = None
        if teacher is not None:
            self._keypoint_mask = None if all(teacher.keypoint_mask) else torch.tensor(teacher.keypoint_mask)
            if options.token and student_dim and teacher.tokens is not None and student_dim != teacher.tokens.dim:
                self._projection = nn.Linear(student_dim, teacher.tokens.dim)
        self._flow = ResidualFlow() if options.keypoint_form == "rle" else None
        self._heard: tuple[Batch, HeatmapOutput[Tensor]] | None = None  # cycles of one batch ask once

    def losses(self, output: PoseOutput[Tensor], batch: Batch, mean_over_ranks: ReduceMean) -> NamedLosses:
        """The terms of `distillation_losses`."""
        terms: DistillationLosses = distillation_losses(
            self._project(output),
            self._ask_teacher(batch),
            batch.xy_norm,
            batch.target_weight,
            batch.annotated,
            self._options,
            mean_over_ranks(batch.target_weight.mean(0)),
            crop_size_hw=(batch.images.shape[-2], batch.images.shape[-1]),
            flow=self._flow,
            keypoint_mask=self._keypoint_mask,
        )
        return dict(terms.terms())

    def view(self, output: PoseOutput[Tensor], batch: Batch) -> BatchView:
        """The teacher's heatmaps, and those drawn from the student's keypoints where its sigma is trained."""
        heatmaps = {}
        if self._teacher is not None:
            heatmaps["teacher"] = self._run_teacher(batch).heatmaps
        distilled = self._teacher is not None and self._options.simulated_heatmap > 0
        if output.sigma is not None and (distilled or self._options.keypoint_form == "rle"):
            size_hw = (batch.images.shape[-2] // CELL, batch.images.shape[-1] // CELL)
            heatmaps["simulated"] = render_gaussian_heatmaps(
                output.xy_norm.float(), output.sigma.float(), size_hw, self._options.sigma_floor
            )
        return BatchView(output.xy_norm, heatmaps)

    def find_fault(self) -> str | None:
        """The teacher's outputs, if they are not finite."""
        if self._heard is None or all(value is None or value.isfinite().all() for value in self._heard[1]):
            return None
        place = "" if self._store is None else ", and start with another teacher_cache"
        return f"the teacher's outputs are NaN or infinite: look at the teacher (distilpose evaluate --teacher){place}"

    def extra_parameters(self) -> list[nn.Parameter]:
        """The projection's and the flow's."""
        trained = (self._projection, self._flow)
        return [parameter for module in trained if module is not None for parameter in module.parameters()]

    def to(self, device: torch.device) -> None:
        """Move teacher, projection and flow."""
        if self._keypoint_mask is not None:
            self._keypoint_mask = self._keypoint_mask.to(device)
        for part in (self._teacher, self._projection, self._flow):
            if part is not None:
                part.to(device)

    def _project(self, output: PoseOutput[Tensor]) -> PoseOutput[Tensor]:
        if self._projection is None or output.keypoint_tokens is None or output.visual_tokens is None:
            return output
        return output._replace(
            keypoint_tokens=self._projection(output.keypoint_tokens),
            visual_tokens=self._projection(output.visual_tokens),
        )

    def _ask_teacher(self, batch: Batch) -> HeatmapOutput[Tensor] | None:
        if self._teacher is None:
            return None
        if self._heard is None or self._heard[0] is not batch:
            store = self._store
            output = self._run_teacher(batch) if store is None else store.ask(batch, self._run_teacher)
            self._heard = (batch, output)
        return self._heard[1]

    def _run_teacher(self, batch: Batch) -> HeatmapOutput[Tensor]:
        assert self._teacher is not None
        device = batch.images.device.type
        half = (batch.images.is_cuda and torch.cuda.is_bf16_supported()) or torch.is_autocast_enabled(device)
        with torch.inference_mode(), torch.autocast(device, torch.bfloat16, enabled=half):
            output = self._teacher(batch)
        return HeatmapOutput(_copy(output.heatmaps), _copy(output.keypoint_tokens), _copy(output.visual_tokens))


@overload
def _copy(value: Tensor) -> Tensor: ...
@overload
def _copy(value: None) -> None: ...
def _copy(value: Tensor | None) -> Tensor | None:
    """An ordinary tensor: autograd may not keep those made in inference mode."""
    return None if value is None else value.clone()


def make_task(
    model: nn.Module,
    teacher: HeatmapModel | Teacher | None,
    options: DistillationOptions,
    target_sigma: float,
    store: TeacherCache | None = None,
) -> Task:
    """The task that fits a model and its teacher.

    Args:
        model: to train.
        teacher: of the student; a heatmap model of our own is asked on the student's crops and keypoints.
        options: weights and variants of the student's terms.
        target_sigma: of a heatmap model's targets, in cells.
        store: of the teacher's outputs.

    Raises:
        ConfigError: a heatmap model with a teacher, a teacher that gives no heatmaps or does not fit, or a loss term
            that student or teacher has no output for.
    """
    if isinstance(model, HeatmapModel):
        if teacher is not None:
            raise ConfigError("a heatmap model is trained on labels: remove 'teacher', or train a student")
        return HeatmapTask(target_sigma)
    assert isinstance(model, RegressionModel)
    if options.keypoint_form == "rle" and model.num_sigmas == 0:
        raise ConfigError(
            "keypoint_form 'rle' needs sigma: set model_options.num_sigmas, or another losses.keypoint_form"
        )
    if teacher is None:
        return DistillationTask(options)
    if isinstance(teacher, RegressionModel):
        raise ConfigError(f"teacher must be a heatmap model, such as tokenpose_*, got a {type(teacher).__name__}")
    if isinstance(teacher, HeatmapModel):
        teacher = teacher_of_model(teacher, model)
    options = _settle_tokens(model.token_layout, teacher.tokens, options)
    _check_terms(model, options)
    return DistillationTask(options, teacher, model.token_layout and model.token_layout.dim, store)


def teacher_of_model(teacher: HeatmapModel, student: RegressionModel) -> Teacher:
    """A heatmap model in memory as the teacher of a student in memory."""
    crops = CropSpec(student.input_size_hw, unnamed_skeleton(student.num_keypoints))
    return SourceTeacher(model_source(teacher), crops)


def _settle_tokens(
    student: TokenLayout | None, teacher: TokenLayout | None, options: DistillationOptions
) -> DistillationOptions:
    """Give the token weight its number; where tokens cannot be compared, 0, said aloud."""
    if student is None or teacher is None:
        without = " and ".join(name for name, layout in (("student", student), ("teacher", teacher)) if layout is None)
        fault = f"{without} without tokens to compare"
    elif student.grid_hw != teacher.grid_hw:
        fault = f"tokens on different grids, student {student.grid_hw} and teacher {teacher.grid_hw} (patch_size_hw)"
    else:
        return options if options.token is not None else replace(options, token=TOKEN_WEIGHT)
    if options.token:
        raise ConfigError(f"losses.token {options.token} needs tokens on one grid, got {fault}: leave it out, or set 0")
    if options.token is None:
        logger.warning("token losses are off: %s", fault)
    return replace(options, token=0.0)


def _check_terms(student: RegressionModel, options: DistillationOptions) -> None:
    if not options.needs_teacher:
        raise ConfigError(
            "a teacher is named but token (if the two have tokens on one grid), simulated_heatmap and score weigh 0: "
            "remove one or raise one"
        )
    if options.simulated_heatmap > 0 and student.num_sigmas == 0:
        raise ConfigError("simulated heatmaps need sigma: set model_options.num_sigmas, or losses.simulated_heatmap 0")
    if options.score > 0 and not student.with_score:
        raise ConfigError("the score loss needs a score: set model_options.with_score, or losses.score 0")
