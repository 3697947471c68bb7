"""The student: keypoints by regression, one linear layer behind the token encoder."""

from __future__ import annotations

from torch import Tensor

from distilpose.models.backbones.base import Backbone
from distilpose.models.base import RegressionModel
from distilpose.models.heads import RegressionHead
from distilpose.models.outputs import PoseOutput
from distilpose.models.token_encoder import TokenEncoder
from distilpose.types import Size


class DistilPose(RegressionModel):
    """Person crops of ``input_size_hw`` -> keypoints, predicted from the keypoint tokens.

    Source:
        DistilPose (arXiv:2303.02455).
    """

    def __init__(self, backbone: Backbone, encoder: TokenEncoder, head: RegressionHead, input_size_hw: Size) -> None:
        super().__init__()
        self.backbone = backbone
        self.encoder = encoder
        self.head = head
        self.input_size_hw = input_size_hw
        self.num_keypoints, self.token_layout = encoder.num_keypoints, encoder.layout
        self.num_sigmas, self.with_score = head.num_sigmas, head.with_score

    def forward(self, images: Tensor) -> PoseOutput[Tensor]:
        """(B, 3, H, W) normalized crops -> keypoints, spread, confidence and tokens."""
        keypoint_tokens, visual_tokens = self.encoder(self.backbone(images))
        xy_norm, sigma, score = self.head(keypoint_tokens)
        return PoseOutput(xy_norm, sigma, score, keypoint_tokens, visual_tokens)
