"""The teacher: one heatmap per keypoint token."""

from __future__ import annotations

from torch import Tensor, nn

from distilpose.models.base import HeatmapModel
from distilpose.models.outputs import HeatmapOutput
from distilpose.models.token_encoder import TokenEncoder, init_linear


class HeatmapHead(nn.Module):
    """Turn each keypoint token into a heatmap by two linear layers, each behind a norm.

    Args:
        dim: D of a token.
        hidden: width between the layers.
        heatmap_size_hw: (H, W) of a heatmap in cells.
    """

    def __init__(self, dim: int, hidden: int, heatmap_size_hw: tuple[int, int]) -> None:
        super().__init__()
        height, width = heatmap_size_hw
        self.heatmap_size_hw = heatmap_size_hw
        self.norm = nn.LayerNorm(dim)
        self.up = nn.Linear(dim, hidden)
        self.hidden_norm = nn.LayerNorm(hidden)
        self.out = nn.Linear(hidden, height * width)
        self.apply(init_linear)

    def forward(self, keypoint_tokens: Tensor) -> Tensor:
        """(B, K, D) -> heatmaps (B, K, H, W)."""
        heatmaps: Tensor = self.out(self.hidden_norm(self.up(self.norm(keypoint_tokens))))
        return heatmaps.view(*heatmaps.shape[:-1], *self.heatmap_size_hw)


class TokenPose(HeatmapModel):
    """Person crops -> heatmaps, through the same encoder as the student.

    Args:
        backbone: (B, 3, H, W) -> (B, C, H / 4, W / 4).
        encoder: feature map -> tokens.
        head: keypoint tokens -> heatmaps.
        input_size_hw: (H, W) of the crops.

    Source:
        TokenPose (arXiv:2104.03516).
    """

    def __init__(
        self, backbone: nn.Module, encoder: TokenEncoder, head: HeatmapHead, input_size_hw: tuple[int, int]
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.encoder = encoder
        self.head = head
        self.input_size_hw = input_size_hw
        self.num_keypoints, self.token_layout = encoder.num_keypoints, encoder.layout
        self.heatmap_size_hw = head.heatmap_size_hw

    def forward(self, images: Tensor) -> HeatmapOutput[Tensor]:
        """(B, 3, H, W) normalized crops -> heatmaps (B, K, H / 4, W / 4) and tokens."""
        keypoint_tokens, visual_tokens = self.encoder(self.backbone(images))
        return HeatmapOutput(self.head(keypoint_tokens), keypoint_tokens, visual_tokens)
