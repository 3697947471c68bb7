"""HRNet, image (B, 3, H, W) -> feature map (B, C, H / 4, W / 4).

Source: Deep High-Resolution Representation Learning (arXiv:1908.07919). Parameter names follow the public
HRNet checkpoints.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from distilpose.models.backbones.stem import BasicBlock, StemNet, conv_bn, init_convolutions


class HRNet(StemNet):
    """High-resolution network: the highest-resolution branch after three or four stages.

    ``width`` is the channels of that branch; each lower one has twice as many.
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
        self.lowest_stride = self.stride * 2 ** (stages - 1)
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
