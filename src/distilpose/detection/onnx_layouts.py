"""What detectors in ONNX files return, and how their boxes and scores are read from it.

Decoders take the outputs that `Layout.pick` chose, in that order, and give boxes in pixels of the network's input.
A box of something else than a person has the score NaN.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from distilpose.errors import ConfigError
from distilpose.types import FloatArray

Fit = Literal["stretch", "letterbox", "letterbox-center"]
Color = Literal["rgb", "bgr"]
Normalize = Literal["raw", "unit", "imagenet"]

YOLO_STRIDES = (8, 16, 32)
_ROUNDING = 0.01  # of scores in 16 bits
_FAR = 50.0  # longer sides of the input, beyond which no box of a network lies


class TensorSpec(NamedTuple):
    """An output of a file."""

    name: str
    shape: tuple[int | None, ...]  # None for a side that the file leaves free


class DecodedBatch(NamedTuple):
    """What a network found in B images."""

    boxes_xyxy: FloatArray  # (B, N, 4) pixels of the network's input
    score: FloatArray  # (B, N) of being a person


class Wanted(NamedTuple):
    """An output that a layout reads."""

    name: str  # that it usually has
    sides: int  # number of its sides
    last: int | None = None  # length of its last side; None: any

    def fits(self, output: TensorSpec) -> bool:
        """Whether an output has these sides."""
        return len(output.shape) == self.sides and (self.last is None or output.shape[-1] in (self.last, None))


class Layout(NamedTuple):
    """A form of outputs and the preprocessing that models of this form were trained with.

    ``decode`` takes the wanted outputs, the index of the person class and (H, W) of the input. It raises `ConfigError`
    when their shapes or values do not fit.
    """

    outputs: str  # the form in words, for errors
    wanted: tuple[Wanted, ...]
    decode: Callable[[Sequence[NDArray[Any]], int, tuple[int, int]], DecodedBatch]
    fit: Fit
    color: Color
    normalize: Normalize
    threshold: float  # least score
    person: int = 0  # index of the person class

    def pick(self, outputs: Sequence[TensorSpec]) -> list[str] | None:
        """The file's names of the wanted outputs, by their usual names or else by shape; None if they do not fit."""
        named = {output.name: output for output in outputs}
        if len(self.wanted) > 1 and named.keys() >= {wanted.name for wanted in self.wanted}:
            fit = all(wanted.fits(named[wanted.name]) for wanted in self.wanted)
            return [wanted.name for wanted in self.wanted] if fit else None
        picked: list[str] = []
        for wanted in self.wanted:
            fitting = [output.name for output in outputs if output.name not in picked and wanted.fits(output)]
            if len(fitting) != 1:
                return None
            picked += fitting
        return picked


def recognize_layout(outputs: Sequence[TensorSpec], input_hw: tuple[int, int]) -> str | None:
    """The name of the layout in `LAYOUTS` that a file's outputs have; None when they fit none, or more than one.

    Args:
        outputs: of the file, best with the shapes of a run.
        input_hw: (H, W) of its input.
    """
    shapes = {output.name: output.shape for output in outputs}
    if shapes.keys() >= {"logits", "pred_boxes"}:
        return "detr-focal"
    if shapes.keys() >= {"labels", "boxes", "scores"}:
        return "detr-deploy"
    if shapes.keys() >= {"dets", "labels"}:
        if shapes["dets"][-1] == 4 and len(shapes["labels"]) == 3:
            return "rf-detr"
        return "suppressed" if LAYOUTS["suppressed"].pick(outputs) and len(shapes["labels"]) == 2 else None
    if len(outputs) != 1 or len(outputs[0].shape) != 3 or outputs[0].shape[1] == outputs[0].shape[2]:
        return None
    _, first, second = outputs[0].shape
    cells = len(_grid(input_hw)[1])
    if cells in (first, second):
        return "yolox" if first == cells else "yolov8"
    if second == 6 and first is not None:
        return "yolo-nms"
    if None in (first, second):  # the number of cells is free, that of the classes is not
        return "yolox" if first is None else "yolov8"
    return None


def check_meaning(layout: str, decoded: DecodedBatch, input_hw: tuple[int, int]) -> None:
    """Raise `ConfigError` for boxes and scores of a first run that cannot be what the layout says."""
    score = decoded.score[np.isfinite(decoded.score)]
    if score.size and not (score.min() > -_ROUNDING and score.max() < 1 + _ROUNDING):
        raise ConfigError(
            f"layout {layout} expects scores from 0 to 1, got {score.min():.3g} to {score.max():.3g}: name another "
            "layout"
        )
    reach = np.abs(decoded.boxes_xyxy[np.isfinite(decoded.boxes_xyxy)]).max(initial=0) / max(input_hw)
    if 0 < reach < 2 / max(input_hw) or reach > _FAR:
        raise ConfigError(
            f"layout {layout} finds boxes that reach {reach:.3g} times the input's longer side: fractions where pixels "
            "belong, or pixels where fractions belong; name another layout"
        )


def _decode_focal(outputs: Sequence[NDArray[Any]], person: int, input_hw: tuple[int, int]) -> DecodedBatch:
    boxes, logits = outputs
    logit = np.clip(_of_class(logits, person), -500, 500)  # beyond it overflows, with a warning
    return DecodedBatch(_from_fractions(boxes, input_hw), 1 / (1 + np.exp(-logit)))


def _decode_softmax(outputs: Sequence[NDArray[Any]], person: int, input_hw: tuple[int, int]) -> DecodedBatch:
    boxes, logits = outputs
    raised = np.exp(logits.astype(np.float64) - logits.max(-1, keepdims=True))
    probability = raised / raised.sum(-1, keepdims=True)
    return DecodedBatch(_from_fractions(boxes, input_hw), _of_class(probability[..., :-1], person))


def _decode_deploy(outputs: Sequence[NDArray[Any]], person: int, input_hw: tuple[int, int]) -> DecodedBatch:
    """Boxes come in the size that the file was told, which is 1 x 1."""
    labels, boxes, score = outputs
    _expect(boxes.ndim == 3 and boxes.shape[2] == 4, "boxes (B, Q, 4)", boxes)
    height, width = input_hw
    return DecodedBatch(boxes * np.array([width, height] * 2, dtype=np.float64), _if_person(score, labels, person))


def _decode_suppressed(outputs: Sequence[NDArray[Any]], person: int, _: tuple[int, int]) -> DecodedBatch:
    detections, labels = outputs
    _expect(detections.ndim == 3 and detections.shape[2] == 5, "boxes and score (B, N, 5)", detections)
    return DecodedBatch(detections[..., :4].astype(np.float64), _if_person(detections[..., 4], labels, person))


def _decode_yolox(outputs: Sequence[NDArray[Any]], person: int, input_hw: tuple[int, int]) -> DecodedBatch:
    cells = outputs[0].astype(np.float64)
    corner_xy, stride = _grid(input_hw)
    expected = f"one row per cell of strides 8, 16 and 32, (B, {len(stride)}, 5 + C)"
    _expect(cells.shape[1] == len(stride), expected, cells)
    if np.abs(cells[..., :2]).max(initial=0) > 0.5 * min(input_hw):
        raise ConfigError(
            f"layout yolox expects offsets from its cells, got values up to {np.abs(cells[..., :2]).max():.0f}, which "
            "are pixels: layout=yolox-decoded"
        )
    cells[..., :2] = (cells[..., :2] + corner_xy) * stride
    with np.errstate(over="ignore"):  # an infinite box is dropped
        cells[..., 2:4] = np.exp(cells[..., 2:4]) * stride
    return _decode_yolox_pixels([cells], person, input_hw)


def _decode_yolox_pixels(outputs: Sequence[NDArray[Any]], person: int, _: tuple[int, int]) -> DecodedBatch:
    rows = outputs[0].astype(np.float64)
    return DecodedBatch(_corners(rows[..., :4]), rows[..., 4] * _of_class(rows[..., 5:], person))


def _decode_yolo_nms(outputs: Sequence[NDArray[Any]], person: int, _: tuple[int, int]) -> DecodedBatch:
    rows = outputs[0]
    _expect(rows.shape[2] == 6, "corners, score and class (B, N, 6)", rows)
    return DecodedBatch(rows[..., :4].astype(np.float64), _if_person(rows[..., 4], rows[..., 5], person))


def _decode_yolov8(outputs: Sequence[NDArray[Any]], person: int, _: tuple[int, int]) -> DecodedBatch:
    _expect(outputs[0].shape[2] > outputs[0].shape[1], "a column per cell (B, 4 + C, A)", outputs[0])
    rows = outputs[0].astype(np.float64).transpose(0, 2, 1)  # (B, A, 4 + C)
    return DecodedBatch(_corners(rows[..., :4]), _of_class(rows[..., 4:], person))


def _of_class(scores: NDArray[Any], person: int) -> FloatArray:
    """(B, N, C) -> (B, N) of class ``person``."""
    if person >= scores.shape[2]:
        raise ConfigError(f"person must be the index of one of its {scores.shape[2]} classes, from 0, got {person}")
    return scores[..., person].astype(np.float64)


def _if_person(score: NDArray[Any], labels: NDArray[Any], person: int) -> FloatArray:
    return np.where(labels == person, score.astype(np.float64), np.nan)


def _from_fractions(boxes: NDArray[Any], input_hw: tuple[int, int]) -> FloatArray:
    """(B, N, 4) center, width, height as fractions of the input -> left, top, right, bottom in its pixels."""
    _expect(boxes.ndim == 3 and boxes.shape[2] == 4, "boxes (B, Q, 4)", boxes)
    height, width = input_hw
    return _corners(boxes * np.array([width, height] * 2, dtype=np.float64))


def _corners(boxes_cxcywh: FloatArray) -> FloatArray:
    center, half = boxes_cxcywh[..., :2], boxes_cxcywh[..., 2:] / 2
    return np.concatenate([center - half, center + half], axis=-1)


def _grid(input_hw: tuple[int, int]) -> tuple[FloatArray, FloatArray]:
    """(A, 2) left and top of every cell in cells, row by row and stride by stride, and (A, 1) its stride in pixels."""
    counts = [[-(-side // stride) for side in input_hw] for stride in YOLO_STRIDES]
    corners = [np.indices(count, dtype=np.float64)[::-1].reshape(2, -1).T for count in counts]
    strides = np.repeat(np.array(YOLO_STRIDES, dtype=np.float64), [len(corner) for corner in corners])
    return np.concatenate(corners), strides[:, None]


def _expect(holds: bool, what: str, got: NDArray[Any]) -> None:
    if not holds:
        raise ConfigError(f"expected {what}, got {got.shape}")


_DETR = (Wanted("pred_boxes", 3, 4), Wanted("logits", 3))
_ONE = (Wanted("output", 3),)

LAYOUTS: dict[str, Layout] = {
    "detr-focal": Layout(
        "logits (B, Q, C), pred_boxes (B, Q, 4)", _DETR, _decode_focal, "stretch", "rgb", "unit", 0.5
    ),
    "detr-softmax": Layout(
        'logits (B, Q, C + 1) with "no object" last, pred_boxes (B, Q, 4)',
        _DETR, _decode_softmax, "stretch", "rgb", "imagenet", 0.5, person=1,  # COCO's category ids, as DETR has them
    ),
    "detr-deploy": Layout(
        "labels (B, Q), boxes (B, Q, 4), scores (B, Q)",
        (Wanted("labels", 2), Wanted("boxes", 3, 4), Wanted("scores", 2)),
        _decode_deploy, "stretch", "rgb", "unit", 0.5,
    ),
    "rf-detr": Layout(
        "dets (B, Q, 4), labels (B, Q, C)",
        (Wanted("dets", 3, 4), Wanted("labels", 3)),
        _decode_focal, "stretch", "rgb", "imagenet", 0.5, person=1,  # COCO's category ids
    ),
    "yolox": Layout("one output (B, A, 5 + C)", _ONE, _decode_yolox, "letterbox", "bgr", "raw", 0.3),
    "yolox-decoded": Layout(
        "one output (B, A, 5 + C) in pixels", _ONE, _decode_yolox_pixels, "letterbox", "bgr", "raw", 0.3
    ),
    "yolov8": Layout("one output (B, 4 + C, A)", _ONE, _decode_yolov8, "letterbox-center", "rgb", "unit", 0.3),
    "yolo-nms": Layout("one output (B, N, 6)", _ONE, _decode_yolo_nms, "letterbox-center", "rgb", "unit", 0.3),
    "suppressed": Layout(
        "dets (B, N, 5), labels (B, N)",
        (Wanted("dets", 3, 5), Wanted("labels", 2)),
        _decode_suppressed, "letterbox", "bgr", "raw", 0.3,
    ),
}  # fmt: skip
