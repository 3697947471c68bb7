"""Backbones: the stem net and HRNet, image (B, 3, H, W) -> feature map (B, C, H / 4, W / 4).

Source: Deep High-Resolution Representation Learning (arXiv:1908.07919); stem net as in TokenPose
(arXiv:2104.03516). Parameter names follow the public HRNet checkpoints.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

BACKBONE_STRIDE = 4
BOTTLENECK_EXPANSION = 4


def conv_bn(channels_in: int, channels_out: int, kernel: int, stride: int = 1, relu: bool = True) -> nn.Sequential:
    """Convolution without bias, batch-norm and, unless told otherwise, ReLU."""
    conv = nn.Conv2d(channels_in, channels_out, kernel, stride, padding=kernel // 2, bias=False)
    layers: list[nn.Module] = [conv, nn.BatchNorm2d(channels_out)]
    return nn.Sequential(*layers, nn.ReLU(inplace=True)) if relu else nn.Sequential(*layers)


class Bottleneck(nn.Module):
    """ResNet's 1x1, 3x3, 1x1 block; the output has four times ``channels``, the 3x3 convolution has the stride."""

    expansion: int = BOTTLENECK_EXPANSION

    def __init__(self, channels_in: int, channels: int, stride: int = 1) -> None:
        super().__init__()
        channels_out = channels * BOTTLENECK_EXPANSION
        self.conv1 = nn.Conv2d(channels_in, channels, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv3 = nn.Conv2d(channels, channels_out, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(channels_out)
        self.downsample = _shortcut(channels_in, channels_out, stride)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, 4 * channels, H / stride, W / stride), rounded up."""
        shortcut = x if self.downsample is None else self.downsample(x)
        x = torch.relu_(self.bn1(self.conv1(x)))
        x = torch.relu_(self.bn2(self.conv2(x)))
        return torch.relu_(self.bn3(self.conv3(x)) + shortcut)


class BasicBlock(nn.Module):
    """ResNet's two 3x3 convolutions; the first has the stride."""

    expansion: int = 1

    def __init__(self, channels_in: int, channels: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.downsample = _shortcut(channels_in, channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, channels, H / stride, W / stride), rounded up."""
        shortcut = x if self.downsample is None else self.downsample(x)
        x = torch.relu_(self.bn1(self.conv1(x)))
        return torch.relu_(self.bn2(self.conv2(x)) + shortcut)


def _shortcut(channels_in: int, channels_out: int, stride: int) -> nn.Sequential | None:
    """A 1x1 convolution where a block changes size or channels."""
    if stride == 1 and channels_in == channels_out:
        return None
    return conv_bn(channels_in, channels_out, 1, stride, relu=False)


class StemNet(nn.Module):
    """Two stride-2 convolutions and the four bottlenecks of ResNet's first stage."""

    out_channels: int = 256
    stride: int = BACKBONE_STRIDE
    lowest_stride: int = BACKBONE_STRIDE

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 3, stride=2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.conv2 = nn.Conv2d(64, 64, 3, stride=2, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(64)
        self.layer1 = nn.Sequential(Bottleneck(64, 64), *(Bottleneck(256, 64) for _ in range(3)))
        init_convolutions(self)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, 256, H / 4, W / 4)."""
        x = torch.relu_(self.bn1(self.conv1(images)))
        x = torch.relu_(self.bn2(self.conv2(x)))
        out: Tensor = self.layer1(x)
        return out


class HRNet(StemNet):
    """High-resolution network: the highest-resolution branch after three or four stages.

    Args:
        width: channels of that branch; each lower one has twice as many.
        stages: 3 (three branches, down to stride 16) or 4 (stride 32).
    """

    def __init__(self, width: int = 48, stages: int = 4) -> None:
        super().__init__()
        modules_per_stage = {2: 1, 3: 4, 4: 3}  # HRNet-W32 / W48
        channels: list[int] = [super().out_channels]
        for stage in range(2, stages + 1):
            wider = [width * 2**branch for branch in range(stage)]
            setattr(self, f"transition{stage - 1}", _transition(channels, wider))
            last = stage == stages
            count = modules_per_stage[stage]
            blocks = [_HRModule(wider, single_output=last and i == count - 1) for i in range(count)]
            setattr(self, f"stage{stage}", nn.ModuleList(blocks))
            channels = wider
        self.stages = stages
        self.out_channels = width
        self.lowest_stride = BACKBONE_STRIDE * 2 ** (stages - 1)
        init_convolutions(self)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, width, H / 4, W / 4)."""
        maps = [super().forward(images)]
        for stage in range(2, self.stages + 1):
            transition = getattr(self, f"transition{stage - 1}")
            maps = [step(maps[min(i, len(maps) - 1)]) for i, step in enumerate(transition)]
            for block in getattr(self, f"stage{stage}"):
                maps = block(maps)
        return maps[0]


def _transition(channels: Sequence[int], wider: Sequence[int]) -> nn.ModuleList:
    """Bring every branch to its new width and open the next lower branch from the lowest one."""
    steps: list[nn.Module] = []
    for branch, channels_out in enumerate(wider):
        if branch < len(channels):
            same = channels[branch] == channels_out
            steps.append(nn.Identity() if same else conv_bn(channels[branch], channels_out, 3))
        else:
            steps.append(nn.Sequential(conv_bn(channels[-1], channels_out, 3, stride=2)))
    return nn.ModuleList(steps)


class _HRModule(nn.Module):
    """Four basic blocks per branch, then every branch is summed into every other."""

    def __init__(self, channels: Sequence[int], single_output: bool) -> None:
        super().__init__()
        self.branches = nn.ModuleList(nn.Sequential(*(BasicBlock(c, c) for _ in range(4))) for c in channels)
        outputs = 1 if single_output else len(channels)
        self.fuse_layers = nn.ModuleList(
            nn.ModuleList(_fuse(channels, source, target) for source in range(len(channels)))
            for target in range(outputs)
        )

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        maps = [branch(x) for branch, x in zip(self.branches, maps, strict=True)]
        fused = []
        for paths in self.fuse_layers:
            assert isinstance(paths, nn.ModuleList)
            total = paths[0](maps[0])
            for path, x in zip(paths[1:], maps[1:], strict=True):
                total = total + path(x)
            fused.append(torch.relu(total))
        return fused


def _fuse(channels: Sequence[int], source: int, target: int) -> nn.Module:
    """From branch ``source`` to the size and width of branch ``target``."""
    if source == target:
        return nn.Identity()
    if source > target:
        upsample = nn.Upsample(scale_factor=2 ** (source - target), mode="nearest")
        return nn.Sequential(*conv_bn(channels[source], channels[target], 1, relu=False), upsample)
    halvings = [conv_bn(channels[source], channels[source], 3, stride=2) for _ in range(target - source - 1)]
    return nn.Sequential(*halvings, conv_bn(channels[source], channels[target], 3, stride=2, relu=False))


def init_convolutions(module: nn.Module) -> None:
    """He initialisation by fan-out, in place, for every convolution inside."""
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")
