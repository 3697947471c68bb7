"""People by a detector in an ONNX file, whoever exported it.

A file is named as ``FILE`` or ``FILE?key=value&key=value``. The keys, none of which is needed as a rule:

- ``layout``: what the file returns, one of the names below; recognized from the outputs of a first run when left out;
- ``person``: index of the class that is a person; 0, for ``detr-softmax`` 1;
- ``size``: input size where the file leaves it free, ``640`` or ``HEIGHTxWIDTH``; 640;
- ``fit``: how an image gets that size: ``stretch``, ``letterbox`` (in its own shape at the top left, the rest gray) or
  ``letterbox-center`` (in the middle);
- ``color``: order of the channels, ``rgb`` or ``bgr``;
- ``normalize``: ``raw`` (0 to 255), ``unit`` (0 to 1) or ``imagenet`` (less ImageNet's mean, divided by its standard
  deviation).

The layouts (B images, Q queries, N boxes, A cells, C classes), each with its defaults for the last three and for the
threshold:

- ``detr-focal``: RT-DETR, RT-DETRv2, D-FINE from transformers. ``logits`` (B, Q, C) and ``pred_boxes`` (B, Q, 4).
  stretch, rgb, unit, 0.5.
- ``detr-softmax``: DETR and its like, whose last class is "no object". The same outputs, so it is to be named.
  stretch, rgb, imagenet, 0.5.
- ``rf-detr``: RF-DETR. ``dets`` (B, Q, 4) and ``labels`` (B, Q, C), where a person is class 1. stretch, rgb, imagenet,
  0.5.
- ``detr-deploy``: RT-DETR and D-FINE as their authors export them. ``labels``, ``scores`` (B, Q), ``boxes`` (B, Q, 4);
  a second input ``orig_target_sizes``. stretch, rgb, unit, 0.5.
- ``yolox``: YOLOX with its cells not decoded. One output (B, A, 5 + C). letterbox, bgr, raw, 0.3.
- ``yolox-decoded``: YOLOX with its cells decoded into pixels. The same output. letterbox, bgr, raw, 0.3.
- ``yolov8``: YOLOv8, YOLO11 and YOLO26 without suppression. One output (B, 4 + C, A). letterbox-center, rgb, unit, 0.3.
- ``yolo-nms``: the same with suppression inside. One output (B, N, 6). letterbox-center, rgb, unit, 0.3.
- ``suppressed``: MMDeploy's files. ``dets`` (B, N, 5) and ``labels`` (B, N). letterbox, bgr, raw, 0.3; RTMDet wants
  ``normalize=imagenet``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, get_args
from urllib.parse import parse_qsl

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from distilpose.backends.base import MAX_BATCH, existing_file, first_line
from distilpose.backends.exported import open_onnx_session, run_session
from distilpose.compat import current_names
from distilpose.data.preprocess import Normalization, normalize
from distilpose.detection.filtering import keep_people
from distilpose.detection.onnx_layouts import (
    LAYOUTS,
    Color,
    DecodedBatch,
    Fit,
    Normalize,
    TensorSpec,
    check_meaning,
    recognize_layout,
)
from distilpose.errors import ConfigError, InputError
from distilpose.formats.boxes import PersonBoxes
from distilpose.types import Float32Array, FloatArray, ImageArray

ONNX_NMS_IOU = 0.7

_CHOICES: dict[str, tuple[str, ...]] = {
    "layout": tuple(LAYOUTS),
    "fit": get_args(Fit),
    "color": get_args(Color),
    "normalize": get_args(Normalize),
}
_KEYS = ("layout", "person", "size", "fit", "color", "normalize")
_DEFAULT_SIZE = 640
_MAX_SIDE = 8192
_BATCH_SIZE = 8  # where the file leaves it free; bounds the memory
_GRAY = (114, 114, 114)
_NORMALIZATIONS: dict[Normalize, Normalization] = {
    "raw": Normalization((0, 0, 0), (1 / 255, 1 / 255, 1 / 255)),
    "unit": Normalization((0, 0, 0), (1, 1, 1)),
    "imagenet": Normalization(),
}
_DTYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(bool)": np.bool_,
}
# Boxes come out as fractions of one-sized images, whether the file means (height, width) or (width, height).
_OTHER_INPUTS: dict[str, Callable[[Float32Array], Float32Array]] = {
    "orig_target_sizes": lambda pixels: np.ones((len(pixels), 2), np.float32),
    "pixel_mask": lambda pixels: np.ones((len(pixels), *pixels.shape[2:]), np.float32),
}


class OnnxOptions(NamedTuple):
    """What a query says, see the module; None leaves it to the layout or the file."""

    layout: str | None = None
    person: int | None = None
    size_hw: tuple[int, int] | None = None
    fit: Fit | None = None
    color: Color | None = None
    normalize: Normalize | None = None


class Placement(NamedTuple):
    """Where an image lies in the network's input: input = image * scale + offset."""

    scale_xy: tuple[float, float]  # input pixels per image pixel
    offset_xy: tuple[float, float]  # input pixels

    def to_img(self, boxes_input_xyxy: FloatArray) -> FloatArray:
        """(N, 4) pixels of the input -> (N, 4) image pixels."""
        return (boxes_input_xyxy - [*self.offset_xy, *self.offset_xy]) / [*self.scale_xy, *self.scale_xy]


class OnnxDetector:
    """A detector in an ONNX file, in ONNX Runtime on the CPU. Threads may call it at the same time.

    Args:
        source: ``FILE`` or ``FILE?key=value&...``, see the module.
        threshold: least score; that of the layout when None.
        nms_iou: of two boxes that overlap by more, the weaker one goes.
        threads: of one run; see `default_threads` when None.

    Raises:
        ConfigError: onnxruntime is not installed, the query is wrong or does not fit the file, or the file has none of
            the layouts.
        CheckpointError: the file is missing or broken.
        InputError: it fails on an image.
    """

    def __init__(
        self,
        source: str,
        *,
        threshold: float | None = None,
        nms_iou: float = ONNX_NMS_IOU,
        threads: int | None = None,
    ) -> None:
        self._file, options = parse_source(source)
        self._session = open_onnx_session(existing_file(self._file), threads)
        self._batch_size, self._size_hw = self._read_inputs(options.size_hw)
        # What does not fit shows here, not at the first image.
        outputs = [item.name for item in self._session.get_outputs()]
        answers = self._outputs_of(outputs, np.zeros((self._batch_size or 1, 3, *self._size_hw), np.float32))
        self._outputs = _listed(self._session.get_outputs())
        found = [TensorSpec(name, answer.shape) for name, answer in zip(outputs, answers, strict=True)]
        name = options.layout or recognize_layout(found, self._size_hw)
        layouts = "; ".join(f"{name}: {layout.outputs}" for name, layout in LAYOUTS.items())
        if name is None:
            raise ConfigError(
                f"{self._file}: its layout is not recognized, its outputs are {self._outputs}: "
                f"name it as {self._file}?layout=NAME, where NAME is one of {layouts}"
            )
        layout = LAYOUTS[name]
        names = layout.pick(found)
        if names is None:
            raise ConfigError(
                f"{self._file}: layout {name} expects {layout.outputs}, got {self._outputs}: the layouts are {layouts}"
            )
        self._names = names
        self._decode = layout.decode
        self._person = layout.person if options.person is None else options.person
        self._fit = options.fit or layout.fit
        self._color = options.color or layout.color
        self._normalization = _NORMALIZATIONS[options.normalize or layout.normalize]
        self._threshold = layout.threshold if threshold is None else threshold
        self._nms_iou = nms_iou
        gray = normalize(np.full((self._batch_size or 1, *self._size_hw, 3), _GRAY, np.uint8), self._normalization)
        try:
            decoded = self._run(gray)
        except ConfigError:
            if options.layout is not None or name != "yolox":
                raise
            name = "yolox-decoded"
            self._decode = LAYOUTS[name].decode
            decoded = self._run(gray)
        with self._naming_outputs():
            check_meaning(name, decoded, self._size_hw)

    def __call__(self, images: Sequence[ImageArray]) -> list[PersonBoxes]:
        """(H, W, 3) uint8 RGB each, of any sizes -> for each N >= 0 boxes in its pixels, best score first."""
        step = self._batch_size or _BATCH_SIZE
        chunks = [images[start : start + step] for start in range(0, len(images), step)]
        return [people for chunk in chunks for people in self._find(chunk)]

    def _find(self, images: Sequence[ImageArray]) -> list[PersonBoxes]:
        placed = [place_image(image, self._size_hw, self._fit) for image in images]
        padding = [placed[-1][0]] * ((self._batch_size or 0) - len(images))  # a file of a fixed batch wants all of it
        pixels = normalize(np.stack([canvas for canvas, _ in placed] + padding), self._normalization)
        found = self._run(pixels[:, ::-1] if self._color == "bgr" else pixels)
        return [
            keep_people(
                placement.to_img(boxes), score, image.shape[:2], threshold=self._threshold, nms_iou=self._nms_iou
            )
            for image, (_, placement), boxes, score in zip(images, placed, *found, strict=False)
        ]

    def _run(self, pixels: Float32Array) -> DecodedBatch:
        answers = self._outputs_of(self._names, pixels)
        with self._naming_outputs():
            return self._decode(answers, self._person, self._size_hw)

    @contextmanager
    def _naming_outputs(self) -> Iterator[None]:
        try:
            yield
        except ConfigError as error:
            raise ConfigError(f"{self._file}: {error} (its outputs are {self._outputs})") from error

    def _outputs_of(self, names: list[str], pixels: Float32Array) -> list[NDArray[Any]]:
        feeds: dict[str, NDArray[Any]] = {
            name: np.ascontiguousarray(make(pixels), dtype) for name, (make, dtype) in self._feeds.items()
        }
        try:
            return run_session(self._session, names, feeds)
        except Exception as error:  # ONNX Runtime's exceptions share no base class
            raise InputError(
                f"{self._file} fails on {len(pixels)} images of {self._size_hw[0]}x{self._size_hw[1]} pixels "
                f"({first_line(error)}): export it again, with this input size and batch size, or pass size=HxW"
            ) from error

    def _read_inputs(self, asked_hw: tuple[int, int] | None) -> tuple[int | None, tuple[int, int]]:
        """Batch size (None: free) and (H, W) of the input; notes how each input is made from the images."""
        inputs = self._session.get_inputs()
        images = [item for item in inputs if len(item.shape) == 4 and _side(item.shape[1]) in (3, None)]
        if len(images) != 1 or images[0].type not in ("tensor(float)", "tensor(float16)"):
            raise ConfigError(
                f"{self._file}: expected one float input of images (B, 3, H, W), got "
                f"{_listed(inputs)}: export the detector without its preprocessing"
            )
        batch_size, _, *sides = (_side(side) for side in images[0].shape)
        wanted = asked_hw or (_DEFAULT_SIZE, _DEFAULT_SIZE)
        size_hw = (sides[0] or wanted[0], sides[1] or wanted[1])
        if max(size_hw) > _MAX_SIDE or (batch_size or 1) > MAX_BATCH:
            raise ConfigError(
                f"{self._file}: expected at most {MAX_BATCH} images of {_MAX_SIDE} pixels a side at once, got "
                f"{_listed(images)}"
            )
        if asked_hw is not None and size_hw != asked_hw:
            raise ConfigError(
                f"{self._file}: size must be {size_hw[0]}x{size_hw[1]}, which the file fixes, got "
                f"{asked_hw[0]}x{asked_hw[1]}: leave it out"
            )
        self._feeds: dict[str, tuple[Callable[[Float32Array], Float32Array], type]] = {}
        for item in inputs:
            make = (lambda pixels: pixels) if item is images[0] else _OTHER_INPUTS.get(item.name)
            if make is None or item.type not in _DTYPES:
                raise ConfigError(
                    f"{self._file}: expected no input but the images, orig_target_sizes or pixel_mask, got {item.name} "
                    f"({item.type}): export the detector without it"
                )
            self._feeds[item.name] = make, _DTYPES[item.type]
        return batch_size, size_hw


def parse_source(source: str) -> tuple[Path, OnnxOptions]:
    """``FILE?key=value&...`` -> the file and what the query says; `ConfigError` for a key or value that is none."""
    file, _, query = source.partition("?")
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query))
    except ValueError as error:
        raise ConfigError(
            f"detector onnx:{source}: expected FILE?key=value&key=value, got the query {query!r}"
        ) from error
    options = OnnxOptions()
    for key, value in current_names(dict(pairs)).items():
        choices = _CHOICES.get(key, (value,)) if key in _KEYS else _KEYS
        what, said = (key, value) if key in _KEYS else ("key", key)
        if said not in choices:
            raise ConfigError(f"detector onnx:{source}: {what} must be one of {', '.join(choices)}, got {said!r}")
        if key == "person" and not (value.isascii() and value.isdecimal()):
            raise ConfigError(f"detector onnx:{source}: person must be a whole number from 0, got {value!r}")
        options = options._replace(
            **{"size_hw": _size(source, value)} if key == "size" else {key: int(value) if key == "person" else value}
        )
    return Path(file).expanduser(), options


def place_image(image: ImageArray, size_hw: tuple[int, int], fit: Fit) -> tuple[ImageArray, Placement]:
    """(H, W, 3) uint8 -> (h, w, 3) of the wanted size, and where the image lies in it; ``fit``: see the module."""
    height, width = image.shape[:2]
    if fit == "stretch":
        # Pillow's filter, which averages when it shrinks: the DETR family is trained and run with it.
        stretched = Image.fromarray(image).resize((size_hw[1], size_hw[0]), Image.Resampling.BILINEAR)
        return np.asarray(stretched), Placement((size_hw[1] / width, size_hw[0] / height), (0, 0))
    scale = min(size_hw[0] / height, size_hw[1] / width)
    inner_hw = (max(1, int(height * scale)), max(1, int(width * scale)))
    free_hw = (size_hw[0] - inner_hw[0], size_hw[1] - inner_hw[1])
    top, left = (free_hw[0] // 2, free_hw[1] // 2) if fit == "letterbox-center" else (0, 0)
    canvas = np.full((*size_hw, 3), _GRAY, dtype=np.uint8)
    canvas[top : top + inner_hw[0], left : left + inner_hw[1]] = cv2.resize(
        image, (inner_hw[1], inner_hw[0]), interpolation=cv2.INTER_LINEAR
    )
    return canvas, Placement((inner_hw[1] / width, inner_hw[0] / height), (left, top))


def _side(side: int | str | None) -> int | None:
    return side if isinstance(side, int) and side > 0 else None


def _size(source: str, text: str) -> tuple[int, int]:
    sides = text.split("x") * (1 if "x" in text else 2)
    if len(sides) != 2 or not all(side.isascii() and side.isdecimal() and 0 < int(side) <= _MAX_SIDE for side in sides):
        raise ConfigError(f"detector onnx:{source}: size must be as 640 or 480x640 (height x width), got {text!r}")
    return int(sides[0]), int(sides[1])


def _listed(tensors: Sequence[Any]) -> str:
    return ", ".join(f"{item.name} {item.type} {list(item.shape)}" for item in tensors)
