"""The loss terms of a training step: labels, and what a teacher adds to them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distilpose.errors import ConfigError
from distilpose.losses.keypoint import ResidualFlow, keypoint_loss, pixel_keypoint_loss, residual_likelihood_loss
from distilpose.losses.options import TOKEN_WEIGHT, DistillationOptions
from distilpose.losses.simulated_heatmap import (
    TARGET_SIGMA,
    heatmap_mse,
    read_heatmap,
    simulate_heatmaps,
    target_heatmaps,
)
from distilpose.models.base import RegressionModel, TokenLayout
from distilpose.models.outputs import CELL, HeatmapOutput, PoseOutput

logger = logging.getLogger(__name__)


class Labels(NamedTuple):
    """What is known of B crops.

    Attributes:
        xy_norm: (B, K, 2) labels as fractions of the crop.
        target_weight: (B, K), 1 where labeled inside the crop, else 0.
        annotated: (B, K) bool, False where the dataset does not annotate this keypoint at all.
        labeled_share: (K,) share of samples in which a keypoint is labeled, over all ranks; of this batch when None.
            Used by the ``"reference"`` mask alone.
        area: (B,) of the persons in square crop pixels, for ``score_target`` ``"oks"``.
    """

    xy_norm: Tensor
    target_weight: Tensor
    annotated: Tensor
    labeled_share: Tensor | None = None
    area: Tensor | None = None


class TeacherOutputs(Protocol):
    """What must be known of a teacher's output."""

    @property
    def tokens(self) -> TokenLayout | None:
        """Of its output; None without tokens."""

    @property
    def keypoint_mask(self) -> Sequence[bool]:
        """K, False where it has no heatmap of a keypoint."""


class DistillationCriterion(nn.Module):
    """Loss terms of a student: labels, tokens, simulated heatmaps, score.

    Args:
        options: weights and variants.
        student: whose outputs are compared.
        teacher: of the student; None trains on labels alone.
        oks_sigmas: K constants of OKS, for ``score_target`` ``"oks"``.

    Attributes:
        projection: from the student's tokens to the teacher's, learned, where their widths differ.
        flow: learned density of the errors, for ``keypoint_form`` ``"rle"``.

    Raises:
        ConfigError: a term is switched on that student or teacher has no output for.

    Source:
        DistilPose (arXiv:2303.02455), equations 1 to 8.
    """

    keypoint_mask: Tensor
    oks_sigmas: Tensor

    def __init__(
        self,
        options: DistillationOptions,
        student: RegressionModel,
        teacher: TeacherOutputs | None = None,
        oks_sigmas: Sequence[float] = (),
    ) -> None:
        super().__init__()
        self.projection: nn.Linear | None = None
        mask = torch.ones(student.num_keypoints)
        if teacher is not None:
            own, other = student.token_layout, teacher.tokens
            options = _settle_tokens(own, other, options)
            _check_teacher_terms(student, options)
            mask = torch.tensor([float(known) for known in teacher.keypoint_mask])
            if options.token and own is not None and other is not None and own.dim != other.dim:
                self.projection = nn.Linear(own.dim, other.dim)
        if options.keypoint_form == "rle" and student.num_sigmas == 0:
            raise ConfigError(
                "keypoint_form 'rle' needs sigma: set model_options.num_sigmas, or another losses.keypoint_form"
            )
        if options.score_target == "oks" and student.with_score and len(oks_sigmas) != student.num_keypoints:
            raise ConfigError(f"score_target 'oks' needs {student.num_keypoints} oks_sigmas, got {len(oks_sigmas)}")
        self.flow = ResidualFlow() if options.keypoint_form == "rle" else None
        self.options = options
        self.learns_score = options.score > 0 and student.with_score
        self.learns_score &= teacher is not None or options.score_target == "oks"
        self._crop_size_hw = student.input_size_hw
        self.register_buffer("keypoint_mask", mask, persistent=False)
        self.register_buffer("oks_sigmas", torch.tensor(oks_sigmas), persistent=False)

    def forward(
        self, student: PoseOutput[Tensor], teacher: HeatmapOutput[Tensor] | None, labels: Labels
    ) -> dict[str, Tensor]:
        """The weighted terms of one batch by name; their sum is minimized.

        Args:
            student: with gradient.
            teacher: of the same crops; None exactly where the criterion was built without a teacher.
            labels: of the crops.
        """
        options = self.options
        terms = {"keypoint": options.keypoint * self._label_loss(student, labels)}
        heatmaps = None if teacher is None else teacher.heatmaps.detach().float()
        if teacher is not None and options.token:
            for name in ("visual_token", "keypoint_token"):
                own, other = getattr(student, f"{name}s"), getattr(teacher, f"{name}s").detach()
                own = own if self.projection is None else self.projection(own)
                terms[name] = options.token * F.mse_loss(own.float(), other.float())
        if heatmaps is not None and options.simulated_heatmap:
            loss = self._simulated_heatmap_loss(student, heatmaps, labels)
            terms["simulated_heatmap"] = options.simulated_heatmap * loss
        if self.learns_score:
            terms["score"] = options.score * self._score_loss(student, heatmaps, labels)
        return terms

    def _label_loss(self, student: PoseOutput[Tensor], labels: Labels) -> Tensor:
        xy_norm, target, weight = student.xy_norm.float(), labels.xy_norm, labels.target_weight
        if self.options.keypoint_form == "smooth_l1":
            return keypoint_loss(xy_norm, target, weight)
        if self.options.keypoint_form == "pixels":
            return pixel_keypoint_loss(xy_norm, target, weight, self._crop_size_hw)
        assert student.sigma is not None
        assert self.flow is not None
        sigma = (student.sigma.float().square() + self.options.sigma_floor**2).sqrt()  # as it is drawn
        sigma_norm = sigma * CELL / sigma.new_tensor(self._crop_size_hw[::-1])
        return residual_likelihood_loss(xy_norm, sigma_norm, target, weight, self.flow)

    def _simulated_heatmap_loss(self, student: PoseOutput[Tensor], heatmaps: Tensor, labels: Labels) -> Tensor:
        assert student.sigma is not None
        size_hw = (heatmaps.shape[-2], heatmaps.shape[-1])
        floor = self.options.sigma_floor
        simulated = simulate_heatmaps(student.xy_norm, student.sigma, size_hw, self._crop_size_hw, floor)
        return heatmap_mse(simulated, heatmaps, distillation_weight(labels, self.options) * self.keypoint_mask)

    def _score_loss(self, student: PoseOutput[Tensor], heatmaps: Tensor | None, labels: Labels) -> Tensor:
        assert student.score is not None
        options, labeled = self.options, labels.target_weight
        xy_norm = student.xy_norm.detach().float()
        if options.score_mask == "all":
            weight = distillation_weight(labels, replace(options, mask="all"))
        else:
            weight = labeled if options.mask == "reference" else distillation_weight(labels, options)
        if heatmaps is None:
            weight, target = weight * labels.annotated, torch.zeros_like(labeled)
        else:
            weight, target = weight * self.keypoint_mask, read_heatmap(heatmaps, xy_norm, options.score_reading)
        if options.score_target == "oks":
            assert labels.area is not None
            error = (xy_norm - labels.xy_norm) * xy_norm.new_tensor(self._crop_size_hw[::-1])
            variance = labels.area.unsqueeze(-1) * (2 * self.oks_sigmas) ** 2
            target = torch.where(labeled > 0, torch.exp(-error.square().sum(-1) / (2 * variance)), target)
            weight = torch.maximum(weight, labeled)
        difference = student.score.float() - target
        distance = difference.square() if options.score_target == "oks" else difference.abs()
        return (distance * weight).mean()


class HeatmapCriterion(nn.Module):
    """Loss terms of a heatmap model: Gaussians around the labels and, with a teacher, the teacher's heatmaps.

    Args:
        options: ``teacher_heatmap``, ``mask`` and ``distil_unannotated`` are used.
        target_sigma: of the Gaussians, in heatmap cells.
        teacher: of the model; None trains on labels alone.

    Raises:
        ConfigError: there is a teacher, and its term weighs 0.
    """

    keypoint_mask: Tensor

    def __init__(
        self, options: DistillationOptions, target_sigma: float = TARGET_SIGMA, teacher: TeacherOutputs | None = None
    ) -> None:
        super().__init__()
        if teacher is not None and options.teacher_heatmap == 0:
            raise ConfigError("a teacher is named but losses.teacher_heatmap is 0: remove one or raise one")
        self.options = options
        self.learns_score = False
        self.target_sigma = target_sigma
        mask = torch.tensor([float(known) for known in teacher.keypoint_mask] if teacher is not None else 1.0)
        self.register_buffer("keypoint_mask", mask, persistent=False)

    def forward(
        self,
        output: HeatmapOutput[Tensor],
        teacher: HeatmapOutput[Tensor] | None,
        labels: Labels,
    ) -> dict[str, Tensor]:
        """As `DistillationCriterion`; the teacher's heatmaps have the size of the model's."""
        terms = {"heatmap": label_heatmap_loss(output.heatmaps, labels, self.target_sigma)}
        if teacher is not None:
            weight = distillation_weight(labels, self.options) * self.keypoint_mask
            loss = heatmap_mse(output.heatmaps.float(), teacher.heatmaps.detach().float(), weight)
            terms["teacher_heatmap"] = self.options.teacher_heatmap * loss
        return terms


def label_heatmap_loss(heatmaps: Tensor, labels: Labels, target_sigma: float) -> Tensor:
    """Mean squared error of (B, K, H, W) heatmaps against Gaussians of ``target_sigma`` cells around the labels.

    Source:
        TokenPose (arXiv:2104.03516): sigma of 2 cells on 64 x 48, sub-pixel center.
    """
    size_hw = (heatmaps.shape[-2], heatmaps.shape[-1])
    return heatmap_mse(heatmaps.float(), target_heatmaps(labels.xy_norm, target_sigma, size_hw), labels.target_weight)


def distillation_weight(labels: Labels, options: DistillationOptions) -> Tensor:
    """(B, K) weight of each keypoint in the distillation on heatmaps: the one home of the mask rule."""
    weight = labels.target_weight
    if options.mask == "all":
        weight = torch.ones_like(weight)
    elif options.mask == "reference":
        share = weight.mean(0) if labels.labeled_share is None else labels.labeled_share
        weight = share.expand_as(weight)
    if options.distil_unannotated:
        return weight if options.mask == "reference" else torch.where(labels.annotated, weight, 1.0)
    return weight * labels.annotated


def _settle_tokens(
    student: TokenLayout | None, teacher: TokenLayout | None, options: DistillationOptions
) -> DistillationOptions:
    """Give the token weight its number; where tokens cannot be compared, 0, with a warning."""
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


def _check_teacher_terms(student: RegressionModel, options: DistillationOptions) -> None:
    if not (options.token or options.simulated_heatmap or options.score):
        raise ConfigError(
            "a teacher is named but token (if the two have tokens on one grid), simulated_heatmap and score weigh 0: "
            "remove one or raise one"
        )
    if options.simulated_heatmap > 0 and student.num_sigmas == 0:
        raise ConfigError("simulated heatmaps need sigma: set model_options.num_sigmas, or losses.simulated_heatmap 0")
    if options.score > 0 and not student.with_score:
        raise ConfigError("the score loss needs a score: set model_options.with_score, or losses.score 0")
