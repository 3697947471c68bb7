"""The training losses of student and teacher, term by term."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from distilpose.errors import ConfigError
from distilpose.losses.residual_likelihood import ResidualFlow, residual_likelihood_loss
from distilpose.losses.simulated_heatmap import (
    SIGMA_FLOOR,
    ScoreReading,
    read_heatmap,
    render_gaussian_heatmaps,
    simulated_heatmap_loss,
)
from distilpose.models.outputs import CELL, HeatmapOutput, PoseOutput

Mask = Literal["visible", "all", "reference"]
KeypointForm = Literal["smooth_l1", "pixels", "rle"]
TOKEN_WEIGHT = 5e-4  # of the token losses: DistilPose (arXiv:2303.02455)
# Error, as a share of the crop's mean side, at which a pixel loss pulls as strongly as the published loss: 9 px of
# 256 x 192. It makes weights that suit the one suit the other.
PIXEL_BALANCE = 0.04
TARGET_SIGMA = 2.0  # cells, of the teacher's training targets: TokenPose (arXiv:2104.03516)


@dataclass(frozen=True)
class DistillationOptions:
    """Weights and variants of the loss terms; a weight of 0 switches a term off.

    Attributes:
        keypoint: weight of the label loss.
        keypoint_form: of the label loss. ``"smooth_l1"``: on crop fractions, as published; ``"pixels"``: on crop
            pixels, so that x and y weigh alike and large errors pull linearly (`pixel_keypoint_loss`); ``"rle"``:
            residual log-likelihood, which also trains sigma (`residual_likelihood_loss`). Its gradient is some
            hundred times that of the published loss: with a teacher, weights have to be chosen anew.
        token: weight of each of the two token losses. None: `TOKEN_WEIGHT` where student and teacher have tokens on one
            grid, else off; a number insists on such tokens.
        simulated_heatmap: weight of the simulated-heatmap loss.
        score: weight of the confidence loss.
        mask: keypoints of the distillation on heatmaps and scores. ``"visible"``: the labeled ones;
            ``"all"``: also the unlabeled ones, whose place only the teacher knows; ``"reference"``: what
            the released code does, every keypoint weighted by the share of the batch in which it is labeled.
        distil_unannotated: whether keypoints that a dataset does not annotate at all are distilled too
            (never in ``"reference"`` without it).
        score_reading: how the teacher's heatmap is read at the student's keypoint.
        sigma_floor: smallest spread drawn, in cells of the heatmap that is drawn, whatever their size.

    Source:
        Weights: DistilPose (arXiv:2303.02455).
    """

    keypoint: float = 1.0
    keypoint_form: KeypointForm = "smooth_l1"
    token: float | None = None
    simulated_heatmap: float = 1.0
    score: float = 1e-2
    mask: Mask = "visible"
    distil_unannotated: bool = False
    score_reading: ScoreReading = "bilinear"
    sigma_floor: float = SIGMA_FLOOR

    def __post_init__(self) -> None:
        weights = (self.keypoint, self.token or 0.0, self.simulated_heatmap, self.score, self.sigma_floor)
        if not all(0 <= weight < math.inf for weight in weights):
            raise ConfigError(f"loss weights and sigma_floor must be finite and not negative, got {weights}")
        if self.mask not in ("visible", "all", "reference"):
            raise ConfigError(f"mask must be 'visible', 'all' or 'reference', got {self.mask!r}")
        if self.keypoint_form not in ("smooth_l1", "pixels", "rle"):
            raise ConfigError(f"keypoint_form must be 'smooth_l1', 'pixels' or 'rle', got {self.keypoint_form!r}")
        if self.keypoint_form == "rle" and self.sigma_floor == 0:
            raise ConfigError("keypoint_form 'rle' divides by sigma: set sigma_floor greater than 0")

    @classmethod
    def reference(cls) -> DistillationOptions:
        """The released code's behavior, to the digit."""
        return cls(mask="reference", distil_unannotated=True, score_reading="reference", sigma_floor=0.0)

    @property
    def needs_teacher(self) -> bool:
        """Whether any term compares with a teacher."""
        token = TOKEN_WEIGHT if self.token is None else self.token
        return max(token, self.simulated_heatmap, self.score) > 0


class DistillationLosses(NamedTuple):
    """The terms of one batch, each already multiplied by its weight; None where a term is switched off."""

    keypoint: Tensor
    visual_token: Tensor | None = None
    keypoint_token: Tensor | None = None
    simulated_heatmap: Tensor | None = None
    score: Tensor | None = None

    def terms(self) -> Iterator[tuple[str, Tensor]]:
        """Name and value of every term that is switched on."""
        return ((name, value) for name, value in zip(self._fields, self, strict=True) if value is not None)

    @property
    def total(self) -> Tensor:
        """What is minimised."""
        return torch.stack([value for _, value in self.terms()]).sum()


def keypoint_loss(xy_norm: Tensor, target_xy_norm: Tensor, target_weight: Tensor) -> Tensor:
    """Smooth L1 distance in crop fractions, averaged over all coordinates, masked zeros included.

    Args:
        xy_norm: (B, K, 2) predicted.
        target_xy_norm: (B, K, 2) labeled.
        target_weight: (B, K), 0 where there is no label.

    Source:
        DistilPose (arXiv:2303.02455). In crop fractions the loss never leaves its quadratic part, and an
        error in x weighs (H / W)^2 = 1.78 times one in y: kept as published.
    """
    weight = target_weight.unsqueeze(-1)
    return F.smooth_l1_loss(xy_norm * weight, target_xy_norm * weight)


def pixel_keypoint_loss(
    xy_norm: Tensor, target_xy_norm: Tensor, target_weight: Tensor, crop_size_hw: tuple[int, int]
) -> Tensor:
    """Smooth L1 distance in crop pixels, averaged over all coordinates, masked zeros included.

    Quadratic below 1 pixel, linear above. The mean is divided by the crop's mean side, the root of H W, and multiplied
    by `PIXEL_BALANCE`: the same relative error costs the same at every crop size, and about as much as in
    `keypoint_loss` where it is twice `PIXEL_BALANCE`.

    Args:
        xy_norm: (B, K, 2) predicted.
        target_xy_norm: (B, K, 2) labeled.
        target_weight: (B, K), 0 where there is no label.
        crop_size_hw: (H, W) of the input crop in pixels.

    Source:
        Ours; why: row 5 of ``docs/parity.md``.
    """
    height, width = crop_size_hw
    scale = target_weight.unsqueeze(-1) * xy_norm.new_tensor([width, height])
    return F.smooth_l1_loss(xy_norm * scale, target_xy_norm * scale) * PIXEL_BALANCE / math.sqrt(height * width)


def heatmap_loss(
    output: HeatmapOutput[Tensor], target_xy_norm: Tensor, target_weight: Tensor, target_sigma: float = TARGET_SIGMA
) -> Tensor:
    """Mean squared error of a teacher's heatmaps against Gaussians around the labels.

    Args:
        output: of a heatmap model, heatmaps (B, K, H, W).
        target_xy_norm: (B, K, 2) labeled.
        target_weight: (B, K), 0 where there is no label.
        target_sigma: of the Gaussians, in heatmap cells.

    Source:
        TokenPose (arXiv:2104.03516): sigma of 2 cells on 64 x 48, sub-pixel center.
    """
    heatmaps = output.heatmaps.float()
    height, width = heatmaps.shape[-2:]
    sigma = torch.full_like(target_xy_norm, target_sigma)
    target = render_gaussian_heatmaps(target_xy_norm, sigma, (height, width), sigma_floor=0.0)
    return simulated_heatmap_loss(heatmaps, target, target_weight)


def distillation_weight(
    target_weight: Tensor, annotated: Tensor, labeled_share: Tensor, options: DistillationOptions
) -> Tensor:
    """The weight of each keypoint in the distillation on heatmaps: the one home of the mask rule.

    Args:
        target_weight: (B, K), 1 where labeled.
        annotated: (B, K) bool, False where the dataset does not annotate this keypoint at all.
        labeled_share: (K,) mean of ``target_weight`` over the batch, of all ranks.
        options: mask and ``distil_unannotated``.

    Returns:
        (B, K) float weights.
    """
    if options.mask == "visible":
        weight = target_weight
    elif options.mask == "all":
        weight = torch.ones_like(target_weight)
    else:
        weight = labeled_share.expand_as(target_weight)
    if options.distil_unannotated:
        return weight if options.mask == "reference" else torch.where(annotated, weight, 1.0)
    return weight * annotated


def distillation_losses(
    student: PoseOutput[Tensor],
    teacher: HeatmapOutput[Tensor] | None,
    target_xy_norm: Tensor,
    target_weight: Tensor,
    annotated: Tensor,
    options: DistillationOptions,
    labeled_share: Tensor | None = None,
    *,
    crop_size_hw: tuple[int, int] | None = None,
    flow: ResidualFlow | None = None,
    keypoint_mask: Tensor | None = None,
) -> DistillationLosses:
    """All terms of one batch.

    Args:
        student: with gradient.
        teacher: of the same crops, without gradient; None for a student trained on labels alone.
        target_xy_norm: (B, K, 2) labels as fractions of the crop.
        target_weight: (B, K), 1 where labeled inside the crop, else 0.
        annotated: (B, K) bool, False where the dataset does not annotate this keypoint at all.
        options: weights and variants.
        labeled_share: (K,) share of samples in which a keypoint is labeled, over all ranks; of this
            batch when None. Used by the ``"reference"`` mask alone.
        crop_size_hw: (H, W) of the student's input crops in pixels, for the keypoint forms ``"pixels"`` and ``"rle"``
            and for teacher heatmaps with cells of another size than `CELL`; None says that they are of that size.
        flow: learned density of the errors, for ``"rle"``.
        keypoint_mask: (K,) bool, False where the teacher has no heatmap of a keypoint; it has all of them when None.

    Raises:
        ConfigError: a term is switched on that student or teacher cannot provide.

    Source:
        DistilPose (arXiv:2303.02455), equations 1 to 8.
    """
    label_term = options.keypoint * _label_loss(student, target_xy_norm, target_weight, options, crop_size_hw, flow)
    if teacher is None:
        return DistillationLosses(label_term)
    share = target_weight.mean(0) if labeled_share is None else labeled_share
    weight = distillation_weight(target_weight, annotated, share, options)
    visual, keypoint = _token_terms(student, teacher, options.token)
    score_weight = target_weight if options.mask == "reference" else weight
    if keypoint_mask is not None:
        weight, score_weight = weight * keypoint_mask, score_weight * keypoint_mask
    heatmaps = teacher.heatmaps.detach().float()
    return DistillationLosses(
        keypoint=label_term,
        visual_token=visual,
        keypoint_token=keypoint,
        simulated_heatmap=_simulated_heatmap_term(student, heatmaps, weight, options, crop_size_hw),
        score=_score_term(student, heatmaps, score_weight, options),
    )


def _label_loss(
    student: PoseOutput[Tensor],
    target_xy_norm: Tensor,
    target_weight: Tensor,
    options: DistillationOptions,
    crop_size_hw: tuple[int, int] | None,
    flow: ResidualFlow | None,
) -> Tensor:
    xy_norm = student.xy_norm.float()
    if options.keypoint_form == "smooth_l1":
        return keypoint_loss(xy_norm, target_xy_norm, target_weight)
    if crop_size_hw is None:
        raise ConfigError(f"keypoint_form {options.keypoint_form!r} needs crop_size_hw, the (H, W) of the input crops")
    if options.keypoint_form == "pixels":
        return pixel_keypoint_loss(xy_norm, target_xy_norm, target_weight, crop_size_hw)
    if student.sigma is None or flow is None:
        raise ConfigError("keypoint_form 'rle' needs a student with num_sigmas 1 or 2, and a flow")
    sigma = (student.sigma.float().square() + options.sigma_floor**2).sqrt()  # as it is drawn
    sigma_norm = sigma * CELL / sigma.new_tensor(crop_size_hw[::-1])
    return residual_likelihood_loss(xy_norm, sigma_norm, target_xy_norm, target_weight, flow)


def _token_terms(
    student: PoseOutput[Tensor], teacher: HeatmapOutput[Tensor], weight: float | None
) -> tuple[Tensor | None, Tensor | None]:
    pairs = ((student.visual_tokens, teacher.visual_tokens), (student.keypoint_tokens, teacher.keypoint_tokens))
    if weight is None:
        alike = all(own is not None and other is not None and own.shape == other.shape for own, other in pairs)
        weight = TOKEN_WEIGHT if alike else 0.0
    if weight == 0:
        return None, None
    terms = []
    for own, other in pairs:
        if own is None or other is None:
            raise ConfigError("token distillation needs tokens from student and teacher: set the token weight to 0")
        if own.shape != other.shape:
            raise ConfigError(
                f"token distillation needs tokens on one grid: student {tuple(own.shape)}, teacher "
                f"{tuple(other.shape)}: equal input and patch sizes (widths may differ), or token weight 0"
            )
        terms.append(weight * F.mse_loss(own.float(), other.detach().float()))
    return terms[0], terms[1]


def _simulated_heatmap_term(
    student: PoseOutput[Tensor],
    heatmaps: Tensor,
    weight: Tensor,
    options: DistillationOptions,
    crop_size_hw: tuple[int, int] | None,
) -> Tensor | None:
    if options.simulated_heatmap == 0:
        return None
    if student.sigma is None:
        raise ConfigError("simulated heatmaps need a student with num_sigmas 1 or 2, or their weight set to 0")
    height, width = heatmaps.shape[-2:]
    sigma = student.sigma.float()
    if crop_size_hw is not None:  # to the cells of the teacher's map
        sigma = sigma * sigma.new_tensor([width * CELL / crop_size_hw[1], height * CELL / crop_size_hw[0]])
    simulated = render_gaussian_heatmaps(student.xy_norm.float(), sigma, (height, width), options.sigma_floor)
    return options.simulated_heatmap * simulated_heatmap_loss(simulated, heatmaps, weight)


def _score_term(
    student: PoseOutput[Tensor], heatmaps: Tensor, weight: Tensor, options: DistillationOptions
) -> Tensor | None:
    if options.score == 0:
        return None
    if student.score is None:
        raise ConfigError("the score loss needs a student with a score output, or its weight set to 0")
    target = read_heatmap(heatmaps, student.xy_norm.detach().float(), options.score_reading)
    return options.score * ((student.score.float() - target).abs() * weight).mean()
