"""What a model says about itself, wherever its weights live: checkpoint, hub folder or exported file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal

from distilpose.errors import CheckpointError
from distilpose.preprocess import Normalisation
from distilpose.skeleton import COCO_17, Skeleton

FORMAT_VERSION = 1
OutputKind = Literal["regression", "heatmap"]


@dataclass(frozen=True)
class ModelDescription:
    """Everything needed to feed a model and to read its output.

    Attributes:
        model: preset name, such as ``"distilpose_s"``.
        options: the preset's keyword arguments that differ from its defaults, JSON values only.
        output: ``"regression"`` (`PoseOutput`) or ``"heatmap"`` (`HeatmapOutput`).
        input_size_hw: (H, W) of a crop in pixels.
        heatmap_size_hw: (H, W) of the grid in whose cells sigma is measured and heatmaps are drawn.
        normalisation: of the input pixels.
        skeleton: the keypoints and their order.
        training: what is known of the training run, free-form JSON values.
    """

    model: str
    output: OutputKind
    input_size_hw: tuple[int, int]
    heatmap_size_hw: tuple[int, int]
    options: Mapping[str, Any] = field(default_factory=dict)
    normalisation: Normalisation = field(default_factory=Normalisation)
    skeleton: Skeleton = COCO_17
    training: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready form that names its format version."""
        return {
            "format": FORMAT_VERSION,
            **{f.name: getattr(self, f.name) for f in fields(self)},
            "normalisation": asdict(self.normalisation),
            "skeleton": self.skeleton.to_dict(),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ModelDescription:
        """Read what `to_dict` wrote.

        Raises:
            CheckpointError: a field is missing or broken, or the format is newer than this package.
        """
        version = values.get("format")
        if not isinstance(version, int) or version < 1:
            raise CheckpointError(f"the model description must name its format (1..{FORMAT_VERSION}), got {version!r}")
        if version > FORMAT_VERSION:
            raise CheckpointError(
                f"this file has format {version}, this distilpose reads up to {FORMAT_VERSION}: upgrade distilpose"
            )
        try:
            if values["output"] not in ("regression", "heatmap"):
                raise ValueError(values["output"])
            mean, std = values["normalisation"]["mean"], values["normalisation"]["std"]
            return cls(
                model=str(values["model"]),
                output=values["output"],
                input_size_hw=_size(values["input_size_hw"]),
                heatmap_size_hw=_size(values["heatmap_size_hw"]),
                options=dict(values["options"]),
                normalisation=Normalisation(mean=_triple(mean), std=_triple(std)),
                skeleton=Skeleton.from_dict(values["skeleton"]),
                training=dict(values["training"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"the model description is broken ({error!r}): write the file again") from error


def _size(values: Any) -> tuple[int, int]:
    height, width = (int(value) for value in values)
    return height, width


def _triple(values: Any) -> tuple[float, float, float]:
    a, b, c = (float(value) for value in values)
    return a, b, c
