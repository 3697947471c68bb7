"""The token encoder that teacher and student share: feature map -> keypoint tokens and visual tokens."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distilpose.errors import ConfigError
from distilpose.models.base import TokenLayout
from distilpose.models.linear import TokenLinear, token_linear
from distilpose.types import Size


class TokenEncoder(nn.Module):
    """Cut a feature map into patches and let learned keypoint tokens read them (paper: Token-distilling Encoder, TDE).

    Pre-norm transformer blocks; the position code is added to the visual tokens at the input and again
    before every later block; the tokens leave without a final norm.

    Args:
        in_channels: C of the feature map.
        feature_size_hw: (H, W) of the feature map in cells.
        patch_size_hw: (h, w) of a patch in cells; must divide ``feature_size_hw``.
        num_keypoints: K.
        dim: D, channels of a token; a multiple of 4 and of ``num_heads``.
        depth: number of transformer blocks.
        num_heads: attention heads.
        mlp_ratio: hidden width of a block's MLP, in multiples of ``dim``.
        visual_depth: number of blocks that update the visual tokens; in the later ones keypoint tokens read them as
            they are, at a fifth of the cost. All of them when None.

    Raises:
        ConfigError: the sizes do not divide.

    Source:
        DistilPose (arXiv:2303.02455) and TokenPose (arXiv:2104.03516). Blocks that only read are ours.
    """

    def __init__(
        self,
        in_channels: int,
        feature_size_hw: Size,
        patch_size_hw: Size,
        num_keypoints: int,
        dim: int,
        depth: int,
        num_heads: int,
        mlp_ratio: float,
        visual_depth: int | None = None,
    ) -> None:
        super().__init__()
        visual_depth = depth if visual_depth is None else visual_depth
        _check_sizes(feature_size_hw, patch_size_hw, num_keypoints, dim, depth, num_heads, visual_depth)
        grid_hw = (feature_size_hw[0] // patch_size_hw[0], feature_size_hw[1] // patch_size_hw[1])
        self.patch_size_hw = patch_size_hw
        self.num_keypoints = num_keypoints
        self.dim = dim
        self.visual_depth = visual_depth
        self.layout = TokenLayout(grid_hw, dim)
        self.keypoint_tokens = nn.Parameter(torch.empty(1, num_keypoints, dim))
        self.position: Tensor
        self.register_buffer("position", sine_position_code(grid_hw, dim), persistent=False)
        self.patch_embedding = TokenLinear(in_channels * patch_size_hw[0] * patch_size_hw[1], dim)
        self.blocks = nn.ModuleList(TransformerBlock(dim, num_heads, round(dim * mlp_ratio)) for _ in range(depth))
        nn.init.trunc_normal_(self.keypoint_tokens, std=0.02)
        self.apply(init_linear)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Read the feature map.

        Args:
            features: (B, C, H, W).

        Returns:
            keypoint tokens (B, K, D) and visual tokens (B, P, D), P patches in row-major order; a visual token that
            is not updated any more keeps its last value.
        """
        count = self.num_keypoints
        visual_tokens = self.patch_embedding(patchify(features, self.patch_size_hw))
        tokens = torch.cat([self.keypoint_tokens.expand(features.shape[0], -1, -1), visual_tokens], dim=1)
        # Keypoint tokens have no place in the image: their rows of the code are zero.
        position = F.pad(self.position, (0, 0, count, 0))
        for index, block in enumerate(self.blocks):
            if index < self.visual_depth:
                tokens = block(tokens + position)
            else:
                tokens = torch.cat([block(tokens + position, count), tokens[:, count:]], dim=1)
        return tokens[:, :count], tokens[:, count:]


class TransformerBlock(nn.Module):
    """Pre-norm self-attention and MLP, each with a shortcut."""

    def __init__(self, dim: int, num_heads: int, hidden: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.attention_norm = nn.LayerNorm(dim)
        self.qkv = TokenLinear(dim, 3 * dim, bias=False)
        self.attention_out = TokenLinear(dim, dim)
        self.mlp_norm = nn.LayerNorm(dim)
        self.mlp_up = TokenLinear(dim, hidden)
        self.mlp_down = TokenLinear(hidden, dim)

    def forward(self, tokens: Tensor, updated: int | None = None) -> Tensor:
        """Update all tokens (B, T, D), or the first ``updated`` of them, which read all: (B, updated, D)."""
        tokens = tokens[:, :updated] + self._attend(self.attention_norm(tokens), updated)
        out: Tensor = tokens + self.mlp_down(F.gelu(self.mlp_up(self.mlp_norm(tokens))))
        return out

    def _attend(self, tokens: Tensor, updated: int | None) -> Tensor:
        batch, _, dim = tokens.shape
        if updated is None:
            projected = self.qkv(tokens).chunk(3, dim=-1)
        else:
            query = token_linear(tokens[:, :updated], self.qkv.weight[:dim])
            projected = (query, *token_linear(tokens, self.qkv.weight[dim:]).chunk(2, dim=-1))
        # (B, T, D) -> (B, heads, T, D / heads)
        heads = (values.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for values in projected)
        out: Tensor = self.attention_out(attention(*heads).transpose(1, 2).reshape(batch, -1, dim))
        return out


def attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Scaled dot-product attention, (B, heads, T, C) each."""
    if query.device.type == "cpu" and query.dtype == torch.bfloat16:
        # torch's bfloat16 attention on CPUs takes seven times as long backwards as its float32 attention.
        with torch.autocast("cpu", enabled=False):
            mixed = F.scaled_dot_product_attention(query.float(), key.float(), value.float())
            return mixed.to(query.dtype)
    return F.scaled_dot_product_attention(query, key, value)


def patchify(features: Tensor, patch_size_hw: Size) -> Tensor:
    """Cut (B, C, H, W) into patches (B, P, h * w * C), each in the order row, column, channel."""
    batch, channels, height, width = features.shape
    patch_h, patch_w = patch_size_hw
    grid = features.view(batch, channels, height // patch_h, patch_h, width // patch_w, patch_w)
    return grid.permute(0, 2, 4, 3, 5, 1).reshape(batch, -1, patch_h * patch_w * channels)


def sine_position_code(grid_hw: Size, dim: int) -> Tensor:
    """The two-dimensional sine code of DETR: (1, h * w, dim), first half from y, second from x.

    Positions run from 1 / n to 1 over the grid's extent, times 2 pi; temperature 10000; sines and
    cosines alternate.

    Source:
        End-to-End Object Detection with Transformers (arXiv:2005.12872), normalized variant.
    """
    half = dim // 2
    frequency = 10000.0 ** (-torch.div(torch.arange(half), 2, rounding_mode="floor") * 2 / half)

    def code(cells: int) -> Tensor:
        position = torch.arange(1, cells + 1, dtype=torch.float32) / (cells + 1e-6) * 2 * math.pi
        angle = position[:, None] * frequency
        return torch.stack([angle[:, 0::2].sin(), angle[:, 1::2].cos()], dim=2).flatten(1)

    height, width = grid_hw
    rows = code(height)[:, None, :].expand(height, width, half)
    columns = code(width)[None, :, :].expand(height, width, half)
    return torch.cat([rows, columns], dim=2).reshape(1, height * width, dim)


def init_linear(module: nn.Module) -> None:
    """Truncated normal weights of spread 0.02 and zero biases, as DistilPose initializes its linear layers."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def _check_sizes(
    feature_size_hw: Size, patch_size_hw: Size, num_keypoints: int, dim: int, depth: int, num_heads: int,
    visual_depth: int,
) -> None:  # fmt: skip
    if min(*patch_size_hw, num_keypoints, dim, depth, num_heads) < 1:
        raise ConfigError(
            f"patch_size_hw, num_keypoints, dim, depth and num_heads must be at least 1, got {patch_size_hw}, "
            f"{num_keypoints}, {dim}, {depth}, {num_heads}"
        )
    if feature_size_hw[0] % patch_size_hw[0] or feature_size_hw[1] % patch_size_hw[1]:
        raise ConfigError(
            f"patch_size_hw must divide the feature map (input size / stride) of {feature_size_hw} cells, "
            f"got {patch_size_hw}"
        )
    if dim % 4 or dim % num_heads:
        raise ConfigError(f"dim must be a multiple of 4 and of num_heads={num_heads}, got {dim}")
    if not 0 <= visual_depth <= depth:
        raise ConfigError(f"visual_depth must be from 0 to depth={depth}, got {visual_depth}")
