"""Losses: small functions that return scalars, and the two criteria that sum them."""

from distilpose.losses.distillation import DistillationCriterion, HeatmapCriterion, Labels
from distilpose.losses.keypoint import ResidualFlow, residual_likelihood_loss
from distilpose.losses.options import DistillationOptions
from distilpose.losses.simulated_heatmap import (
    TARGET_SIGMA,
    heatmap_mse,
    read_heatmap,
    render_gaussian_heatmaps,
    simulate_heatmaps,
    target_heatmaps,
)

__all__ = [
    "TARGET_SIGMA",
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
