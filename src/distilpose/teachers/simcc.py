"""Two classified axes as one heatmap."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from distilpose.teachers.resampling import Sampling, resample
from distilpose.types import Size

Activation = Literal["softmax", "none"]
Peak = Literal["value", "one"]


def simcc_heatmaps(
    along_x: Tensor,
    along_y: Tensor,
    size_hw: Size,
    *,
    activation: Activation = "softmax",
    sharpness: float = 10.0,
    peak: Peak = "value",
) -> Tensor:
    """The outer product of two axes, thinned out to a heatmap's cells and raised to a heatmap's height.

    Each axis becomes positive (``activation``), its bins are averaged into cells (bin b of Wx lies at b / Wx of the
    crop, cell c of w at c / w), and it is divided by its largest cell; so the product has height 1 at the product of
    the two peaks. It is multiplied by the keypoint's score (``peak``).

    Args:
        along_x: (B, K, Wx) logits or heights.
        along_y: (B, K, Hy) likewise.
        size_hw: (h, w) of the heatmaps.
        activation: ``"softmax"`` of values times ``sharpness``; ``"none"`` cuts negative values off.
        sharpness: factor before the softmax. What a network was trained with keeps its widths: 10 for RTMPose.
        peak: ``"value"``: the smaller of the axes' raw maxima, cut to 0..1; ``"one"``: every heatmap peaks at 1.

    Returns:
        (B, K, h, w) float32 heatmaps in [0, 1].

    Source:
        SimCC (arXiv:2107.03332): the axes; RTMPose (arXiv:2303.07399): the score of a keypoint. The product is ours.
    """
    column, row = (
        _profile(axis, size, activation, sharpness) for axis, size in ((along_x, size_hw[1]), (along_y, size_hw[0]))
    )
    heatmaps = row.unsqueeze(-1) * column.unsqueeze(-2)
    if peak == "one":
        return heatmaps
    score = torch.minimum(along_x.amax(-1), along_y.amax(-1)).float().clamp(0, 1)
    return heatmaps * score[..., None, None]


def _profile(axis: Tensor, size: int, activation: Activation, sharpness: float) -> Tensor:
    """(B, K, bins) -> (B, K, size) in [0, 1], 1 at its largest cell; 0 everywhere without a positive value."""
    values = axis.float()
    if activation == "softmax":
        values = (sharpness * (values - values.amax(-1, keepdim=True))).exp()  # softmax, up to its sum
    else:
        values = values.clamp(min=0)
    bins = values.shape[-1]
    cells = resample(values, Sampling(values.shape[-2]), Sampling(size, bins / size))
    return cells / cells.amax(-1, keepdim=True).clamp(min=1e-12)
