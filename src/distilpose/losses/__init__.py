"""Losses: small functions that return scalars, and the two criteria that sum them."""

from distilpose.losses.distillation import DistillationCriterion, HeatmapCriterion, Labels
from distilpose.losses.keypoint import ResidualFlow, residual_likelihood_loss
from distilpose.losses.options import TOKEN_WEIGHT, DistillationOptions
from distilpose.losses.simulated_heatmap import (
    SIGMA_FLOOR,
    TARGET_SIGMA,
    heatmap_mse,
    read_heatmap,
    render_gaussian_heatmaps,
    simulate_heatmaps,
    target_heatmaps,
)
from distilpose.models.outputs import CELL

__all__ = [
    "CELL",
    "SIGMA_FLOOR",
    "TARGET_SIGMA",
    "TOKEN_WEIGHT",
    "DistillationCriterion",
    "DistillationOptions",
    "HeatmapCriterion",
    "Labels",
    "ResidualFlow",
    "heatmap_mse",
    "read_heatmap",
    "render_gaussian_heatmaps",
    "residual_likelihood_loss",
    "simulate_heatmaps",
    "target_heatmaps",
]
