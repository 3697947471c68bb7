"""Teachers: sources of heatmaps, resampled to a student's crops and keypoints; means over mirrored crops and others."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from distilpose.data.dataset import Batch
from distilpose.data.preprocess import Normalization
from distilpose.errors import ConfigError
from distilpose.models.base import TokenLayout
from distilpose.models.outputs import HeatmapOutput
from distilpose.teachers.base import CropSpec, HeatmapSource, Teacher, match_keypoints
from distilpose.types import Size

logger = logging.getLogger(__name__)

SAME_ASPECT = 0.01  # sides that differ by less are stretched rather than padded: under two pixels of 192
_ROUNDING = 1e-6  # of a position, in samples


class Sampling(NamedTuple):
    """Where along one axis new samples are read: sample j at position ``start + j * step`` of the old ones."""

    size: int  # number of new samples
    step: float = 1.0  # above 1 the old ones are averaged
    start: float = 0.0


def resample(planes: Tensor, rows: Sampling, columns: Sampling) -> Tensor:
    """Read planes (..., H, W) at other places: linear between samples, averaged where thinned out, 0 outside.

    From the last sample to the edge after it, position H or W, that sample is repeated; so is the first one.

    Returns:
        (..., h, w) float32; ``planes`` itself where nothing changes.
    """
    height, width = planes.shape[-2:]
    if rows == Sampling(height) and columns == Sampling(width):
        return planes
    with torch.autocast(planes.device.type, enabled=False):
        along_y, along_x = _weights(height, rows, planes.device), _weights(width, columns, planes.device)
        return along_y @ planes.float() @ along_x.T


def _weights(size: int, sampling: Sampling, device: torch.device) -> Tensor:
    """(new, old) weights: a triangle around each position, at least one old sample to each side; rows sum to 1 or 0.

    They are made on the CPU: Apple's GPUs have no float64.
    """
    position = sampling.start + sampling.step * torch.arange(sampling.size, dtype=torch.float64)
    # The edge itself is inside: unbiased data processing reads its last pixel exactly there.
    inside = (position > -1) & (position < size + _ROUNDING)
    old = torch.arange(size, dtype=torch.float64)
    distance = (old - position.clamp(0, size - 1)[:, None]).abs() / max(1.0, sampling.step)
    triangle = (1 - distance).clamp(min=0)
    return (triangle / triangle.sum(1, keepdim=True) * inside[:, None]).float().to(device)


def resize(planes: Tensor, size_hw: Size) -> Tensor:
    """(..., H, W) -> (..., h, w), cell c of w read at c / w of the old width, as our heatmaps lie in the crop."""
    height, width = planes.shape[-2:]
    return resample(planes, Sampling(size_hw[0], height / size_hw[0]), Sampling(size_hw[1], width / size_hw[1]))


@dataclass(frozen=True)
class Placement:
    """Where the crop lies in a teacher's input: it fills one axis and is centered, between black, along the other."""

    share_hw: tuple[float, float]  # part of the input's height and width that the crop fills, in (0, 1]
    udp: bool = False  # how the teacher counts pixels and cells (`SourceSpec.udp`)

    @classmethod
    def fit(cls, crop_hw: Size, input_hw: Size, udp: bool = False) -> Placement:
        """The largest place of the crop's own aspect."""
        ratio = (crop_hw[1] / crop_hw[0]) / (input_hw[1] / input_hw[0])
        if abs(ratio - 1) < SAME_ASPECT:
            return cls((1.0, 1.0), udp)
        return cls((1 / ratio, 1.0) if ratio > 1 else (1.0, ratio), udp)

    @property
    def padded(self) -> bool:
        """Whether there is black beside the crop."""
        return min(self.share_hw) < 1

    def to_input(self, pixels: Tensor, input_hw: Size) -> Tensor:
        """(..., H, W) crops, black is 0 -> (..., H', W') input of the teacher."""
        sides = zip(pixels.shape[-2:], input_hw, self.share_hw, strict=True)
        return resample(pixels, *(self._read_crop(crop, size, share) for crop, size, share in sides))

    def to_crop(self, heatmaps: Tensor) -> Tensor:
        """(..., h, w) heatmaps of the teacher's input -> those of the crop alone, in cells of about the same size."""
        sides = zip(heatmaps.shape[-2:], self.share_hw, strict=True)
        return resample(heatmaps, *(self._read_heatmap(cells, share) for cells, share in sides))

    def _read_crop(self, crop: int, size: int, share: float) -> Sampling:
        margin = (1 - share) / 2
        return Sampling(size, crop / (share * self._extent(size)), -margin * crop / share)

    def _read_heatmap(self, cells: int, share: float) -> Sampling:
        margin, size = (1 - share) / 2, max(1, round(share * cells))
        return Sampling(size, share * self._extent(cells) / size, margin * self._extent(cells))

    def _extent(self, size: int) -> int:
        """Pixels or cells from one edge of the input to the other."""
        return size - 1 if self.udp else size


class SourceTeacher:
    """Resizes, pads and normalizes crops for a source, and puts its heatmaps into the student's order and frame.

    A source of another aspect sees the whole crop with black beside it, and the heatmaps of the black are cut off.
    ``mapping`` leads from the student's keypoints to the source's where their names differ.

    Raises:
        ConfigError: the keypoints do not fit; the text names ``what``.
    """

    reads_images = True

    def __init__(
        self, source: HeatmapSource, crops: CropSpec, mapping: Mapping[str, str] | None = None, what: str = "teacher"
    ) -> None:
        self._source, self._crops, spec = source, crops, source.spec
        self._placement = Placement.fit(crops.size_hw, spec.input_size_hw, spec.udp)
        self._index = torch.from_numpy(match_keypoints(crops.skeleton, spec.skeleton, mapping or {}, what).index)
        self._identity = self._index.tolist() == list(range(spec.skeleton.num_keypoints))
        self._as_is = spec.normalization == crops.normalization and not spec.bgr
        self._as_is &= spec.input_size_hw == crops.size_hw and not spec.udp
        self.keypoint_mask = tuple((self._index >= 0).tolist())
        # Tokens teach if they cover the crop and nothing else, and there is one for each keypoint.
        self.tokens = spec.tokens if not self._placement.padded and all(self.keypoint_mask) else None
        self.description: Mapping[str, Any] = {
            **spec.description,
            "keypoints": list(spec.skeleton.keypoint_names),
            "student_keypoints": list(crops.skeleton.keypoint_names),
            "mapping": self._index.tolist(),
            "crop_size_hw": list(crops.size_hw),
            "crop_normalization": asdict(crops.normalization),
        }
        if self._placement.padded:
            text = "%s reads %s: crops of %s are shown to it with black beside them"
            logger.warning(text, what, spec.input_size_hw, crops.size_hw)

    def __call__(self, batch: Batch) -> HeatmapOutput[Tensor]:
        """B crops -> heatmaps (B, K, h, w) of the student's keypoints; zero where the source has none."""
        output = self._source(batch.images if self._as_is else self._feed(batch.images))
        heatmaps = self._placement.to_crop(self._in_order(output.heatmaps))
        if self.tokens is None or output.keypoint_tokens is None:
            return HeatmapOutput(heatmaps)
        return HeatmapOutput(heatmaps, self._in_order(output.keypoint_tokens), output.visual_tokens)

    def _feed(self, images: Tensor) -> Tensor:
        spec = self._source.spec
        mean, std = _columns(self._crops.normalization, images)
        pixels = self._placement.to_input(images * std + mean, spec.input_size_hw)
        mean, std = _columns(spec.normalization, images)
        return ((pixels.flip(1) if spec.bgr else pixels) - mean) / std

    def _in_order(self, values: Tensor) -> Tensor:
        """(B, K of the source, ...) -> (B, K of the student, ...)."""
        if self._identity:
            return values
        index = self._index.to(values.device)
        ordered = values[:, index.clamp(min=0)]
        ordered[:, index < 0] = 0
        return ordered


def _columns(normalization: Normalization, like: Tensor) -> tuple[Tensor, Tensor]:
    """(3, 1, 1) mean and standard deviation."""
    mean, std = (like.new_tensor(values).view(3, 1, 1) for values in (normalization.mean, normalization.std))
    return mean, std


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
