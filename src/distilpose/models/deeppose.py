"""The plainest student: a ResNet, the mean over its last map, and one linear layer."""

from __future__ import annotations

from torch import Tensor, nn

from distilpose.models.backbones.resnet import ResNet
from distilpose.models.base import RegressionModel
from distilpose.models.distilpose import NumSigmas, numbers_per_keypoint, read_numbers
from distilpose.models.outputs import PoseOutput
from distilpose.models.token_encoder import init_linear


class PooledRegressionHead(nn.Module):
    """Average a feature map and turn it into x, y, score and sigma of every keypoint; what is not built is None.

    Args:
        in_channels: C of the feature map.
        num_keypoints: K.
        num_sigmas: 0 (none), 1 (the same along x and y) or 2.
        with_score: whether a confidence is predicted.

    Raises:
        ConfigError: ``num_sigmas`` is something else.
    """

    def __init__(
        self, in_channels: int, num_keypoints: int, num_sigmas: NumSigmas = 2, with_score: bool = True
    ) -> None:
        super().__init__()
        self.num_keypoints = num_keypoints
        self.num_sigmas = num_sigmas
        self.with_score = with_score
        self.linear = nn.Linear(in_channels, num_keypoints * numbers_per_keypoint(num_sigmas, with_score))
        init_linear(self.linear)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """(B, C, H, W) -> xy_norm (B, K, 2), sigma (B, K, 2) in heatmap cells or None, raw score (B, K) or None."""
        values = self.linear(features.mean((2, 3)))
        return read_numbers(values.unflatten(1, (self.num_keypoints, -1)), self.num_sigmas, self.with_score)


class DeepPose(RegressionModel):
    """Person crops -> keypoints, without tokens.

    Args:
        backbone: (B, 3, H, W) -> (B, C, H / 32, W / 32).
        head: feature map -> numbers.
        input_size_hw: (H, W) of the crops.

    Source:
        DeepPose (arXiv:1312.4659), one stage, with a ResNet (arXiv:1512.03385) in place of its network; sigma and
        score as in DistilPose (arXiv:2303.02455).
    """

    def __init__(self, backbone: ResNet, head: PooledRegressionHead, input_size_hw: tuple[int, int]) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head
        self.input_size_hw = input_size_hw
        self.num_keypoints = head.num_keypoints
        self.num_sigmas, self.with_score = head.num_sigmas, head.with_score

    def forward(self, images: Tensor) -> PoseOutput[Tensor]:
        """(B, 3, H, W) normalized crops -> keypoints, spread, confidence."""
        xy_norm, sigma, score = self.head(self.backbone(images))
        return PoseOutput(xy_norm, sigma, score)
