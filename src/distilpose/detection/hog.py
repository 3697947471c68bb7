"""Standing people by OpenCV's own histogram-of-gradients detector: nothing to download."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from distilpose.detection.filtering import keep_people
from distilpose.formats.boxes import PersonBoxes
from distilpose.types import FloatArray, ImageArray

HOG_THRESHOLD = 0.5  # the boundary that the classifier was trained to draw
HOG_NMS_IOU = 0.5  # windows lie densely around a person: 0.7 leaves several of one

_WINDOW_WH = (64, 128)
# The people it was trained on stand in the window's middle, 96 pixels high with 16 pixels of margin on all four sides.
_PERSON_HEIGHT, _MARGIN = 96, 16
_LONG_SIDE = (320, 800)  # an image is searched at a size within these: people are at least 96 pixels high in it
_STRIDE = (8, 8)
_SCALE_STEP = 1.05
_NEIGHBORS = 2  # OpenCV's default: a person is seen in more windows than so many, a chance likeness in fewer


class HogDetector:
    """Finds people who stand upright and are seen from head to foot.

    An image is searched with its longer side at 320 to 800 pixels, and a person must be 96 pixels high there: 96
    pixels in an image of 800 or less, an eighth of the longer side in a larger one. It misses people who sit,
    bend or lie, are cut by the edge or by something in front, or stand in a crowd, and it takes posts, trees and
    furniture for people. On the everyday photographs of coco_val_dev (120 images) it finds 16 % of the people at least
    100 pixels high and 14 % of all, and 31 % of its boxes are people (overlap of at least 0.5). It is meant for trying
    things out on people who walk or stand: take ``hf:`` or ``onnx:`` where people matter.

    ``box_score`` is the logistic function of the distance from the support vector machine's boundary,
    1 / (1 + exp(-distance)): 0.5 on the boundary, 0.62 at 0.5, 0.73 at 1, 0.88 at 2. It orders boxes and is no
    probability.

    Args:
        threshold: least score. Below 0.5 nothing more is found.
        nms_iou: of two boxes that overlap by more, the weaker one goes.

    Source:
        Dalal and Triggs, "Histograms of Oriented Gradients for Human Detection", CVPR 2005; the weights and the
        search through scales are OpenCV's.
    """

    def __init__(self, *, threshold: float = HOG_THRESHOLD, nms_iou: float = HOG_NMS_IOU) -> None:
        self._threshold = threshold
        self._nms_iou = nms_iou
        self._people = np.asarray(cv2.HOGDescriptor.getDefaultPeopleDetector(), dtype=np.float32)

    def __call__(self, images: Sequence[ImageArray]) -> list[PersonBoxes]:
        """(H, W, 3) uint8 RGB each, of any sizes -> for each N >= 0 boxes in its pixels, best score first."""
        return [self._find(image) for image in images]

    def _find(self, image: ImageArray) -> PersonBoxes:
        # A descriptor per call: OpenCV does not say that one may be shared by threads, and it costs microseconds.
        hog = cv2.HOGDescriptor()
        hog.setSVMDetector(self._people)
        searched, scale_xy = _resized(image)
        border_xy = _border(searched)
        left, top = border_xy
        framed = cv2.copyMakeBorder(searched, top, top, left, left, cv2.BORDER_REPLICATE)
        windows_xywh, distance = hog.detectMultiScale(
            framed, hitThreshold=0, winStride=_STRIDE, scale=_SCALE_STEP, groupThreshold=_NEIGHBORS
        )
        boxes_searched = _person_in_window(np.asarray(windows_xywh, dtype=np.float64).reshape(-1, 4))
        boxes_xyxy = (boxes_searched - [*border_xy, *border_xy]) / [*scale_xy, *scale_xy]
        score = 1 / (1 + np.exp(-np.asarray(distance, dtype=np.float64).reshape(-1)))
        return keep_people(boxes_xyxy, score, image.shape[:2], threshold=self._threshold, nms_iou=self._nms_iou)


def _resized(image: ImageArray) -> tuple[ImageArray, tuple[float, float]]:
    """The image at the size it is searched at, and its pixels per image pixel along x and y."""
    height, width = image.shape[:2]
    long_side = max(height, width)
    scale = min(max(long_side, _LONG_SIDE[0]), _LONG_SIDE[1]) / long_side
    size_wh = (max(1, round(width * scale)), max(1, round(height * scale)))
    if size_wh == (width, height):
        return image, (1.0, 1.0)
    interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    resized = cv2.resize(image, size_wh, interpolation=interpolation)
    return np.asarray(resized, dtype=np.uint8), (size_wh[0] / width, size_wh[1] / height)


def _border(image: ImageArray) -> tuple[int, int]:
    """Pixels to add left and right, top and bottom: a person from edge to edge needs a margin, the window must fit."""
    height, width = image.shape[:2]
    margin = -(-height * _MARGIN // _PERSON_HEIGHT)
    missing = (_WINDOW_WH[0] - width, _WINDOW_WH[1] - height)
    return max(margin, -(-missing[0] // 2)), max(margin, -(-missing[1] // 2))


def _person_in_window(windows_xywh: FloatArray) -> FloatArray:
    """(N, 4) windows with their margin -> (N, 4) left, top, right, bottom of the person inside."""
    top_left, size_wh = windows_xywh[:, :2], windows_xywh[:, 2:]
    margin = size_wh * _MARGIN / _WINDOW_WH
    return np.concatenate([top_left + margin, top_left + size_wh - margin], axis=1)
