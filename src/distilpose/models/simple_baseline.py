"""Heatmap teachers of convolutions alone: SimpleBaseline, and HRNet with a 1x1 convolution."""

from __future__ import annotations

from torch import Tensor, nn

from distilpose.models.backbones.hrnet import HRNet
from distilpose.models.backbones.resnet import ResNet
from distilpose.models.base import HeatmapModel
from distilpose.models.outputs import HeatmapOutput

DECONVOLUTIONS = 3  # each doubles the map: stride 32 to 4
DECONVOLUTION_CHANNELS = 256
_KERNEL = 4
_INITIAL_STD = 0.001


class DeconvolutionHead(nn.Module):
    """Three deconvolutions of 256 channels, each with batch-norm and ReLU, then one heatmap per keypoint.

    Args:
        in_channels: C of the feature map.
        num_keypoints: K.

    Attributes:
        upsampling: how many times larger a heatmap is than the feature map.

    Source:
        Simple Baselines for Human Pose Estimation and Tracking (arXiv:1804.06208).
    """

    upsampling: int = 2**DECONVOLUTIONS

    def __init__(self, in_channels: int, num_keypoints: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for index in range(DECONVOLUTIONS):
            channels = DECONVOLUTION_CHANNELS if index else in_channels
            layers += [
                nn.ConvTranspose2d(channels, DECONVOLUTION_CHANNELS, _KERNEL, stride=2, padding=1, bias=False),
                nn.BatchNorm2d(DECONVOLUTION_CHANNELS),
                nn.ReLU(inplace=True),
            ]
        self.deconvolutions = nn.Sequential(*layers)
        self.read = PointwiseHead(DECONVOLUTION_CHANNELS, num_keypoints)
        for layer in layers:
            if isinstance(layer, nn.ConvTranspose2d):
                nn.init.normal_(layer.weight, std=_INITIAL_STD)

    def forward(self, features: Tensor) -> Tensor:
        """(B, C, H, W) -> heatmaps (B, K, 8 H, 8 W)."""
        heatmaps: Tensor = self.read(self.deconvolutions(features))
        return heatmaps


class PointwiseHead(nn.Conv2d):
    """One 1x1 convolution: one heatmap per keypoint, of the feature map's size.

    Args:
        in_channels: C of the feature map.
        num_keypoints: K.

    Source:
        Deep High-Resolution Representation Learning (arXiv:1908.07919).
    """

    upsampling: int = 1

    def __init__(self, in_channels: int, num_keypoints: int) -> None:
        super().__init__(in_channels, num_keypoints, kernel_size=1)
        nn.init.normal_(self.weight, std=_INITIAL_STD)
        assert self.bias is not None
        nn.init.zeros_(self.bias)


class HeatmapNet(HeatmapModel):
    """Person crops -> heatmaps, by a backbone and a head of convolutions; no tokens.

    Args:
        backbone: ResNet for SimpleBaseline, HRNet for HRNet.
        head: feature map -> heatmaps.
        num_keypoints: K, of the head.
        input_size_hw: (H, W) of the crops, multiples of the backbone's lowest stride.
    """

    def __init__(
        self,
        backbone: ResNet | HRNet,
        head: DeconvolutionHead | PointwiseHead,
        num_keypoints: int,
        input_size_hw: tuple[int, int],
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
