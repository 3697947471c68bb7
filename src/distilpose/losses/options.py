"""Weights and variants of the loss terms: the ``losses`` of a training configuration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from distilpose.errors import ConfigError
from distilpose.losses.simulated_heatmap import SIGMA_FLOOR, ScoreReading
from distilpose.options import NonNegativeFloat, check_options

Mask = Literal["visible", "all", "reference"]
KeypointForm = Literal["smooth_l1", "pixels", "rle"]
TOKEN_WEIGHT = 5e-4  # of the token losses: DistilPose (arXiv:2303.02455)


@dataclass(frozen=True)
class DistillationOptions:
    """Weights and variants of the loss terms; a weight of 0 switches a term off.

    Attributes:
        keypoint: weight of a student's label loss.
        keypoint_form: of that loss. ``"smooth_l1"``: on crop fractions, as published; ``"pixels"``: on crop
            pixels, so that x and y weigh alike and large errors pull linearly (`pixel_keypoint_loss`); ``"rle"``:
            residual log-likelihood, which also trains sigma (`residual_likelihood_loss`). Its gradient is some
            hundred times that of the published loss: with a teacher, weights have to be chosen anew.
        token: weight of each of the two token losses. None: `TOKEN_WEIGHT` where student and teacher have tokens on one
            grid, else off; a number insists on such tokens.
        simulated_heatmap: weight of the simulated-heatmap loss.
        score: weight of the confidence loss.
        score_target: what the score of a labeled keypoint learns. ``"heatmap"``: the teacher's heatmap at the predicted
            point; ``"oks"``: the similarity of prediction and label in the terms of OKS, which needs no teacher,
            by the squared error, so that the score becomes the expected similarity.
        score_mask: keypoints whose score is learned. ``"same"``: those of ``mask``; ``"all"``: also those without a
            label, such as those outside the crop, whose score is low.
        mask: keypoints of the distillation on heatmaps. ``"visible"``: the labeled ones;
            ``"all"``: also the unlabeled ones, whose place only the teacher knows; ``"reference"``: what
            the released code does, every keypoint weighted by the share of the batch in which it is labeled.
        distil_unannotated: whether keypoints that a dataset does not annotate at all are distilled too
            (never in ``"reference"`` without it).
        score_reading: how the teacher's heatmap is read at the student's keypoint.
        sigma_floor: smallest spread drawn, in cells of the heatmap that is drawn, whatever their size.
        teacher_heatmap: weight of a heatmap model's loss against the heatmaps of its teacher.
        backbone_heatmap: weight of an extra heatmap loss on the backbone's features, in training only; it helps
            short trainings. For backbones whose features lie 4 crop pixels apart.

    Source:
        Weights of the first four terms: DistilPose (arXiv:2303.02455).
    """

    keypoint: NonNegativeFloat = 1.0
    keypoint_form: KeypointForm = "smooth_l1"
    token: NonNegativeFloat | None = None
    simulated_heatmap: NonNegativeFloat = 1.0
    score: NonNegativeFloat = 1e-2
    score_target: Literal["heatmap", "oks"] = "heatmap"
    score_mask: Literal["same", "all"] = "same"
    mask: Mask = "visible"
    distil_unannotated: bool = False
    score_reading: ScoreReading = "bilinear"
    sigma_floor: NonNegativeFloat = SIGMA_FLOOR
    teacher_heatmap: NonNegativeFloat = 1.0
    backbone_heatmap: NonNegativeFloat = 0.0

    def __post_init__(self) -> None:
        check_options(self, "losses.")
        if self.keypoint_form == "rle" and self.sigma_floor == 0:
            raise ConfigError("keypoint_form 'rle' divides by sigma: set sigma_floor greater than 0")

    @classmethod
    def reference(cls) -> DistillationOptions:
        """The released code's behavior, to the digit."""
        return cls(mask="reference", distil_unannotated=True, score_reading="reference", sigma_floor=0.0)
