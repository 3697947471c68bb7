"""The student: keypoints by regression, one linear layer behind the token encoder."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distilpose.errors import ConfigError
from distilpose.models.base import RegressionModel
from distilpose.models.outputs import PoseOutput
from distilpose.models.token_encoder import TokenEncoder, init_linear

NumSigmas = Literal[0, 1, 2]


def numbers_per_keypoint(num_sigmas: NumSigmas, with_score: bool) -> int:
    """How many numbers a head predicts for each keypoint: x, y, score and sigma, as far as they are wanted.

    Raises:
        ConfigError: ``num_sigmas`` is not 0, 1 or 2.
    """
    if num_sigmas not in (0, 1, 2):
        raise ConfigError(f"num_sigmas must be 0, 1 or 2, got {num_sigmas}")
    return 2 + with_score + num_sigmas


def read_numbers(
    values: Tensor, num_sigmas: NumSigmas, with_score: bool
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """What the numbers of a head mean: the one home of their order and range.

    Args:
        values: (B, K, `numbers_per_keypoint`), unbounded, in the order x, y, score, sigma.
        num_sigmas: 0, 1 or 2.
        with_score: whether a score is among them.

    Returns:
        xy_norm (B, K, 2), sigma (B, K, 2) in heatmap cells or None, raw score (B, K) or None.
    """
    xy_norm = torch.sigmoid(values[..., :2])
    score = values[..., 2] if with_score else None
    if num_sigmas == 0:
        return xy_norm, None, score
    sigma = F.softplus(values[..., 2 + with_score :])
    return xy_norm, sigma.expand(-1, -1, 2), score


class RegressionHead(nn.Module):
    """Turn each keypoint token into x, y, score and sigma; what is not built is None.

    Args:
        dim: D of a token.
        num_sigmas: 0 (none), 1 (the same along x and y) or 2.
        with_score: whether a confidence is predicted.

    Raises:
        ConfigError: ``num_sigmas`` is something else.
    """

    def __init__(self, dim: int, num_sigmas: NumSigmas = 2, with_score: bool = True) -> None:
        super().__init__()
        self.num_sigmas = num_sigmas
        self.with_score = with_score
        self.norm = nn.LayerNorm(dim)
        self.linear = nn.Linear(dim, numbers_per_keypoint(num_sigmas, with_score))
        self.apply(init_linear)

    def forward(self, keypoint_tokens: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """(B, K, D) -> xy_norm (B, K, 2), sigma (B, K, 2) in heatmap cells or None, raw score (B, K) or None."""
        return read_numbers(self.linear(self.norm(keypoint_tokens)), self.num_sigmas, self.with_score)


class DistilPose(RegressionModel):
    """Person crops -> keypoints, read straight off the keypoint tokens.

    Args:
        backbone: (B, 3, H, W) -> (B, C, H / 4, W / 4).
        encoder: feature map -> tokens.
        head: keypoint tokens -> numbers.
        input_size_hw: (H, W) of the crops.

    Source:
        DistilPose (arXiv:2303.02455).
    """

    def __init__(
        self, backbone: nn.Module, encoder: TokenEncoder, head: RegressionHead, input_size_hw: tuple[int, int]
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.encoder = encoder
        self.head = head
        self.input_size_hw = input_size_hw
        self.num_keypoints, self.token_layout = encoder.num_keypoints, encoder.layout
        self.num_sigmas, self.with_score = head.num_sigmas, head.with_score

    def forward(self, images: Tensor) -> PoseOutput[Tensor]:
        """(B, 3, H, W) normalized crops -> keypoints, spread, confidence and tokens."""
        return self._read(*self.encoder(self.backbone(images)))

    def cycle(self, output: PoseOutput[Tensor]) -> PoseOutput[Tensor]:
        """What the model says after running the encoder's blocks once more, on the tokens of an output."""
        assert output.keypoint_tokens is not None
        assert output.visual_tokens is not None
        return self._read(*self.encoder.cycle(output.keypoint_tokens, output.visual_tokens))

    def _read(self, keypoint_tokens: Tensor, visual_tokens: Tensor) -> PoseOutput[Tensor]:
        xy_norm, sigma, score = self.head(keypoint_tokens)
        return PoseOutput(xy_norm, sigma, score, keypoint_tokens, visual_tokens)
