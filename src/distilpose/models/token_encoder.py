"""Feature map -> keypoint tokens and visual tokens: the encoder that teacher and student share."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distilpose.errors import ConfigError
from distilpose.models.base import TokenLayout
from distilpose.models.linear import TokenLinear, token_linear


class TokenEncoder(nn.Module):
    """Cut a feature map into patches and let learned keypoint tokens read them (paper: Token-distilling Encoder, TDE).

    Pre-norm transformer blocks; the position code is added to the visual tokens at the input and again
    before every later block; the tokens leave without a final norm.

    Two ways to pay for fewer tokens, both off by default: later blocks may update the keypoint tokens alone
    (``visual_depth``), and may read the visual tokens that keypoints attend to and no others (``prune_after``).

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
        prune_after: number of blocks after which visual tokens are pruned; never when None.
        keep_tokens: number of visual tokens that are kept then, the same for every crop.

    Raises:
        ConfigError: the sizes do not divide, or there is nothing to prune.

    Source:
        DistilPose (arXiv:2303.02455) and TokenPose (arXiv:2104.03516). Reading and pruning are ours; pruning by the
        attention of the tokens that matter is the idea of EViT (arXiv:2202.07800).
    """

    def __init__(
        self,
        in_channels: int,
        feature_size_hw: tuple[int, int],
        patch_size_hw: tuple[int, int],
        num_keypoints: int,
        dim: int,
        depth: int,
        num_heads: int,
        mlp_ratio: float,
        visual_depth: int | None = None,
        prune_after: int | None = None,
        keep_tokens: int | None = None,
    ) -> None:
        super().__init__()
        _check_sizes(feature_size_hw, patch_size_hw, num_keypoints, dim, depth, num_heads)
        self.patch_size_hw = patch_size_hw
        self.num_keypoints = num_keypoints
        self.dim = dim
        grid_hw = (feature_size_hw[0] // patch_size_hw[0], feature_size_hw[1] // patch_size_hw[1])
        _check_savings(visual_depth, prune_after, keep_tokens, depth, grid_hw[0] * grid_hw[1])
        self.layout = TokenLayout(grid_hw, dim)
        self.visual_depth = depth if visual_depth is None else visual_depth
        self.prune_after = prune_after
        self.keep_tokens = keep_tokens
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
        visual_tokens = self.patch_embedding(patchify(features, self.patch_size_hw))
        return self.cycle(self.keypoint_tokens.expand(features.shape[0], -1, -1), visual_tokens)

    def cycle(self, keypoint_tokens: Tensor, visual_tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Run all blocks once, on the tokens of a feature map or once more on those of an earlier cycle.

        Args:
            keypoint_tokens: (B, K, D).
            visual_tokens: (B, P, D), without position.

        Returns:
            As `forward`.
        """
        # Keypoint tokens have no place in the image: their rows of the code are zero.
        position = F.pad(self.position, (0, 0, self.num_keypoints, 0))
        tokens = torch.cat([keypoint_tokens, visual_tokens], dim=1)
        kept = None
        for index, block in enumerate(self.blocks):
            assert isinstance(block, TransformerBlock)
            placed = tokens + position
            if index < self.visual_depth:
                tokens = block(placed)
            else:
                tokens = torch.cat([block(placed, self.num_keypoints), tokens[:, self.num_keypoints :]], dim=1)
            if index + 1 == self.prune_after:
                assert self.keep_tokens is not None
                before = tokens
                kept = most_attended(block.attention_received(placed, self.num_keypoints), self.keep_tokens)
                rows = with_keypoints(kept, self.num_keypoints)
                tokens, position = take_rows(tokens, rows), take_rows(position, rows)
        keypoint_tokens, visual_tokens = tokens[:, : self.num_keypoints], tokens[:, self.num_keypoints :]
        if kept is not None:
            place = kept.unsqueeze(-1).expand(-1, -1, self.dim)
            visual_tokens = before[:, self.num_keypoints :].scatter(1, place, visual_tokens)
        return keypoint_tokens, visual_tokens


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
        """Update all tokens, or the first few of them, which read all.

        Args:
            tokens: (B, T, D).
            updated: U, how many are updated; all when None.

        Returns:
            (B, U, D).
        """
        mixed = self._attend(self.attention_norm(tokens), updated)
        tokens = tokens[:, :updated] + mixed
        out: Tensor = tokens + self.mlp_down(F.gelu(self.mlp_up(self.mlp_norm(tokens))))
        return out

    def attention_received(self, tokens: Tensor, num_keypoints: int) -> Tensor:
        """How much of a keypoint's attention in this block goes to each visual token.

        Args:
            tokens: (B, K + P, D) as the block reads them, keypoint tokens first.
            num_keypoints: K.

        Returns:
            (B, P) share in [0, 1], mean over heads, of the keypoint that attends most.
        """
        normed = self.attention_norm(tokens)
        dim = normed.shape[-1]
        query = self._heads(token_linear(normed[:, :num_keypoints], self.qkv.weight[:dim]))
        key = self._heads(token_linear(normed, self.qkv.weight[dim : 2 * dim]))
        weights = (query * query.shape[-1] ** -0.5 @ key.transpose(-2, -1)).softmax(dim=-1)
        received: Tensor = weights[..., num_keypoints:].mean(dim=1).amax(dim=1)
        return received

    def _attend(self, tokens: Tensor, updated: int | None) -> Tensor:
        batch, _, dim = tokens.shape
        if updated is None:
            projected = self.qkv(tokens).chunk(3, dim=-1)
        else:
            query = token_linear(tokens[:, :updated], self.qkv.weight[:dim])
            projected = (query, *token_linear(tokens, self.qkv.weight[dim:]).chunk(2, dim=-1))
        mixed = attention(*map(self._heads, projected))
        out: Tensor = self.attention_out(mixed.transpose(1, 2).reshape(batch, -1, dim))
        return out

    def _heads(self, values: Tensor) -> Tensor:
        """(B, T, D) -> (B, heads, T, D / heads)."""
        batch, count, dim = values.shape
        return values.view(batch, count, self.num_heads, dim // self.num_heads).transpose(1, 2)


def most_attended(received: Tensor, keep: int) -> Tensor:
    """Places (B, ``keep``) of the visual tokens that receive most attention, of (B, P); in ascending order."""
    places: Tensor = received.topk(keep, dim=1).indices
    return places.sort(dim=1).values


def with_keypoints(places: Tensor, num_keypoints: int) -> Tensor:
    """(B, P) places among the visual tokens -> (B, K + P) rows among all tokens, those of the keypoints first."""
    keypoints = torch.arange(num_keypoints, device=places.device).expand(places.shape[0], -1)
    return torch.cat([keypoints, places + num_keypoints], dim=1)


def take_rows(tokens: Tensor, rows: Tensor) -> Tensor:
    """The tokens (B, R, D) at ``rows`` (B, R) of (B or 1, T, D)."""
    batch, count = rows.shape
    dim = tokens.shape[-1]
    return tokens.expand(batch, -1, -1).gather(1, rows.unsqueeze(-1).expand(batch, count, dim))


def attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Scaled dot-product attention, (B, heads, T, C) each."""
    if query.device.type == "cpu" and query.dtype == torch.bfloat16:
        # torch's bfloat16 attention on CPUs takes seven times as long backwards as its float32 attention.
        with torch.autocast("cpu", enabled=False):
            mixed = F.scaled_dot_product_attention(query.float(), key.float(), value.float())
            return mixed.to(query.dtype)
    return F.scaled_dot_product_attention(query, key, value)


def patchify(features: Tensor, patch_size_hw: tuple[int, int]) -> Tensor:
    """Cut (B, C, H, W) into patches (B, P, h * w * C), each in the order row, column, channel."""
    batch, channels, height, width = features.shape
    patch_h, patch_w = patch_size_hw
    grid = features.view(batch, channels, height // patch_h, patch_h, width // patch_w, patch_w)
    return grid.permute(0, 2, 4, 3, 5, 1).reshape(batch, -1, patch_h * patch_w * channels)


def sine_position_code(grid_hw: tuple[int, int], dim: int) -> Tensor:
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
    feature_size_hw: tuple[int, int],
    patch_size_hw: tuple[int, int],
    num_keypoints: int,
    dim: int,
    depth: int,
    num_heads: int,
) -> None:
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


def _check_savings(
    visual_depth: int | None, prune_after: int | None, keep_tokens: int | None, depth: int, num_tokens: int
) -> None:
    if visual_depth is not None and not 0 <= visual_depth <= depth:
        raise ConfigError(f"visual_depth must be from 0 to depth={depth}, got {visual_depth}")
    if (prune_after is None) != (keep_tokens is None):
        raise ConfigError(f"prune_after and keep_tokens go together, got {prune_after} and {keep_tokens}: set both")
    if prune_after is not None and not 1 <= prune_after < depth:
        raise ConfigError(f"prune_after must be from 1 to depth - 1 = {depth - 1}, got {prune_after}")
    if keep_tokens is not None and not 1 <= keep_tokens <= num_tokens:
        raise ConfigError(f"keep_tokens must be from 1 to {num_tokens}, the number of patches, got {keep_tokens}")
