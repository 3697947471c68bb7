"""Losses: small functions returning scalars, and the one place that sums them."""

from distilpose.losses.distillation import (
    TARGET_SIGMA,
    TOKEN_WEIGHT,
    DistillationLosses,
    DistillationOptions,
    distillation_losses,
    heatmap_loss,
)
from distilpose.losses.residual_likelihood import ResidualFlow, residual_likelihood_loss
from distilpose.losses.self_distillation import cycle_keypoint_loss, cycle_token_loss
from distilpose.losses.simulated_heatmap import (
    SIGMA_FLOOR,
    read_heatmap,
    render_gaussian_heatmaps,
    simulated_heatmap_loss,
)
from distilpose.models.outputs import CELL

__all__ = [
    "CELL",
    "SIGMA_FLOOR",
    "TARGET_SIGMA",
    "TOKEN_WEIGHT",
    "DistillationLosses",
    "DistillationOptions",
    "ResidualFlow",
    "cycle_keypoint_loss",
    "cycle_token_loss",
    "distillation_losses",
    "heatmap_loss",
    "read_heatmap",
    "render_gaussian_heatmaps",
    "residual_likelihood_loss",
    "simulated_heatmap_loss",
]
