"""The teacher: one heatmap per keypoint token."""

from __future__ import annotations

from torch import Tensor

from distilpose.models.backbones.base import Backbone
from distilpose.models.base import HeatmapModel
from distilpose.models.heads import TokenHeatmapHead
from distilpose.models.outputs import HeatmapOutput
from distilpose.models.token_encoder import TokenEncoder
from distilpose.types import Size


class TokenPose(HeatmapModel):
    """Person crops of ``input_size_hw`` -> heatmaps, through the same encoder as the student.

    Source:
        TokenPose (arXiv:2104.03516).
    """

    def __init__(self, backbone: Backbone, encoder: TokenEncoder, head: TokenHeatmapHead, input_size_hw: Size) -> None:
        super().__init__()
        self.backbone = backbone
        self.encoder = encoder
        self.head = head
        self.input_size_hw, self.heatmap_size_hw = input_size_hw, head.heatmap_size_hw
        self.num_keypoints, self.token_layout = encoder.num_keypoints, encoder.layout

    def forward(self, images: Tensor) -> HeatmapOutput[Tensor]:
        """(B, 3, H, W) normalized crops -> heatmaps (B, K, H / 4, W / 4) and tokens."""
        keypoint_tokens, visual_tokens = self.encoder(self.backbone(images))
        return HeatmapOutput(self.head(keypoint_tokens), keypoint_tokens, visual_tokens)
