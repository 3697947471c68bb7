"""What ``teacher:`` of a configuration may hold: a checkpoint's path, or a mapping with a ``kind``."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from distilpose.backends.loading import SHIPPED_WEIGHTS
from distilpose.compat import current_names
from distilpose.errors import ConfigError
from distilpose.files import read_yaml
from distilpose.models import MODELS
from distilpose.options import NonNegativeInt, PositiveFloat, PositiveInt, check_options

Keypoints = str | list[str]
Triple = tuple[float, float, float]
_Scale = tuple[PositiveFloat, PositiveFloat, PositiveFloat]
_Sides = tuple[PositiveInt, PositiveInt]  # height, width
ONNX_SUFFIX = ".onnx"
_MODEL_SUFFIXES = (ONNX_SUFFIX, ".safetensors", ".pth", ".pt", ".ckpt")


@dataclass
class NetworkTeacher:
    """What all networks share."""

    # Student's keypoint -> this teacher's, where their names differ.
    mapping: dict[str, str] = field(default_factory=dict, kw_only=True)
    flip: bool = field(default=False, kw_only=True)  # average the heatmaps with those of the mirrored crops


@dataclass
class CheckpointTeacher(NetworkTeacher):
    """The checkpoint of a heatmap model of our own."""

    file: str


@dataclass
class VitPoseTeacher(NetworkTeacher):
    """ViTPose in the layout of transformers."""

    model: str  # folder written by ``save_pretrained`` (model and image processor), or a hub id
    # Which expert of a mixture-of-experts model (ViTPose+) answers; 0 is COCO's.
    dataset_index: NonNegativeInt | None = None
    keypoints: Keypoints = "coco_17"  # of its heatmaps: a known set or names in order


@dataclass
class OnnxFileTeacher(NetworkTeacher):
    """What the two kinds of ONNX files share; a file of ``distilpose export`` says all of this itself."""

    file: str  # with one input of images
    input_size_hw: _Sides | None = None  # (H, W) in pixels, where the file leaves them free
    # of each color in units of pixel / 255, in the order of the input's colors; ImageNet's when not given. A network
    # that reads 0..255 has mean 0 and std 1/255.
    mean: Triple | None = None
    std: _Scale | None = None
    color: Literal["rgb", "bgr"] | None = None  # order of the input's colors; rgb when not given
    keypoints: Keypoints | None = None  # of the outputs: a known set or names in order; by their number when not given


@dataclass
class OnnxTeacher(OnnxFileTeacher):
    """An ONNX file that gives heatmaps."""

    output: str | None = None  # name of the heatmaps (B, K, h, w); the only output of that form when not given
    udp: bool | None = None  # counted between the centers of the outermost pixels and cells; no when not given


@dataclass
class SimccTeacher(OnnxFileTeacher):
    """An ONNX file that classifies x and y apart (SimCC, RTMPose): heatmaps are the product of its two axes."""

    outputs: tuple[str, str] | None = None  # x axis (B, K, Wx), y axis (B, K, Hy); the file's two when not given
    # what makes an axis positive: softmax of its values times ``sharpness``, or none, as they are probabilities or
    # heights
    activation: Literal["softmax", "none"] = "softmax"
    sharpness: PositiveFloat = 10.0  # factor before the softmax; RTMPose is trained with 10, plain logits have 1
    # height of a heatmap: one, or the smaller of the two axes' raw maxima, in 0..1, which RTMPose calls the score
    peak: Literal["value", "one"] = "value"
    heatmap_size_hw: _Sides | None = None  # of the heatmaps; a quarter of the input when not given


@dataclass
class HeatmapFilesTeacher:
    """Heatmaps on disk, one array per annotation (`teachers.stored_heatmaps`)."""

    folder: str | list[str]  # one for all training sets, or one for each, in the order of ``data.train``
    mapping: dict[str, str] = field(default_factory=dict)  # student's keypoint -> the files', where their names differ


@dataclass
class EnsembleTeacher:
    """The weighted mean of the heatmaps of several teachers of any kind, at least two."""

    members: list[str | dict[str, Any]]
    weights: list[PositiveFloat] | None = None  # one for each; equal when not given


TeacherConfig = CheckpointTeacher | VitPoseTeacher | OnnxTeacher | SimccTeacher | HeatmapFilesTeacher | EnsembleTeacher
KINDS: dict[str, type[TeacherConfig]] = {
    "checkpoint": CheckpointTeacher,
    "vitpose": VitPoseTeacher,
    "onnx": OnnxTeacher,
    "simcc": SimccTeacher,
    "heatmaps": HeatmapFilesTeacher,
    "ensemble": EnsembleTeacher,
}


def teacher_config_from(values: str | Mapping[str, Any]) -> TeacherConfig:
    """Check what stands under ``teacher``: a checkpoint or ``.onnx`` file, or a mapping with ``kind`` and its fields.

    Raises:
        ConfigError: the kind is unknown, a field is unknown or missing, or a value has the wrong type.
    """
    if isinstance(values, str):
        return OnnxTeacher(values) if values.endswith(ONNX_SUFFIX) else CheckpointTeacher(values)
    from jsonargparse import ArgumentError, ArgumentParser

    if not isinstance(values, Mapping):
        raise ConfigError(f"teacher must be a path, or a mapping with a kind, got {values!r}")
    fields = current_names(values)
    kind = fields.pop("kind", None)
    if not isinstance(kind, str) or kind not in KINDS:
        raise ConfigError(f"teacher: kind must be one of {', '.join(KINDS)}, got {kind!r}")
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--teacher", type=KINDS[kind])
    try:
        config: TeacherConfig = parser.instantiate(parser.parse_object({"teacher": fields})).teacher
        check_options(config)
        _check(config)
    except (ArgumentError, ConfigError) as error:
        raise ConfigError(f"teacher ({kind}): {error}") from error
    for member in config.members if isinstance(config, EnsembleTeacher) else ():
        teacher_config_from(member)
    return config


def read_teacher_file(path: str | Path) -> tuple[str | dict[str, Any], bool]:
    """What stands under ``teacher`` and ``teacher_flip`` of a training configuration.

    The file may hold what would stand under ``teacher`` alone; a checkpoint or an ONNX file is the teacher itself.

    Raises:
        ConfigError: the file cannot be read, or names no teacher.
    """
    if Path(path).suffix in _MODEL_SUFFIXES:
        return str(path), False
    if str(path) in (*MODELS, *SHIPPED_WEIGHTS) and not Path(path).exists():
        kind = "a student, which gives no heatmaps" if str(path) in SHIPPED_WEIGHTS else "an untrained architecture"
        raise ConfigError(
            f"{path} is {kind}: a teacher is a trained heatmap model, such as a checkpoint of tokenpose_s or "
            "simplebaseline_r50, an ONNX file with heatmaps, or a YAML file that names one, RTMPose too "
            "(docs/teachers.md)"
        )
    content = read_yaml(path, "a training configuration with 'teacher', or a 'kind'")
    if isinstance(content, dict) and "kind" in content:
        return content, False
    teacher = content.get("teacher") if isinstance(content, dict) else None
    if not isinstance(teacher, str | dict):
        raise ConfigError(f"{path} names no teacher: expected a training configuration with 'teacher', or a 'kind'")
    flip = content.get("teacher_flip", False)
    if not isinstance(flip, bool):
        raise ConfigError(f"{path}: teacher_flip must be true or false, got {flip!r}")
    return teacher, flip


def _check(config: TeacherConfig) -> None:
    """Refuse by a `ConfigError` what the types of the fields allow."""
    if isinstance(config, OnnxFileTeacher) and not all(map(math.isfinite, config.mean or ())):
        raise ConfigError(f"mean must be finite, got {config.mean}")
    if isinstance(config, SimccTeacher) and config.outputs is not None and len(set(config.outputs)) < 2:
        raise ConfigError(f"outputs must be two, x and y axis, got {config.outputs[0]!r} twice")
    if isinstance(config, EnsembleTeacher):
        count, weights = len(config.members), config.weights
        if count < 2 or (weights is not None and len(weights) != count):
            raise ConfigError(f"members must be at least two, with a weight each or none, got {count} and {weights}")
