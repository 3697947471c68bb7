"""A source of heatmaps as a teacher: the student's crops in, the student's keypoints out."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from distilpose.data.dataset import Batch
from distilpose.data.preprocess import Normalization
from distilpose.models.outputs import HeatmapOutput
from distilpose.teachers.base import CropSpec, HeatmapSource
from distilpose.teachers.keypoints import match_keypoints
from distilpose.teachers.resampling import Placement

logger = logging.getLogger(__name__)


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

    def to(self, device: torch.device) -> None:
        """Move the source."""
        self._source.to(device)

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
