"""Foreign top-down pose networks as ONNX files: SimCC (RTMPose) and heatmaps, each read by its own rules."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

import numpy as np

from distilpose.backends.address import ForeignOptions
from distilpose.backends.base import MAX_BATCH, NumpyOutput, check_network_input, first_line, run_failed
from distilpose.backends.description import MAX_SIDE, ModelDescription, Triple, triple
from distilpose.backends.device import AUTO, RuntimeInfo
from distilpose.backends.exported import open_onnx_session, run_session, session_runtime
from distilpose.data.preprocess import IMAGENET_MEAN, IMAGENET_STD, NetworkInput, Normalization
from distilpose.errors import CheckpointError, ConfigError
from distilpose.models.outputs import CELL, HeatmapOutput, PoseOutput
from distilpose.skeletons import COCO_17, COCO_WHOLEBODY_133, HALPE_26, Skeleton, find_skeleton, skeleton_from_category
from distilpose.types import Float32Array, Size

_BY_COUNT = {skeleton.num_keypoints: skeleton for skeleton in (COCO_17, HALPE_26, COCO_WHOLEBODY_133)}
_NUMBER_TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(uint8)": np.uint8}
_MAX_UNPACKED = 2**31
PIXELS = (0.0, 0.0, 0.0), (1 / 255, 1 / 255, 1 / 255)  # mean and std of a network that reads 0..255


def foreign_skeleton(
    file: str, keypoints: str | Sequence[str] | None, count: int | None, name: str = "foreign", only_labels: bool = True
) -> Skeleton:
    """The keypoints of a network: a skeleton's name, its file, or names, in a list or with commas.

    Without them they are known by their ``count``, which is None where nobody knows it. The errors begin with ``file``;
    with ``only_labels`` nothing is said of what the skeleton leaves out; ``name`` is that of a skeleton made of names.

    Raises:
        ConfigError: they are not known by their number, there is no such skeleton, or it has another number.
    """
    if keypoints is None:
        if count in _BY_COUNT:
            return _BY_COUNT[count]
        raise ConfigError(
            f"{file} gives {count} keypoints; known by their number are {', '.join(map(str, _BY_COUNT))}: name them in "
            "order, FILE?keypoints=NAME,NAME,... or a skeleton's file"
        )
    try:
        if isinstance(keypoints, str) and "," not in keypoints:
            skeleton = find_skeleton(keypoints, only_labels=only_labels)
        else:
            names = keypoints.split(",") if isinstance(keypoints, str) else list(keypoints)
            skeleton = skeleton_from_category({"name": name, "keypoints": names}, only_labels=only_labels)
    except ConfigError as error:
        raise ConfigError(f"{file}: keypoints: {error}") from error
    if count not in (None, skeleton.num_keypoints):
        named = keypoints if isinstance(keypoints, str) else repr(keypoints)
        raise ConfigError(f"{file} gives {count} keypoints, keypoints={named[:100]} has {skeleton.num_keypoints}")
    return skeleton


class OnnxNetwork:
    """Any ONNX file with one input of images, tried out by whoever opens it.

    ``path`` is a ``.onnx``, or a ``.zip`` with one inside; ``size_hw`` (H, W) is for a file that leaves its input's
    size free; ``threads`` and ``device`` are those of `open_onnx_session`.

    Attributes:
        outputs: names, in the file's order.
        input_size_hw: (H, W) of the input.
        dtype: of the input.

    Raises:
        ConfigError: the size is unknown or contradicts the file, or the device is not there.
        CheckpointError: the file is missing or broken, or its input is no batch of images.
    """

    def __init__(
        self, path: Path, size_hw: Size | None = None, *, threads: int | None = None, device: str = AUTO
    ) -> None:
        if not path.is_file():
            raise CheckpointError(f"{path} is not a file: expected an ONNX file")
        file = _unpack(path) if path.suffix == ".zip" else path
        self.path = path
        self.session = open_onnx_session(file, threads, device=device, name=path)
        inputs = self.session.get_inputs()
        shape = inputs[0].shape if inputs else []
        channels_last = len(shape) == 4 and shape[3] == 3 and shape[1] != 3
        if len(inputs) != 1 or len(shape) != 4 or inputs[0].type not in _NUMBER_TYPES or 3 not in (shape[1], shape[3]):
            found = ", ".join(f"{value.name} {value.type} {tuple(value.shape)}" for value in inputs)
            raise CheckpointError(
                f"{path} must have one input of images (B, 3, H, W), got {found[:300]}: take the network without what "
                "comes before or after it"
            )
        self.outputs = [output.name for output in self.session.get_outputs()]
        self.dtype = _NUMBER_TYPES[inputs[0].type]
        self.input_size_hw = _input_size(path, shape[1:3] if channels_last else shape[2:], size_hw)
        self._name, self._channels_last = inputs[0].name, channels_last
        self._batch = shape[0] if isinstance(shape[0], int) else None
        if self._batch is not None and not 1 <= self._batch <= MAX_BATCH:
            raise CheckpointError(f"{path} reads {self._batch} images at once, expected 1 to {MAX_BATCH}")

    def run(self, images: NetworkInput, outputs: Sequence[str]) -> list[Float32Array]:
        """(B, 3, H, W) -> the named outputs in float32; in parts if the file's batch is fixed."""
        array = np.ascontiguousarray(np.moveaxis(images, 1, -1)) if self._channels_last else images
        array = array.astype(self.dtype, copy=False)
        step = self._batch or len(array)
        filled = -len(array) % step
        if filled:
            array = np.concatenate([array, np.repeat(array[-1:], filled, axis=0)])
        try:
            parts = [
                run_session(self.session, outputs, {self._name: array[start : start + step]})
                for start in range(0, len(array), step)
            ]
            return [np.concatenate(values)[: len(images)].astype(np.float32) for values in zip(*parts, strict=True)]
        except Exception as error:  # its exceptions share no base class; outputs may have no batch
            raise run_failed(self.path, "ONNX Runtime", error) from error

    def try_out(self, outputs: Sequence[str]) -> dict[str, tuple[int, ...]]:
        """Shapes of named outputs without the batch, on two black images; a `CheckpointError` if one is unusable."""
        if unknown := [name for name in outputs if name not in self.outputs]:
            raise ConfigError(f"{self.path} has no output {unknown[0]!r}; it has {', '.join(self.outputs)[:300]}")
        values = dict(zip(outputs, self.run(np.zeros((2, 3, *self.input_size_hw), np.float32), outputs), strict=True))
        for name, value in values.items():
            if value.ndim == 0 or len(value) != 2 or not np.isfinite(value).all():
                raise CheckpointError(
                    f"{self.path}: output {name!r} must begin with the batch and be finite, got shape {value.shape} "
                    "for 2 black images: name another output, FILE?outputs=NAME"
                )
        return {name: value.shape[1:] for name, value in values.items()}


def _unpack(path: Path) -> bytes:
    """The one ONNX file in an archive."""
    try:
        with zipfile.ZipFile(path) as archive:
            files = [info for info in archive.infolist() if info.filename.endswith(".onnx")]
            if len(files) != 1 or files[0].file_size > _MAX_UNPACKED:
                raise CheckpointError(f"{path} must hold one .onnx file of at most 2 GiB, got {len(files)}")
            return archive.read(files[0])
    except CheckpointError:
        raise
    except Exception as error:  # errors of the ways to compress share no class
        raise CheckpointError(f"{path} cannot be read as a zip archive ({first_line(error)})") from error


def _input_size(path: Path, own: Sequence[Any], declared: Size | None) -> Size:
    fixed = all(isinstance(side, int) for side in own)
    if not fixed and declared is None:
        raise ConfigError(f"{path} leaves its input size free {tuple(own)}: say it, FILE?size=HxW")
    if fixed and declared is not None and tuple(own) != declared:
        raise ConfigError(f"{path} reads {tuple(own)}, size says {declared}: leave it out")
    height, width = own if fixed else cast("Size", declared)
    if not (1 <= height <= MAX_SIDE and 1 <= width <= MAX_SIDE):
        raise CheckpointError(f"{path} reads {height} x {width} pixels, expected sides of 1 to {MAX_SIDE}")
    return height, width


class Layout(NamedTuple):
    """What the outputs of a file are: two classified axes, or heatmaps."""

    kind: Literal["simcc", "heatmaps"]
    outputs: tuple[str, ...]  # names: x and y axis, or the heatmaps
    num_keypoints: int
    heatmap_size_hw: Size  # of two axes, the input in cells of `CELL` pixels


def recognize(network: OnnxNetwork, outputs: Sequence[str] | None = None) -> Layout:
    """Tell two classified axes from heatmaps by the shapes of the outputs, or of those that are named.

    Raises:
        ConfigError: the outputs are neither.
        CheckpointError: the file does not run.
    """
    shapes = network.try_out(list(outputs or network.outputs))
    height, width = network.input_size_hw
    maps = [name for name, shape in shapes.items() if len(shape) == 3 and max(shape[1:]) <= max(height, width)]
    axes = [name for name, shape in shapes.items() if len(shape) == 2 and shape[1] > 3]
    if len(maps) == 1:
        count, rows, columns = shapes[maps[0]]
        return Layout("heatmaps", (maps[0],), count, (rows, columns))
    if len(axes) == 2 and not maps and shapes[axes[0]][0] == shapes[axes[1]][0]:
        off = {(x, y): abs(shapes[x][1] / width - shapes[y][1] / height) for x, y in (axes, axes[::-1])}
        order = min(off, key=off.__getitem__)  # both axes have the same number of bins per pixel
        if off[order] < 0.05:
            return Layout("simcc", order, shapes[order[0]][0], (height // CELL, width // CELL))
    found = ", ".join(f"{name} (B, {', '.join(map(str, shape))})" for name, shape in shapes.items())
    raise ConfigError(
        f"{network.path} (input {height} x {width}) is no known top-down pose network: expected heatmaps (B, K, h, w), "
        f"or SimCC's x axis (B, K, s W) and y axis (B, K, s H), got {found[:500]}: name them, FILE?outputs=NAME or "
        "FILE?outputs=X,Y"
    )


class ForeignBackend:
    """A foreign ONNX pose network as an `InferenceBackend`: SimCC read by `decode_simcc`, heatmaps by DARK.

    ``path``, ``threads`` and ``device`` are those of `OnnxNetwork`. ``description`` is in RGB, whatever the network
    reads.

    Raises:
        ConfigError: the options do not fit, or are missing for what cannot be recognized.
        CheckpointError: the file is unusable.

    Source:
        SimCC (arXiv:2107.03332) and RTMPose (arXiv:2303.07399), decoded as MMPose and rtmlib do. Unlike them, an axis
        without a positive value is read at its highest bin, not outside the crop.
    """

    def __init__(
        self, path: Path, options: ForeignOptions | None = None, *, threads: int | None = None, device: str = AUTO
    ) -> None:
        options = options or ForeignOptions()
        self._network = OnnxNetwork(path, options.size, threads=threads, device=device)
        self._layout = recognize(self._network, options.outputs)
        if self._layout.kind == "simcc" and options.udp:
            raise ConfigError(f"{path} gives two axes, udp is for heatmaps: leave it out")
        self._bgr = options.color == "bgr"
        pixels = self._network.dtype == np.uint8
        self.description = ModelDescription(
            model=f"{self._layout.kind} {path.stem}"[:100],
            output="regression" if self._layout.kind == "simcc" else "heatmap",
            input_size_hw=self._network.input_size_hw,
            heatmap_size_hw=self._layout.heatmap_size_hw,
            normalization=None if pixels else _normalization(path, options),
            skeleton=foreign_skeleton(str(path), options.keypoints, self._layout.num_keypoints),
            padding=options.padding,
            udp=bool(options.udp),
        )

    def describe(self) -> RuntimeInfo:
        """What runs it."""
        return session_runtime(self._network.session)

    def __call__(self, images: NetworkInput) -> NumpyOutput:
        """(B, 3, H, W) crops -> keypoints with scores, or heatmaps."""
        check_network_input(images, self.description)
        values = self._network.run(images[:, ::-1] if self._bgr else images, self._layout.outputs)
        if self._layout.kind == "heatmaps":
            return HeatmapOutput(values[0])
        return decode_simcc(values[0], values[1])


def decode_simcc(along_x: Float32Array, along_y: Float32Array) -> PoseOutput[Float32Array]:
    """Keypoints at the highest bins of the x axis (B, K, Wx) and the y axis (B, K, Hy), scored by the smaller height.

    Bin b of n is at b / n of the crop.
    """
    xy = [axis.argmax(-1) / axis.shape[-1] for axis in (along_x, along_y)]
    score = np.minimum(along_x.max(-1), along_y.max(-1))
    return PoseOutput(np.stack(xy, axis=-1).astype(np.float32), None, score.astype(np.float32))


def usual_scale(path: Path, *, pixels: bool = False) -> tuple[Triple, Triple]:
    """Mean and std of RGB in units of pixel / 255, where nobody names them: ImageNet's.

    A network that reads ``pixels`` takes 0..255 as they are; so do MoveNet's files, known by their name.
    """
    if pixels or "movenet" in path.stem.lower():
        return PIXELS
    return IMAGENET_MEAN, IMAGENET_STD


def _normalization(path: Path, options: ForeignOptions) -> Normalization:
    """Of RGB, in units of pixel / 255."""
    usual = usual_scale(path)
    order = -1 if options.color == "bgr" else 1
    given = [value and triple(number / 255 for number in value[::order]) for value in (options.mean, options.std)]
    return Normalization(given[0] or usual[0], given[1] or usual[1])
