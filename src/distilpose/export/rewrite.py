"""A model in the form that inference runtimes run fastest. Every rewrite is exact but for rounding.

Batch norms are folded by the exporter.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distilpose.backends.base import HEATMAP_OUTPUT, POSE_OUTPUTS
from distilpose.data.preprocess import Normalization
from distilpose.models import PoseModel
from distilpose.models.outputs import HeatmapOutput
from distilpose.models.token_encoder import TokenEncoder, TransformerBlock


class ExportForm(nn.Module):
    """A model, in evaluation mode, that returns a tuple of arrays, tokens left out; it shares the model's weights.

    With the model's normalization as ``pixels`` it reads (B, 3, H, W) uint8, else what the model reads.

    Attributes:
        output_names: of the tuple's arrays.
    """

    def __init__(self, model: PoseModel, pixels: Normalization | None = None) -> None:
        super().__init__()
        self.backbone = model.backbone
        encoder = getattr(model, "encoder", None)  # the head of a model without tokens reads the feature map
        self.encoder = nn.Identity() if encoder is None else FlatEncoder(encoder)
        self.head = model.head
        self.pixels = None if pixels is None else _Pixels(pixels)
        with torch.inference_mode():
            output = model(torch.zeros(1, 3, *model.input_size_hw, dtype=next(model.parameters()).dtype))
        if isinstance(output, HeatmapOutput):
            self.output_names: Sequence[str] = (HEATMAP_OUTPUT,)
        else:
            self.output_names = [name for name in POSE_OUTPUTS if getattr(output, name) is not None]

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """(B, 3, H, W) crops -> the arrays of `output_names`."""
        if self.pixels is not None:
            images = self.pixels(images)
        values = self.head(self.encoder(self.backbone(images)))
        return tuple(value for value in values if value is not None) if isinstance(values, tuple) else (values,)


class FlatEncoder(nn.Module):
    """A `TokenEncoder`, whose weights it uses, that returns its keypoint tokens alone.

    Patches are embedded by one strided convolution instead of a copy of the feature map and a product. The last block
    updates keypoint tokens alone, as nothing reads its visual tokens.
    """

    def __init__(self, encoder: TokenEncoder) -> None:
        super().__init__()
        self.num_keypoints = encoder.num_keypoints
        self.keypoint_tokens = encoder.keypoint_tokens
        self.patches = _patch_convolution(encoder)
        self.position: Tensor
        self.register_buffer("position", F.pad(encoder.position, (0, 0, encoder.num_keypoints, 0)))
        blocks: list[TransformerBlock] = list(encoder.blocks)  # type: ignore[arg-type]
        updating = min(encoder.visual_depth, len(blocks) - 1)
        self.blocks = nn.ModuleList(FlatBlock(block) for block in blocks[:updating])
        self.reading_blocks = nn.ModuleList(ReadingBlock(block) for block in blocks[updating:])

    def forward(self, features: Tensor) -> Tensor:
        """(B, C, H, W) -> keypoint tokens (B, K, D)."""
        count = self.num_keypoints
        keypoints = self.keypoint_tokens.expand(features.shape[0], -1, -1)
        visual = self.patches(features).flatten(2).transpose(1, 2)
        if self.blocks:
            tokens = torch.cat([keypoints, visual], dim=1)
            for block in self.blocks:
                tokens = block(tokens + self.position)
            keypoints, visual = tokens[:, :count], tokens[:, count:]
        normed = _normed(visual + self.position[:, count:])
        for block in self.reading_blocks:
            keypoints = block(keypoints, normed)
        return keypoints


class FlatBlock(nn.Module):
    """A `TransformerBlock`, whose weights it uses, with separate queries, keys and values, the scale in the queries'.

    No (B, T, 3 D) array is sliced and moved, and OpenVINO recognizes the attention as one operation, moves included.
    """

    def __init__(self, block: TransformerBlock) -> None:
        super().__init__()
        self.num_heads = block.num_heads
        self.attention_norm, self.attention_out = block.attention_norm, block.attention_out
        self.mlp_norm, self.mlp_up, self.mlp_down = block.mlp_norm, block.mlp_up, block.mlp_down
        query, key, value = block.qkv.weight.detach().chunk(3)
        scale = (query.shape[0] // block.num_heads) ** -0.5
        self.query, self.key, self.value = _linear(query * scale), _linear(key), _linear(value)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, D)."""
        normed = self.attention_norm(tokens)
        query = _heads(self.query(normed), self.num_heads).permute(0, 2, 1, 3)
        key = _heads(self.key(normed), self.num_heads).permute(0, 2, 3, 1)
        value = _heads(self.value(normed), self.num_heads).permute(0, 2, 1, 3)
        mixed = (query @ key).softmax(dim=-1) @ value
        tokens = tokens + self.attention_out(mixed.permute(0, 2, 1, 3).flatten(2))
        out: Tensor = tokens + self.mlp_down(F.gelu(self.mlp_up(self.mlp_norm(tokens))))
        return out


class ReadingBlock(nn.Module):
    """A `TransformerBlock`, whose weights it uses, that updates the keypoint tokens alone: few queries, many keys.

    With s the scale, W the weights of one head and n the normed tokens, (s Wq n)' (Wk n) is (s Wk' Wq n)' n, and the
    values' product may follow the mixing: keys and values of the many visual tokens are never computed. The norm's own
    factor goes into the weights. Its offset moves all keys alike, which a softmax does not see; through queries and
    values, whose mixing weights sum to one, it becomes a bias.
    """

    def __init__(self, block: TransformerBlock) -> None:
        super().__init__()
        self.num_heads = heads = block.num_heads
        self.mlp_norm, self.mlp_up, self.mlp_down = block.mlp_norm, block.mlp_up, block.mlp_down
        factor, offset = block.attention_norm.weight.detach(), block.attention_norm.bias.detach()
        query, key, value = block.qkv.weight.detach().chunk(3)
        dim = query.shape[0]
        scale = (dim // heads) ** -0.5
        self.query = _linear(scale * query * factor, scale * query @ offset)
        self.key: Tensor
        self.value: Tensor
        self.register_buffer("key", (key * factor).view(heads, -1, dim))  # (heads, D / heads, D)
        self.register_buffer("value", (value * factor).view(heads, -1, dim).mT.contiguous())
        out = block.attention_out
        self.attention_out = _linear(out.weight.detach(), out.bias.detach() + out.weight.detach() @ (value @ offset))

    def forward(self, keypoints: Tensor, visual: Tensor) -> Tensor:
        """Keypoint tokens (B, K, D) and normed visual tokens (B, P, D) -> keypoint tokens (B, K, D)."""
        normed = _normed(keypoints)
        read = torch.cat([normed, visual], dim=1)
        query = _heads(self.query(normed), self.num_heads).permute(0, 2, 1, 3) @ self.key  # (B, heads, K, D)
        mixed = (query.flatten(1, 2) @ read.transpose(1, 2)).softmax(dim=-1) @ read  # (B, heads * K, D)
        value = torch.unflatten(mixed, 1, (self.num_heads, -1)) @ self.value
        keypoints = keypoints + self.attention_out(value.permute(0, 2, 1, 3).flatten(2))
        out: Tensor = keypoints + self.mlp_down(F.gelu(self.mlp_up(self.mlp_norm(keypoints))))
        return out


def _normed(tokens: Tensor) -> Tensor:
    """(B, T, D) with mean 0 and spread 1 in each row, as of a layer norm without factor and offset."""
    return F.layer_norm(tokens, [int(tokens.shape[-1])])  # not a size in a traced graph: Core ML's converter fails


def _heads(values: Tensor, count: int) -> Tensor:
    """(B, T, D) -> (B, T, heads, D / heads)."""
    return torch.unflatten(values, -1, (count, -1))


class _Pixels(nn.Module):
    """(B, 3, H, W) uint8 -> `preprocess.normalize`, not inside the first convolution: its border is zero after it."""

    def __init__(self, normalization: Normalization) -> None:
        super().__init__()
        mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (normalization.mean, normalization.std))
        self.factor: Tensor
        self.offset: Tensor
        self.register_buffer("factor", 1 / (255 * std))
        self.register_buffer("offset", -mean / std)

    def forward(self, pixels: Tensor) -> Tensor:
        return pixels.to(self.factor.dtype) * self.factor + self.offset


def _patch_convolution(encoder: TokenEncoder) -> nn.Conv2d:
    embedding, patch = encoder.patch_embedding, encoder.patch_size_hw
    dim, length = embedding.weight.shape
    channels = length // (patch[0] * patch[1])
    convolution = nn.Conv2d(channels, dim, kernel_size=patch, stride=patch)
    weight = embedding.weight.detach().view(dim, *patch, channels).permute(0, 3, 1, 2)  # patches: row, column, channel
    convolution.weight = nn.Parameter(weight.contiguous())
    convolution.bias = embedding.bias
    return convolution


def _linear(weight: Tensor, bias: Tensor | None = None) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    layer.weight = nn.Parameter(weight)
    if bias is not None:
        layer.bias = nn.Parameter(bias)
    return layer
