"""A student without tokens: a backbone, the mean over its map, and one linear layer."""

from __future__ import annotations

from torch import Tensor

from distilpose.models.backbones.base import Backbone
from distilpose.models.base import RegressionModel
from distilpose.models.heads import PooledRegressionHead
from distilpose.models.outputs import PoseOutput
from distilpose.types import Size


class DeepPose(RegressionModel):
    """Person crops of ``input_size_hw`` -> keypoints, without tokens.

    Source:
        DeepPose (arXiv:1312.4659), one stage, with a ResNet (arXiv:1512.03385) in place of its network; sigma and
        score as in DistilPose (arXiv:2303.02455).
    """

    def __init__(self, backbone: Backbone, head: PooledRegressionHead, input_size_hw: Size) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head
        self.input_size_hw = input_size_hw
        self.num_keypoints = head.num_keypoints
        self.num_sigmas, self.with_score = head.num_sigmas, head.with_score

    def forward(self, images: Tensor) -> PoseOutput[Tensor]:
        """(B, 3, H, W) normalized crops -> keypoints, spread, confidence."""
        return PoseOutput(*self.head(self.backbone(images)))
