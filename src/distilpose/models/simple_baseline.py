"""Heatmap teachers of convolutions alone: SimpleBaseline, and HRNet with a 1x1 convolution."""

from __future__ import annotations

from torch import Tensor

from distilpose.models.backbones.base import Backbone
from distilpose.models.base import HeatmapModel
from distilpose.models.heads import DeconvolutionHead, PointwiseHead
from distilpose.models.outputs import HeatmapOutput
from distilpose.types import Size


class HeatmapNet(HeatmapModel):
    """Person crops of ``input_size_hw`` -> ``num_keypoints`` heatmaps, without tokens."""

    def __init__(
        self, backbone: Backbone, head: DeconvolutionHead | PointwiseHead, num_keypoints: int, input_size_hw: Size
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head
        self.num_keypoints = num_keypoints
        self.input_size_hw = input_size_hw
        stride = backbone.stride // head.upsampling
        self.heatmap_size_hw = (input_size_hw[0] // stride, input_size_hw[1] // stride)

    def forward(self, images: Tensor) -> HeatmapOutput[Tensor]:
        """(B, 3, H, W) normalized crops -> heatmaps (B, K, H / 4, W / 4)."""
        return HeatmapOutput(self.head(self.backbone(images)))
