"""What models return. No torch here: exported files return the same types holding numpy arrays."""

from __future__ import annotations

from typing import Generic, NamedTuple, TypeVar

ArrayT = TypeVar("ArrayT")
# Crop pixels per cell in which a student's sigma is measured, whatever its backbone; a teacher's heatmaps may have
# cells of another size.
CELL = 4


class PoseOutput(NamedTuple, Generic[ArrayT]):
    """What a regression model (student) says of B crops.

    Attributes:
        xy_norm: (B, K, 2) keypoints as fractions of the crop, (x, y) in [0, 1].
        sigma: (B, K, 2) spread along x and y in cells of `CELL` crop pixels, > 0; None without a sigma output.
        score: (B, K) raw, unbounded confidence; None without a score output.
        keypoint_tokens: (B, K, D), or None for a model without tokens.
        visual_tokens: (B, P, D), or None for a model without tokens.
    """

    xy_norm: ArrayT
    sigma: ArrayT | None
    score: ArrayT | None
    keypoint_tokens: ArrayT | None = None
    visual_tokens: ArrayT | None = None


class HeatmapOutput(NamedTuple, Generic[ArrayT]):
    """What a heatmap model (teacher) says of B crops.

    Attributes:
        heatmaps: (B, K, H, W), one peak per keypoint, height about 1.
        keypoint_tokens: (B, K, D), or None for a model without tokens.
        visual_tokens: (B, P, D), or None for a model without tokens.
    """

    heatmaps: ArrayT
    keypoint_tokens: ArrayT | None = None
    visual_tokens: ArrayT | None = None
