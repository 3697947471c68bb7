"""What the first cycle of an encoder learns from its last."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from distilpose.models.outputs import PoseOutput


def cycle_token_loss(first: PoseOutput[Tensor], last: PoseOutput[Tensor]) -> Tensor:
    """Mean squared error of the tokens after the first cycle against those after the last.

    The mean over keypoint tokens and the mean over visual tokens are added; the last cycle gets no gradient.

    Args:
        first: tokens (B, K, D) and (B, P, D).
        last: tokens of the same shapes.

    Source:
        SDPose (arXiv:2404.03518): a small encoder run several times is a deeper one, and its later tokens and heatmaps
        teach the earlier ones (figure 3). Which tokens are compared and how is ours.
    """
    pairs = ((first.keypoint_tokens, last.keypoint_tokens), (first.visual_tokens, last.visual_tokens))
    terms = []
    for own, other in pairs:
        assert own is not None
        assert other is not None
        terms.append(F.mse_loss(own.float(), other.detach().float()))
    return torch.stack(terms).sum()


def cycle_keypoint_loss(first: PoseOutput[Tensor], last: PoseOutput[Tensor]) -> Tensor:
    """Smooth L1 distance of the positions after the first cycle from those after the last, as crop fractions.

    What SDPose's heatmaps of two cycles are to each other, for a student that has positions: the same measure as the
    published label loss. The last cycle gets no gradient.

    Args:
        first: ``xy_norm`` (B, K, 2).
        last: of the same shape.
    """
    return F.smooth_l1_loss(first.xy_norm.float(), last.xy_norm.detach().float())
