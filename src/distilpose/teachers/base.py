"""What a teacher is to a student, what a source of heatmaps says of itself, and whose keypoints are which."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor

from distilpose.backends.description import ModelDescription
from distilpose.data.dataset import Batch
from distilpose.data.preprocess import Normalization
from distilpose.errors import ConfigError
from distilpose.models.base import TokenLayout
from distilpose.models.outputs import HeatmapOutput
from distilpose.skeletons import COCO_17, KeypointMapping, Skeleton, map_keypoints, name_key
from distilpose.types import Size

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class CropSpec:
    """The crops (H, W) that a student is trained on, its keypoints, and the normalization of the pixels."""

    size_hw: Size
    skeleton: Skeleton
    normalization: Normalization = field(default_factory=Normalization)

    @classmethod
    def of(cls, description: ModelDescription) -> CropSpec:
        """Those of a model."""
        return cls(description.input_size_hw, description.skeleton, description.normalization or Normalization())


@dataclass(frozen=True)
class SourceSpec:
    """How a network wants to be fed and how its heatmaps are to be read.

    With ``udp`` pixels and cells are counted from center to center of the outermost ones ("unbiased data processing",
    arXiv:1911.07524), so that pixel W - 1 and cell w - 1 lie on the crop's right edge; else pixel W and cell w do
    (`CropTransform`).
    """

    input_size_hw: Size  # (H, W) in pixels
    skeleton: Skeleton  # of its heatmaps
    normalization: Normalization = field(default_factory=Normalization)  # of its input, in the order of its colors
    bgr: bool = False  # its first color is blue
    udp: bool = False
    tokens: TokenLayout | None = None  # of its output; None without tokens
    description: Mapping[str, Any] = field(default_factory=dict)  # JSON values that tell it, weights included


class HeatmapSource(Protocol):
    """A network that gives heatmaps, in its own terms."""

    spec: SourceSpec

    def __call__(self, images: Tensor) -> HeatmapOutput[Tensor]:
        """(B, 3, H, W) its own input -> heatmaps (B, K, h, w) of its own keypoints, and tokens or None."""


class Teacher(Protocol):
    """Gives heatmaps of a student's crops, in the student's keypoints: cell c of w lies at c / w of the crop."""

    description: Mapping[str, Any]  # JSON values: everything that its answers depend on, besides the crops
    keypoint_mask: tuple[bool, ...]  # K: which of the student's keypoints it knows; the others' heatmaps are zero
    tokens: TokenLayout | None  # of its output; None where it gives none that a student could compare itself with
    reads_images: bool  # whether its answer depends on the pixels, so that mirrored crops say something new

    def __call__(self, batch: Batch) -> HeatmapOutput[Tensor]:
        """B crops -> heatmaps (B, K, h, w) and tokens or None, on their device. Run it in inference mode."""


def unnamed_skeleton(count: int) -> Skeleton:
    """The keypoints of a network that does not name them: COCO's for 17."""
    if count == COCO_17.num_keypoints:
        return COCO_17
    names = tuple(f"keypoint_{index}" for index in range(count))
    return Skeleton("unnamed", names, (), (), (), (), (1.0,) * count)


def match_keypoints(student: Skeleton, teacher: Skeleton, mapping: Mapping[str, str], what: str) -> KeypointMapping:
    """Find each of the student's keypoints among those of the teacher's heatmaps, and warn of those that it lacks.

    ``mapping`` leads from the student's name to the teacher's, ``""`` for none; the others are found by name. Messages
    name the teacher by ``what``.

    Raises:
        ConfigError: the mapping names an unknown keypoint or changes sides, or no keypoint is taught.
    """
    for name, other in mapping.items():
        if {name_key(name).side, name_key(other).side} == {"left", "right"}:
            raise ConfigError(f"{what}: mapping leads {name!r} to {other!r}, on the other side of the body")
    try:
        found = map_keypoints(teacher, student, mapping)
    except ConfigError as error:
        raise ConfigError(f"{what}: {error}") from error
    if found.missing_names:
        logger.warning(
            "%s does not know %s: the student learns them from labels alone (or name the teacher's word for them in "
            "'mapping')", what, ", ".join(found.missing_names),
        )  # fmt: skip
    return found
