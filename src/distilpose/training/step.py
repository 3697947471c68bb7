"""One training step: a batch to the named terms of the loss."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from distilpose.data.dataset import Batch
from distilpose.errors import ConfigError
from distilpose.losses import TARGET_SIGMA, DistillationOptions
from distilpose.losses.distillation import DistillationCriterion, HeatmapCriterion, Labels, label_heatmap_loss
from distilpose.losses.simulated_heatmap import simulate_heatmaps, target_heatmaps
from distilpose.models import PoseModel
from distilpose.models.base import HeatmapModel, RegressionModel
from distilpose.models.outputs import CELL, HeatmapOutput
from distilpose.teachers.adapter import SourceTeacher, resize
from distilpose.teachers.base import CropSpec, Teacher, unnamed_skeleton
from distilpose.teachers.networks import model_source
from distilpose.training.processes import mean_over_ranks
from distilpose.training.teacher_cache import TeacherCache


class BatchView(NamedTuple):
    """What can be seen of a batch."""

    xy_norm: Tensor | None  # (B, K, 2) predicted keypoints as fractions of the crop; None from a heatmap model
    heatmaps: dict[str, Tensor]  # (B, K, H, W) by title: what is learned from and what was made of it


class TrainingStep(nn.Module):
    """Model, criterion and frozen teacher: what a batch costs. The teacher is no part of its state.

    A heatmap model of our own as ``teacher`` is asked on the model's crops and keypoints. ``target_sigma`` is in cells.
    Where the score learns OKS, ``oks_sigmas`` are its K constants and ``areas`` those of the training people in square
    image pixels, by `Batch.sample_index`.

    Raises:
        ConfigError: model, teacher and options do not fit together.

    Source:
        backbone_heatmap: intermediate supervision, Convolutional Pose Machines (arXiv:1602.00134): convolutions learn
        what body parts look like from every cell, while the tokens still learn where to look.
    """

    criterion: DistillationCriterion | HeatmapCriterion

    def __init__(
        self,
        model: PoseModel,
        options: DistillationOptions,
        teacher: HeatmapModel | Teacher | None = None,
        *,
        cache: TeacherCache | None = None,
        target_sigma: float = TARGET_SIGMA,
        oks_sigmas: Sequence[float] = (),
        areas: Tensor | None = None,
    ) -> None:
        super().__init__()
        if isinstance(teacher, RegressionModel):
            raise ConfigError(f"teacher must be a heatmap model, such as tokenpose_*, got a {type(teacher).__name__}")
        if isinstance(teacher, HeatmapModel):
            teacher = teacher_of_model(teacher, model)
        self._teacher, self._cache = teacher, cache
        if isinstance(model, HeatmapModel):
            self.criterion = HeatmapCriterion(options, target_sigma, teacher)
        else:
            self.criterion = DistillationCriterion(options, model, teacher, oks_sigmas)
        self.model = model
        self.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stub lacks it
        self.backbone_head: nn.Conv2d | None = None
        if options.backbone_heatmap > 0:
            if model.backbone.stride != CELL:
                raise ConfigError(
                    f"backbone_heatmap needs features at stride {CELL}, the backbone of {model.preset} has "
                    f"{model.backbone.stride}: leave it out"
                )
            self.backbone_head = nn.Conv2d(model.backbone.out_channels, model.num_keypoints, 1)
            nn.init.normal_(self.backbone_head.weight, std=0.01)
        self._target_sigma, self._areas = target_sigma, areas

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """The weighted loss terms of a batch on the device of the model, by name; their sum is minimized."""
        output, features = self._run_model(batch.images.contiguous(memory_format=torch.channels_last))
        labels = self._labels(batch)
        terms: dict[str, Tensor] = self.criterion(output, self.ask_teacher(batch), labels)
        if self.backbone_head is not None:
            loss = label_heatmap_loss(self.backbone_head(features), labels, self._target_sigma)
            terms["backbone_heatmap"] = self.criterion.options.backbone_heatmap * loss
        return terms

    def begin_epoch(self, freeze_batchnorm: bool = False) -> None:
        """Training mode, but for the batch-norm of frozen parts (of all, with ``freeze_batchnorm``)."""
        self.train()
        for part in self.model.modules():
            if isinstance(part, nn.modules.batchnorm._BatchNorm):
                frozen = freeze_batchnorm or not any(value.requires_grad for value in part.parameters())
                part.train(not frozen)

    def ask_teacher(self, batch: Batch) -> HeatmapOutput[Tensor] | None:
        """What the teacher says of a batch, from its cache where there is one; None without a teacher."""
        if self._teacher is None:
            return None
        heard = self._run_teacher(batch) if self._cache is None else self._cache.ask(batch, self._run_teacher)
        if isinstance(self.model, HeatmapModel):
            return heard._replace(heatmaps=resize(heard.heatmaps, self.model.heatmap_size_hw))
        return heard

    def find_fault(self, batch: Batch) -> str | None:
        """What is wrong with the teacher's outputs for a batch whose loss is not finite; None if they are finite."""
        heard = self.ask_teacher(batch)
        if heard is None or all(value is None or value.isfinite().all() for value in heard):
            return None
        place = "" if self._cache is None else ", and start with another teacher_cache"
        return f"the teacher's outputs are NaN or infinite: look at the teacher (distilpose evaluate --teacher){place}"

    @torch.no_grad()
    def view(self, batch: Batch, model: PoseModel) -> BatchView:
        """What ``model`` makes of a batch in evaluation mode; the training does not notice."""
        was_training = model.training
        output = model.eval()(batch.images.contiguous(memory_format=torch.channels_last))
        model.train(was_training)
        heard = self.ask_teacher(batch)
        heatmaps = {} if heard is None else {"teacher": heard.heatmaps}
        if isinstance(output, HeatmapOutput):
            size_hw = (output.heatmaps.shape[-2], output.heatmaps.shape[-1])
            target = target_heatmaps(batch.xy_norm, self._target_sigma, size_hw) * batch.target_weight[..., None, None]
            return BatchView(None, {"predicted": output.heatmaps, "target": target, **heatmaps})
        options = self.criterion.options
        learns_sigma = options.keypoint_form == "rle" or (heard is not None and options.simulated_heatmap > 0)
        if output.sigma is not None and learns_sigma:
            height, width = batch.images.shape[-2:]
            heatmaps["simulated"] = simulate_heatmaps(
                output.xy_norm, output.sigma, (height // CELL, width // CELL), (height, width), options.sigma_floor
            )
        return BatchView(output.xy_norm, heatmaps)

    def _run_model(self, images: Tensor) -> tuple[Any, Any]:
        """The model's output, and the backbone's where they are learned from."""
        if self.backbone_head is None:
            return self.model(images), None
        features: list[Tensor] = []
        hook = self.model.backbone.register_forward_hook(lambda _, __, output: features.append(output))
        try:
            return self.model(images), features[0]
        finally:
            hook.remove()

    def _run_teacher(self, batch: Batch) -> HeatmapOutput[Tensor]:
        assert self._teacher is not None
        device = batch.images.device.type
        half = (batch.images.is_cuda and torch.cuda.is_bf16_supported()) or torch.is_autocast_enabled(device)
        with torch.no_grad(), torch.autocast(device, torch.bfloat16, enabled=half):
            return self._teacher(batch)

    def _labels(self, batch: Batch) -> Labels:
        area = None
        if self._areas is not None and batch.image_to_crop is not None:
            scale = torch.linalg.det(batch.image_to_crop[:, :, :2]).abs()  # crop pixels per image pixel, squared
            area = self._areas.to(scale.device)[batch.sample_index] * scale
        share = mean_over_ranks(batch.target_weight.mean(0))
        return Labels(batch.xy_norm, batch.target_weight, batch.annotated, share, area)


def teacher_of_model(teacher: HeatmapModel, student: PoseModel) -> Teacher:
    """A heatmap model in memory as the teacher of a model in memory."""
    crops = CropSpec(student.input_size_hw, unnamed_skeleton(student.num_keypoints))
    return SourceTeacher(model_source(teacher), crops)
