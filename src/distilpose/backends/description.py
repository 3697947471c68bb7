"""What a model says about itself, wherever its weights live: checkpoint, hub folder or exported file."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args

from numpy.typing import ArrayLike

from distilpose import __version__
from distilpose.compat import current_names
from distilpose.data.preprocess import Normalization
from distilpose.errors import CheckpointError, DistilPoseError
from distilpose.geometry import CROP_PADDING, CropTransform, crops_from_boxes
from distilpose.skeletons import COCO_17, Skeleton

FORMAT_VERSION = 3
# Presets that files of an earlier format know by another name: `distilpose_m` became faster and changed its layers.
RENAMED = {1: {"distilpose_m": "distilpose_p"}}
METADATA_KEY = "distilpose"  # of the description in a file's metadata, whatever the kind of file
OutputKind = Literal["regression", "heatmap"]
Precision = Literal["float32", "float16", "int8"]
Triple = tuple[float, float, float]
MAX_SIDE = 4096  # pixels or cells
MAX_KEYPOINTS = 2048
_MAX_OPTION = 8192
_MAX_SCALE = 1000.0
_MAX_TEXT = 1_000_000


@dataclass(frozen=True)
class ModelDescription:
    """Everything needed to feed a model and to read its output."""

    model: str  # preset name, such as ``"distilpose_s"``
    output: OutputKind  # `PoseOutput` or `HeatmapOutput`
    input_size_hw: tuple[int, int]  # (H, W) of a crop in pixels
    heatmap_size_hw: tuple[int, int]  # (H, W) of the grid in whose cells sigma is measured and heatmaps are drawn
    options: Mapping[str, Any] = field(default_factory=dict)  # the preset's that differ from its defaults; JSON values
    # of the input pixels; None for a file that takes uint8 pixels and normalizes by itself
    normalization: Normalization | None = field(default_factory=Normalization)
    skeleton: Skeleton = COCO_17  # the keypoints and their order
    training: Mapping[str, Any] = field(default_factory=dict)  # what is known of the training run; JSON values
    precision: Precision = "float32"  # of an exported file's weights; a checkpoint is float32 once it is loaded
    padding: float = CROP_PADDING  # factor on both sides of a person box before the crop is cut
    # the crop and the heatmaps are counted from center to center of their outermost pixels and cells ("unbiased data
    # processing", arXiv:1911.07524); see `CropTransform`
    udp: bool = False

    def crops(self, boxes_xyxy: ArrayLike) -> Sequence[CropTransform]:
        """The crops of (N, 4) person boxes in image pixels, as the model wants them."""
        return crops_from_boxes(boxes_xyxy, self.input_size_hw, self.padding, udp=self.udp)

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready form that names its format version."""
        return {
            "format": FORMAT_VERSION,
            "written_by": f"distilpose {__version__}",
            **{f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("padding", "udp")},
            "normalization": None if self.normalization is None else asdict(self.normalization),
            "skeleton": self.skeleton.to_dict(),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ModelDescription:
        """Read what `to_dict` wrote; a broken or newer one is a `CheckpointError`."""
        if not isinstance(values, Mapping):
            raise CheckpointError(f"the model description must be a mapping, got {type(values).__name__}")
        values = current_names(values)
        version = values.get("format")
        if type(version) is not int or version < 1:
            raise CheckpointError(f"the model description must name its format (1..{FORMAT_VERSION}), got {version!r}")
        if version > FORMAT_VERSION:
            raise CheckpointError(
                f"this file has format {version}, this distilpose reads up to {FORMAT_VERSION}: upgrade distilpose"
            )
        try:
            precision = values.get("precision", "float32")  # checkpoints do not say it
            if values["output"] not in get_args(OutputKind) or precision not in get_args(Precision):
                raise ValueError(f"output {values['output']}, precision {precision}")
            _check_bounds(values["options"])
            if len(values["skeleton"]["keypoint_names"]) > MAX_KEYPOINTS:
                raise ValueError(f"more than {MAX_KEYPOINTS} keypoints")
            return cls(
                model=RENAMED.get(version, {}).get(str(values["model"]), str(values["model"])),
                output=values["output"],
                input_size_hw=_size(values["input_size_hw"]),
                heatmap_size_hw=_size(values["heatmap_size_hw"]),
                options=dict(values["options"]),
                normalization=_normalization(values["normalization"]),
                skeleton=Skeleton.from_dict(values["skeleton"]),
                training=dict(values["training"]),
                precision=precision,
            )
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise CheckpointError(f"the model description is broken ({error!r:.300}): write the file again") from error


def parse_description(path: Path, text: str | None) -> ModelDescription:
    """The description in a file's metadata, the text under `METADATA_KEY`; None when there is none.

    Raises:
        CheckpointError: there is no description, or it is broken, out of bounds or newer than this package.
    """
    if text is None:
        raise CheckpointError(f"{path} has no distilpose description: it was not written by distilpose")
    try:
        if len(text) > _MAX_TEXT:
            raise ValueError(f"{len(text)} characters")
        return ModelDescription.from_dict(json.loads(text, parse_constant=_refuse_constant))
    except (ValueError, RecursionError) as error:  # json's own errors, numbers of 5000 digits, deep nesting
        raise CheckpointError(f"{path} has a broken distilpose description ({str(error)[:200]})") from error
    except DistilPoseError as error:
        raise CheckpointError(f"{path}: {str(error)[:500]}") from error


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is no number")


def _normalization(values: Any) -> Normalization | None:
    if values is None:
        return None
    normalization = Normalization(mean=triple(values["mean"]), std=triple(values["std"]))
    if min(normalization.std) <= 0 or max(map(abs, (*normalization.mean, *normalization.std))) > _MAX_SCALE:
        raise ValueError(f"normalization {normalization}")
    return normalization


def _size(values: Any) -> tuple[int, int]:
    height, width = values
    if not all(type(side) is int and 1 <= side <= MAX_SIDE for side in (height, width)):
        raise ValueError(f"size {values!r:.100}, expected 1..{MAX_SIDE}")
    return height, width


def triple(values: Iterable[Any]) -> Triple:
    """Exactly three numbers."""
    a, b, c = (float(value) for value in values)
    return a, b, c


def _check_bounds(values: Any) -> None:
    """Refuse options whose numbers no model has: they would fill the memory before anything else is checked."""
    if isinstance(values, Mapping | list | tuple):
        for value in values.values() if isinstance(values, Mapping) else values:
            _check_bounds(value)
    elif isinstance(values, int | float) and not abs(values) <= _MAX_OPTION:
        raise ValueError(f"an option is {values}, expected at most {_MAX_OPTION}")
