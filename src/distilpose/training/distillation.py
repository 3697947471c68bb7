"""What is learned: a task turns a model's output on a batch into named losses. It owns the teacher."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, overload

import torch
from torch import Tensor, nn

from distilpose.data.dataset import Batch
from distilpose.errors import ConfigError
from distilpose.losses import (
    CELL,
    DistillationLosses,
    DistillationOptions,
    ResidualFlow,
    distillation_losses,
    heatmap_loss,
    render_gaussian_heatmaps,
)
from distilpose.models.distilpose import DistilPose
from distilpose.models.outputs import HeatmapOutput, PoseOutput
from distilpose.models.tokenpose import TokenPose
from distilpose.training.teacher_store import TeacherStore

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

    def extra_parameters(self) -> list[nn.Parameter]:
        """None."""
        return []

    def to(self, device: torch.device) -> None:
        """Nothing to move."""


class DistillationTask:
    """Train a student on labels and, where there is one, a frozen teacher.

    Args:
        options: weights and variants of the terms.
        teacher: a heatmap model on the same crops; None trains on labels alone.
        student_dim: width of the student's tokens.
        teacher_dim: of the teacher's. A learned projection joins them where they differ.
        store: of the teacher's outputs.
        flip_index: (K,) int64, average the teacher's heatmaps with those of the mirrored crops; tokens stay its own.
    """

    def __init__(
        self,
        options: DistillationOptions,
        teacher: nn.Module | None = None,
        student_dim: int | None = None,
        teacher_dim: int | None = None,
        store: TeacherStore | None = None,
        flip_index: Tensor | None = None,
    ) -> None:
        self._options = options
        self._flip_index = flip_index
        self._store = store
        self._teacher = None
        if teacher is not None:
            self._teacher = teacher.eval().requires_grad_(False)
            self._teacher.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stub lacks it
        self._projection: nn.Linear | None = None
        if teacher is not None and options.token > 0 and student_dim and teacher_dim and student_dim != teacher_dim:
            self._projection = nn.Linear(student_dim, teacher_dim)
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
        )
        return dict(terms.terms())

    def view(self, output: PoseOutput[Tensor], batch: Batch) -> BatchView:
        """The teacher's heatmaps, and those drawn from the student's keypoints where its sigma is trained."""
        heatmaps = {}
        if self._teacher is not None:
            heatmaps["teacher"] = self._run_teacher(batch.images).heatmaps
        distilled = self._teacher is not None and self._options.simulated_heatmap > 0
        if output.sigma is not None and (distilled or self._options.keypoint_form == "rle"):
            size_hw = (batch.images.shape[-2] // CELL, batch.images.shape[-1] // CELL)
            heatmaps["simulated"] = render_gaussian_heatmaps(
                output.xy_norm.float(), output.sigma.float(), size_hw, self._options.sigma_floor
            )
        return BatchView(output.xy_norm, heatmaps)

    def extra_parameters(self) -> list[nn.Parameter]:
        """The projection's and the flow's."""
        trained = (self._projection, self._flow)
        return [parameter for module in trained if module is not None for parameter in module.parameters()]

    def to(self, device: torch.device) -> None:
        """Move teacher, projection and flow."""
        for module in (self._teacher, self._projection, self._flow):
            if module is not None:
                module.to(device)

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
            output = self._run_teacher(batch.images) if store is None else store.ask(batch, self._run_teacher)
            self._heard = (batch, output)
        return self._heard[1]

    def _run_teacher(self, images: Tensor) -> HeatmapOutput[Tensor]:
        assert self._teacher is not None
        device = images.device.type
        half = (images.is_cuda and torch.cuda.is_bf16_supported()) or torch.is_autocast_enabled(device)
        with torch.inference_mode(), torch.autocast(device, torch.bfloat16, enabled=half):
            output: HeatmapOutput[Tensor] = self._teacher(images)
            heatmaps = output.heatmaps
            if self._flip_index is not None:
                mirrored: HeatmapOutput[Tensor] = self._teacher(images.flip(-1))
                heatmaps = (heatmaps + unmirror_heatmaps(mirrored.heatmaps, self._flip_index)) / 2
        return HeatmapOutput(_copy(heatmaps), _copy(output.keypoint_tokens), _copy(output.visual_tokens))


def unmirror_heatmaps(heatmaps: Tensor, flip_index: Tensor) -> Tensor:
    """Put (B, K, H, W) heatmaps of mirrored crops back: sides changed, mirrored, and moved to where they belong.

    Crop pixel p of W lands on W - 1 - p, so cell c lands 3/4 of a cell beside the mirrored cell: that much is made
    up by linear interpolation. (The flip test moves by a whole cell, the baselines' rule.)
    """
    back = heatmaps[:, flip_index.to(heatmaps.device)].flip(-1)
    left = torch.cat([back[..., :1], back[..., :-1]], dim=-1)
    return back / CELL + left * (CELL - 1) / CELL


@overload
def _copy(value: Tensor) -> Tensor: ...
@overload
def _copy(value: None) -> None: ...
def _copy(value: Tensor | None) -> Tensor | None:
    """An ordinary tensor: autograd may not keep those made in inference mode."""
    return None if value is None else value.clone()


def make_task(
    model: nn.Module,
    teacher: nn.Module | None,
    options: DistillationOptions,
    target_sigma: float,
    store: TeacherStore | None = None,
    flip_index: Tensor | None = None,
) -> Task:
    """The task that fits a model and its teacher.

    Raises:
        ConfigError: a heatmap model with a teacher, a teacher that gives no heatmaps, crops of different
            sizes, or a loss term that the student has no output for.
    """
    if isinstance(model, TokenPose):
        if teacher is not None:
            raise ConfigError("a heatmap model is trained on labels: remove 'teacher', or train a distilpose_* student")
        return HeatmapTask(target_sigma)
    assert isinstance(model, DistilPose)
    if options.keypoint_form == "rle" and model.head.num_sigmas == 0:
        raise ConfigError(
            "keypoint_form 'rle' needs sigma: set model_options.num_sigmas, or another losses.keypoint_form"
        )
    if teacher is None:
        return DistillationTask(options)
    if not isinstance(teacher, TokenPose):
        raise ConfigError(f"teacher must be a heatmap model (tokenpose_*), got a {type(teacher).__name__}")
    _check_pair(model, teacher, options)
    return DistillationTask(options, teacher, model.encoder.dim, teacher.encoder.dim, store, flip_index)


def _check_pair(student: DistilPose, teacher: TokenPose, options: DistillationOptions) -> None:
    if not options.needs_teacher:
        raise ConfigError("a teacher is named but token, simulated_heatmap and score weigh 0: remove one or raise one")
    sizes: dict[str, tuple[object, object]] = {
        "input_size_hw": (student.input_size_hw, teacher.input_size_hw),
        "num_keypoints": (student.encoder.num_keypoints, teacher.encoder.num_keypoints),
    }
    if options.token > 0:
        patches = (student.encoder.patch_size_hw, teacher.encoder.patch_size_hw)
        sizes["patch_size_hw (or set losses.token to 0)"] = patches
    for name, (own, other) in sizes.items():
        if own != other:
            raise ConfigError(f"student and teacher must agree in {name}, got {own} and {other}")
    if options.simulated_heatmap > 0 and student.head.num_sigmas == 0:
        raise ConfigError("simulated heatmaps need sigma: set model_options.num_sigmas, or losses.simulated_heatmap 0")
    if options.score > 0 and not student.head.with_score:
        raise ConfigError("the score loss needs a score: set model_options.with_score, or losses.score 0")
