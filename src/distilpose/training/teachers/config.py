"""What ``teacher:`` of a configuration may hold: a checkpoint's path, or a mapping with a ``kind``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

from distilpose.errors import ConfigError
from distilpose.preprocess import IMAGENET_MEAN, IMAGENET_STD

Keypoints = str | list[str]
Triple = tuple[float, float, float]
ONNX_SUFFIX = ".onnx"


@dataclass
class CheckpointTeacher:
    """A heatmap model of our own.

    Attributes:
        file: its checkpoint.
        mapping: student's keypoint -> this teacher's, where their names differ.
        flip: average the heatmaps with those of the mirrored crops.
    """

    file: str
    mapping: dict[str, str] = field(default_factory=dict)
    flip: bool = False


@dataclass
class VitPoseTeacher:
    """ViTPose in the layout of transformers.

    Attributes:
        model: folder written by ``save_pretrained`` (model and image processor), or a hub id.
        dataset_index: which expert of a mixture-of-experts model (ViTPose+) answers; 0 is COCO's.
        keypoints: of its heatmaps: a known set or names in order.
        mapping: student's keypoint -> this teacher's, where their names differ.
        flip: average the heatmaps with those of the mirrored crops.
    """

    model: str
    dataset_index: int | None = None
    keypoints: Keypoints = "coco_17"
    mapping: dict[str, str] = field(default_factory=dict)
    flip: bool = False


@dataclass
class OnnxTeacher:
    """An ONNX file that gives heatmaps. A file of ``distilpose export`` says all of this itself.

    Attributes:
        file: with one image input (B, 3, H, W).
        output: name of the heatmaps (B, K, h, w); the only output of that form when not given.
        input_size_hw: (H, W) in pixels, where the file leaves them free.
        mean: of each colour in units of pixel / 255, in the order of the input's colours.
        std: likewise. A network that reads 0..255 has mean 0 and std 1/255.
        colour: order of the input's colours.
        udp: pixels and cells are counted between the centres of the outermost ones ("unbiased data processing").
        keypoints: of the heatmaps: a known set or names in order.
        mapping: student's keypoint -> this teacher's, where their names differ.
        flip: average the heatmaps with those of the mirrored crops.
    """

    file: str
    output: str | None = None
    input_size_hw: tuple[int, int] | None = None
    mean: Triple = IMAGENET_MEAN
    std: Triple = IMAGENET_STD
    colour: Literal["rgb", "bgr"] = "rgb"
    udp: bool = False
    keypoints: Keypoints = "coco_17"
    mapping: dict[str, str] = field(default_factory=dict)
    flip: bool = False


@dataclass
class SimccTeacher:
    """An ONNX file that classifies x and y apart (SimCC, RTMPose): heatmaps are the product of its two axes.

    Attributes:
        file: with one image input (B, 3, H, W).
        outputs: names of the x axis (B, K, Wx) and the y axis (B, K, Hy); the file's two outputs when not given.
        activation: what makes an axis positive: ``"softmax"`` of its values times ``sharpness``, or ``"none"`` for
            values that already are probabilities or heights.
        sharpness: factor before the softmax; RTMPose is trained with 10, plain logits have 1.
        peak: height of a heatmap: ``"value"``, the smaller of the two axes' raw maxima, in 0..1, which RTMPose calls
            the keypoint's score, or ``"one"``.
        heatmap_size_hw: (h, w) of the heatmaps; a quarter of the input when not given.
        input_size_hw: (H, W) in pixels, where the file leaves them free.
        mean: as in `OnnxTeacher`.
        std: likewise.
        colour: order of the input's colours.
        keypoints: of the axes: a known set or names in order.
        mapping: student's keypoint -> this teacher's, where their names differ.
        flip: average the heatmaps with those of the mirrored crops.
    """

    file: str
    outputs: tuple[str, str] | None = None
    activation: Literal["softmax", "none"] = "softmax"
    sharpness: float = 10.0
    peak: Literal["value", "one"] = "value"
    heatmap_size_hw: tuple[int, int] | None = None
    input_size_hw: tuple[int, int] | None = None
    mean: Triple = IMAGENET_MEAN
    std: Triple = IMAGENET_STD
    colour: Literal["rgb", "bgr"] = "rgb"
    keypoints: Keypoints = "coco_17"
    mapping: dict[str, str] = field(default_factory=dict)
    flip: bool = False


@dataclass
class HeatmapFilesTeacher:
    """Heatmaps that lie on disk, one per annotation (`teachers.heatmap_files`).

    Attributes:
        folder: with ``heatmaps.json`` and the arrays.
        mapping: student's keypoint -> the files', where their names differ.
    """

    folder: str
    mapping: dict[str, str] = field(default_factory=dict)


@dataclass
class EnsembleTeacher:
    """The weighted mean of several teachers' heatmaps.

    Attributes:
        members: teachers of any kind, at least two.
        weights: one for each, above 0; equal when not given.
    """

    members: list[str | dict[str, Any]]
    weights: list[float] | None = None


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
    """Check what stands under ``teacher``.

    Args:
        values: path of a checkpoint or of an exported ``.onnx`` file, or a mapping with ``kind`` and its fields.

    Raises:
        ConfigError: the kind is unknown, a field is unknown or missing, or a value has the wrong type.
    """
    if isinstance(values, str):
        return OnnxTeacher(values) if values.endswith(ONNX_SUFFIX) else CheckpointTeacher(values)
    fields = dict(values)
    kind = fields.pop("kind", None)
    if kind not in KINDS:
        raise ConfigError(f"teacher: kind must be one of {', '.join(KINDS)}, got {kind!r}")
    config = _parse(kind, fields)
    if isinstance(config, EnsembleTeacher):
        _check_ensemble(config)
    if isinstance(config, SimccTeacher) and config.sharpness <= 0:
        raise ConfigError(f"teacher (simcc): sharpness must be greater than 0, got {config.sharpness}")
    if isinstance(config, OnnxTeacher | SimccTeacher) and min(config.std) <= 0:
        raise ConfigError(f"teacher ({kind}): std must be greater than 0, got {config.std}")
    return config


class TeacherFile(NamedTuple):
    """A teacher as a file names it.

    Attributes:
        teacher: what stands under ``teacher``.
        flip: what stands under ``teacher_flip``.
    """

    teacher: str | dict[str, Any]
    flip: bool


def read_teacher_file(path: str | Path) -> TeacherFile:
    """The teacher of a training configuration, or of a file that holds what would stand under ``teacher`` alone.

    Raises:
        ConfigError: the file cannot be read, or names no teacher.
    """
    import yaml

    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{path} cannot be read as YAML ({error})") from error
    if isinstance(content, dict) and "kind" in content:
        return TeacherFile(content, False)
    teacher = content.get("teacher") if isinstance(content, dict) else None
    if not isinstance(teacher, str | dict):
        raise ConfigError(f"{path} names no teacher: expected a training configuration with 'teacher', or a 'kind'")
    return TeacherFile(teacher, bool(content.get("teacher_flip", False)))


def _parse(kind: str, fields: Mapping[str, Any]) -> TeacherConfig:
    from jsonargparse import ArgumentError, ArgumentParser

    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--teacher", type=KINDS[kind])
    try:
        config: TeacherConfig = parser.instantiate(parser.parse_object({"teacher": dict(fields)})).teacher
    except ArgumentError as error:
        raise ConfigError(f"teacher ({kind}): {error}") from error
    return config


def _check_ensemble(config: EnsembleTeacher) -> None:
    if len(config.members) < 2:
        raise ConfigError(f"teacher (ensemble): members must be at least two, got {len(config.members)}")
    weights = config.weights
    if weights is not None and (len(weights) != len(config.members) or min(weights) <= 0):
        raise ConfigError(
            f"teacher (ensemble): weights must be {len(config.members)} numbers above 0, one per member, got {weights}"
        )
    for member in config.members:
        teacher_config_from(member)
