"""ONNX files as sources of heatmaps, run by ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from distilpose.backends.base import HEATMAP_OUTPUT
from distilpose.backends.description import METADATA_KEY, ModelDescription, parse_description
from distilpose.backends.hub import reason
from distilpose.backends.onnxruntime import open_onnx_session
from distilpose.data.preprocess import IMAGENET_MEAN, IMAGENET_STD, Normalization
from distilpose.errors import CheckpointError, ConfigError
from distilpose.models.outputs import HeatmapOutput
from distilpose.skeletons import COCO_17
from distilpose.teachers.base import SourceSpec
from distilpose.teachers.checkpoint import file_hash
from distilpose.teachers.config import OnnxTeacher, SimccTeacher
from distilpose.teachers.keypoints import teacher_skeleton
from distilpose.teachers.simcc import simcc_heatmaps
from distilpose.types import Size

_HEATMAP_STRIDE = 4  # input pixels per cell where nothing else is said
_NUMBER_TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16}
FloatArray = NDArray[np.floating[Any]]


class OnnxFile:
    """An ONNX file with one image input.

    Args:
        path: of the file.

    Attributes:
        path: as above.
        description: of a file that ``distilpose export`` wrote; None for others.
        outputs: names, in the file's order.

    Raises:
        ConfigError: onnxruntime is not installed.
        CheckpointError: the file is missing or broken, or its input is no batch of float images.
    """

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise CheckpointError(f"teacher {path} is not a file: expected an ONNX file")
        self._session = open_onnx_session(path)
        inputs = self._session.get_inputs()
        fault = _input_fault(inputs)
        if fault is not None:
            found = ", ".join(f"{value.name} {value.type} {tuple(value.shape)}" for value in inputs)
            raise CheckpointError(
                f"teacher {path} must have one input of float images (B, 3, H, W), got {found}{fault}"
            )
        self.path = path
        self.outputs = [output.name for output in self._session.get_outputs()]
        text = self._session.get_modelmeta().custom_metadata_map.get(METADATA_KEY)
        self.description: ModelDescription | None = None if text is None else parse_description(path, text)
        self._name, self._shape = inputs[0].name, inputs[0].shape
        self._dtype = _NUMBER_TYPES[inputs[0].type]

    def input_size(self, declared: Size | None) -> Size:
        """(H, W) of the input: the file's own, or the declared one where it leaves them free.

        Raises:
            ConfigError: neither says it, or they contradict each other.
        """
        own = tuple(self._shape[2:])
        fixed = all(isinstance(side, int) for side in own)
        if not fixed and self.description is not None:
            own, fixed = self.description.input_size_hw, True
        if not fixed and declared is None:
            raise ConfigError(f"teacher {self.path} leaves its input size free {own}: set teacher.input_size_hw")
        if fixed and declared is not None and own != tuple(declared):
            raise ConfigError(f"teacher {self.path} reads {own}, teacher.input_size_hw says {tuple(declared)}")
        height, width = own if fixed else declared or ()
        return height, width

    def run(self, images: Tensor, outputs: Sequence[str]) -> list[Tensor]:
        """(B, 3, H, W) -> the named outputs on the same device, float32; one by one if the file's batch is 1."""
        array = images.detach().float().cpu().numpy().astype(self._dtype)
        parts = np.split(array, len(array)) if self._shape[0] == 1 else [array]
        results = [self._session.run(list(outputs), {self._name: part}) for part in parts]
        joined = [np.concatenate(values).astype(np.float32) for values in zip(*results, strict=True)]
        return [torch.from_numpy(values).to(images.device) for values in joined]

    def try_out(self, outputs: Sequence[str], size_hw: Size) -> list[tuple[int, ...]]:
        """Shapes of the named outputs on two gray images, without the batch.

        Raises:
            CheckpointError: it does not run, or its numbers are not finite.
        """
        try:
            values = self.run(torch.zeros(2, 3, *size_hw), outputs)
        except Exception as error:  # its exceptions share no base class
            raise CheckpointError(
                f"teacher {self.path} does not run on two images of {size_hw}: {reason(error)}"
            ) from error
        for name, value in zip(outputs, values, strict=True):
            if len(value) != 2:
                raise CheckpointError(
                    f"teacher {self.path}: output {name!r} must begin with the batch, got shape {tuple(value.shape)} "
                    "for 2 images: name another output"
                )
            if not value.isfinite().all():
                raise CheckpointError(
                    f"teacher {self.path}: output {name!r} has NaN or infinite numbers for gray images: check the file"
                )
        return [tuple(value.shape[1:]) for value in values]


def _input_fault(inputs: Sequence[Any]) -> str | None:
    """What to do about inputs that are no batch of float images, as the end of a sentence; None for those that are."""
    if len(inputs) != 1 or len(inputs[0].shape) != 4:
        return ": take the network without what comes before or after it"
    count, channels, _, last = inputs[0].shape
    if inputs[0].type == "tensor(uint8)":
        return ": export it with float pixels (distilpose export without --uint8-input)"
    if inputs[0].type not in _NUMBER_TYPES:
        return ": export it with float pixels"
    if isinstance(channels, int) and channels != 3:
        return ": its channels come last, export it with (B, 3, H, W)" if last == 3 else ": it reads no color images"
    if isinstance(count, int) and count > 1:
        return f": export it with a free batch size, or with 1 in place of {count}"
    return None


class OnnxSource:
    """Outputs of an ONNX file as heatmaps.

    Args:
        file: to run.
        outputs: names of what is read.
        to_heatmaps: these outputs -> (B, K, h, w).
        spec: how it is fed and read.
    """

    def __init__(
        self, file: OnnxFile, outputs: Sequence[str], to_heatmaps: Callable[..., Tensor], spec: SourceSpec
    ) -> None:
        self._file = file
        self._outputs = tuple(outputs)
        self._to_heatmaps = to_heatmaps
        self._spec = spec

    @property
    def spec(self) -> SourceSpec:
        """How it is fed and read."""
        return self._spec

    def __call__(self, images: Tensor) -> HeatmapOutput[Tensor]:
        """(B, 3, H, W) -> heatmaps (B, K, h, w), without tokens."""
        return HeatmapOutput(self._to_heatmaps(*self._file.run(images, self._outputs)))

    def to(self, device: torch.device) -> None:
        """ONNX Runtime stays where it is: on its GPU, if it has one, else on the CPU."""


def load_onnx_source(config: OnnxTeacher) -> OnnxSource:
    """An ONNX file that gives heatmaps, tried out once.

    Raises:
        ConfigError: what is declared does not fit the file.
        CheckpointError: the file is unusable.
    """
    file = OnnxFile(Path(config.file))
    size_hw = file.input_size(config.input_size_hw)
    output, shape = _only_output(file, config.output, size_hw)
    spec = _spec(file, config, size_hw, shape, udp=bool(config.udp), output=output)
    return OnnxSource(file, [output], lambda heatmaps: heatmaps, spec)


def load_simcc_source(config: SimccTeacher) -> OnnxSource:
    """An ONNX file that gives two axes, tried out once; see `simcc_heatmaps`.

    Raises:
        ConfigError: what is declared does not fit the file.
        CheckpointError: the file is unusable.
    """
    file = OnnxFile(Path(config.file))
    size_hw = file.input_size(config.input_size_hw)
    names = file.outputs if config.outputs is None else list(config.outputs)
    _check_known(file, names)
    if len(names) != 2:
        raise ConfigError(f"teacher {file.path} has the outputs {names}: name x and y axis in teacher.outputs")
    x_shape, y_shape = file.try_out(names, size_hw)
    if len(x_shape) != 2 or len(y_shape) != 2 or x_shape[0] != y_shape[0]:
        raise ConfigError(
            f"teacher {file.path}: expected an x axis (B, K, Wx) and a y axis (B, K, Hy), got {_batch_of(x_shape)} and "
            f"{_batch_of(y_shape)}: name them in teacher.outputs"
        )
    if (x_shape[1] - y_shape[1]) * (size_hw[1] - size_hw[0]) < 0:
        raise ConfigError(
            f"teacher {file.path}: the x axis {names[0]!r} has {x_shape[1]} bins and the y axis {names[1]!r} "
            f"{y_shape[1]}, the input is {size_hw[1]} wide and {size_hw[0]} high: exchange teacher.outputs"
        )
    map_hw = config.heatmap_size_hw or (size_hw[0] // _HEATMAP_STRIDE, size_hw[1] // _HEATMAP_STRIDE)
    rule: dict[str, Any] = {"activation": config.activation, "sharpness": config.sharpness, "peak": config.peak}

    def to_heatmaps(along_x: Tensor, along_y: Tensor) -> Tensor:
        return simcc_heatmaps(along_x, along_y, map_hw, **rule)

    spec = _spec(file, config, size_hw, x_shape, outputs=names, heatmap_size_hw=list(map_hw), **rule)
    return OnnxSource(file, names, to_heatmaps, spec)


def _batch_of(shape: Sequence[int]) -> str:
    return f"({', '.join(['B', *map(str, shape)])})"


def _only_output(file: OnnxFile, name: str | None, size_hw: Size) -> tuple[str, tuple[int, ...]]:
    """The output that holds heatmaps, and its shape without the batch."""
    if name is None and file.description is not None:
        name = HEATMAP_OUTPUT
    names = file.outputs if name is None else [name]
    _check_known(file, names)
    shapes = dict(zip(names, file.try_out(names, size_hw), strict=True))
    maps: list[str] = [output for output, shape in shapes.items() if len(shape) == 3]
    if len(maps) != 1:
        found = ", ".join(f"{output} {_batch_of(shape)}" for output, shape in shapes.items())
        raise ConfigError(
            f"teacher {file.path}: expected one output of heatmaps (B, K, h, w), got {found}: name it in teacher.output"
            + (", or use kind simcc for two axes" if not maps else "")
        )
    return maps[0], shapes[maps[0]]


def _check_known(file: OnnxFile, names: Sequence[str]) -> None:
    unknown = [name for name in names if name not in file.outputs]
    if unknown:
        raise ConfigError(f"teacher {file.path} has no output {unknown[0]!r}; it has {', '.join(file.outputs)}")


def _check_own_words(file: OnnxFile, config: OnnxTeacher | SimccTeacher, known: ModelDescription) -> None:
    """Refuse options that contradict what an exported file says of itself."""
    skeleton, normalization = known.skeleton, known.normalization or Normalization()
    own = {"mean": normalization.mean, "std": normalization.std, "color": "rgb", "udp": False}
    for name, value in own.items():
        given = getattr(config, name, None)
        if given not in (None, value):
            raise ConfigError(
                f"teacher {file.path} says of itself {name} {value}, teacher.{name} is {given}: leave it out"
            )
    if config.keypoints is None:
        return
    names = teacher_skeleton(config.keypoints, f"teacher {file.path}").keypoint_names
    if not skeleton.has_keypoints(names):
        raise ConfigError(
            f"teacher {file.path} says of itself that its keypoints are {', '.join(skeleton.keypoint_names)}, "
            f"teacher.keypoints has {', '.join(names)}: leave it out"
        )


def _spec(
    file: OnnxFile,
    config: OnnxTeacher | SimccTeacher,
    size_hw: Size,
    shape: Sequence[int],
    *,
    udp: bool = False,
    **more: Any,
) -> SourceSpec:
    """How a file is fed and read whose output, or first axis, has this shape without the batch."""
    known = file.description
    if known is not None:
        _check_own_words(file, config, known)
        skeleton, normalization = known.skeleton, known.normalization or Normalization()
    else:
        skeleton = teacher_skeleton(config.keypoints or COCO_17.name, f"teacher {file.path}")
        normalization = Normalization(config.mean or IMAGENET_MEAN, config.std or IMAGENET_STD)
    if skeleton.num_keypoints != shape[0]:
        last = shape[-1] == skeleton.num_keypoints
        raise ConfigError(
            f"teacher {file.path} gives {shape[0]} keypoints, teacher.keypoints has {skeleton.num_keypoints}; its "
            f"output is {_batch_of(shape)}: "
            + ("they come last, export it with (B, K, ...)" if last else "name all of them, in order")
        )
    color = config.color or "rgb"
    description: dict[str, Any] = {
        "kind": "onnx" if isinstance(config, OnnxTeacher) else "simcc",
        "weights": file_hash([file.path]),
    }
    description |= {"mean": list(normalization.mean), "std": list(normalization.std)}
    description |= {"color": color, "udp": udp, **more}
    return SourceSpec(size_hw, skeleton, normalization, color == "bgr", udp, description=description)
