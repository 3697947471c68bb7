"""Teachers made of teachers: the mean over mirrored crops, the mean over several."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from distilpose.data.dataset import Batch
from distilpose.errors import ConfigError
from distilpose.models.base import TokenLayout
from distilpose.models.outputs import HeatmapOutput
from distilpose.teachers.adapter import Sampling, resample, resize
from distilpose.teachers.base import Teacher


class FlipAverage:
    """A teacher whose heatmaps are averaged with those of the mirrored crops: better, at twice the cost.

    Tokens stay those of the plain crops. ``flip_index`` (K,) changes left and right of the student's keypoints.

    Raises:
        ConfigError: the teacher does not look at the crops.
    """

    def __init__(self, teacher: Teacher, flip_index: NDArray[np.intp]) -> None:
        if not teacher.reads_images:
            raise ConfigError(
                "heatmaps on disk cannot be averaged with those of mirrored crops: leave the flip out, or average "
                "before they are written"
            )
        self._teacher = teacher
        self._flip_index = torch.from_numpy(flip_index)
        self.description: Mapping[str, Any] = {**teacher.description, "flip": True}
        self.keypoint_mask = teacher.keypoint_mask
        self.tokens = teacher.tokens
        self.reads_images = True

    def __call__(self, batch: Batch) -> HeatmapOutput[Tensor]:
        """B crops -> averaged heatmaps, plain tokens."""
        plain = self._teacher(batch)
        mirrored = self._teacher(batch._replace(images=batch.images.flip(-1))).heatmaps
        back = unmirror_heatmaps(mirrored, self._flip_index, batch.images.shape[-1])
        # A keypoint whose mirror image is not taught has the plain answer alone.
        keypoint_mask = torch.tensor(self.keypoint_mask)
        both = (keypoint_mask & keypoint_mask[self._flip_index]).to(back.device).view(1, -1, 1, 1)
        return plain._replace(heatmaps=torch.where(both, (plain.heatmaps + back) / 2, plain.heatmaps))

    def to(self, device: torch.device) -> None:
        """Move the teacher."""
        self._teacher.to(device)


def unmirror_heatmaps(heatmaps: Tensor, flip_index: Tensor, crop_width: int) -> Tensor:
    """Put (B, K, h, w) heatmaps of mirrored crops back: sides changed, mirrored, and moved to where they belong.

    Crop pixel p of W lands on W - 1 - p, so at w cells the mirrored heatmap lies 1 - w / W of a cell too far left (3/4
    at 4 pixels per cell): that much is made up by linear interpolation. (The flip test moves by a whole cell, the
    baselines' rule.)
    """
    back = heatmaps[:, flip_index.to(heatmaps.device)].flip(-1)
    height, width = back.shape[-2:]
    return resample(back, Sampling(height), Sampling(width, start=width / crop_width - 1))


class Ensemble:
    """The weighted mean of several teachers' heatmaps, in the cells of the first one; without tokens.

    A keypoint is averaged over those that know it, with weights > 0, or equal ones when None.
    """

    def __init__(self, members: Sequence[Teacher], weights: Sequence[float] | None = None) -> None:
        self._members = tuple(members)
        share = torch.tensor([1.0] * len(members) if weights is None else list(weights))
        share = share[:, None] * torch.tensor([member.keypoint_mask for member in members])
        self._share = share / share.sum(0).clamp(min=1e-12)  # (members, K), columns sum to 1 or 0
        descriptions = [dict(member.description) for member in members]
        description = {"kind": "ensemble", "members": descriptions, "share": self._share.tolist()}
        self.description: Mapping[str, Any] = description
        self.keypoint_mask = tuple(bool(known) for known in (self._share.sum(0) > 0).tolist())
        self.tokens: TokenLayout | None = None  # the members' tokens mean different things
        self.reads_images = all(member.reads_images for member in members)

    def __call__(self, batch: Batch) -> HeatmapOutput[Tensor]:
        """B crops -> mean heatmaps."""
        first, *others = (member(batch).heatmaps.float() for member in self._members)
        size_hw = (first.shape[-2], first.shape[-1])
        share = self._share.to(first.device)[:, None, :, None, None]
        mean = first * share[0]
        for heatmaps, weight in zip(others, share[1:], strict=True):
            mean = mean + resize(heatmaps, size_hw) * weight
        return HeatmapOutput(mean)

    def to(self, device: torch.device) -> None:
        """Move the members."""
        for member in self._members:
            member.to(device)
