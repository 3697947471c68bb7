"""The person detector inside the package: NanoDet-g, nothing to download."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from pathlib import Path

import cv2
import numpy as np

from distilpose.backends.exported import open_onnx_session
from distilpose.detection.filtering import keep_people
from distilpose.errors import ConfigError
from distilpose.formats.boxes import PersonBoxes
from distilpose.options import check_count
from distilpose.types import FloatArray, ImageArray

WEIGHTS = Path(__file__).parents[1] / "weights" / "nanodet_g_person.onnx"
NANODET_THRESHOLD = 0.35  # of the largest F1 on coco_val_dev, see `benchmarks/detectors.py`
NANODET_NMS_IOU = 0.55
INPUT_SIZE = 416  # that it was trained at; accuracy falls at smaller and at larger ones

SECOND_LOOK = 0.625  # of the size: where nobody is found, whoever fills the image may be at this one
CELL = 32  # pixels; the sides of the network's input are multiples
_TILE_OVERLAP = 0.25  # of a tile's side, at least
_EDGE = 0.01  # of a tile's side: a box that comes so near to an inner edge is taken for cut off
_LARGEST = 0.9  # of a tile's side: whoever is larger is found in the whole image, and cut off by most tiles


class NanodetDetector:
    """Finds people with NanoDet-g, trained on COCO, in ONNX Runtime on the CPU. Threads may call it at the same time.

    An image is searched with its longer side at ``size`` pixels. A person must be about 20 pixels high there; a larger
    ``size`` finds smaller people and fewer of the large ones, ``tile`` finds both. An image in which nobody is found is
    searched once more at a smaller size, for close-ups.
    Images are run one by one: on a CPU a batch is no faster.

    Args:
        threshold: least score of a person who counts as found.
        weak_threshold: least score of the boxes that are given; ``threshold`` when None.
        nms_iou: of two boxes that overlap by more, the weaker one goes.
        size: longer side of the network's input in pixels, a multiple of 32.
        tile: also search overlapping square tiles with sides of so many image pixels, for large images with small
            people. The time grows with the number of tiles.
        threads: of one run; see `default_threads` when None.

    Raises:
        ConfigError: onnxruntime is not installed, or ``size`` or ``tile`` is out of range.

    Source:
        NanoDet, https://github.com/RangiLyu/nanodet (Apache-2.0), variant ``nanodet-g``. ``tools/convert_nanodet.py``
        made the file and says what it changed.
    """

    def __init__(
        self,
        *,
        threshold: float = NANODET_THRESHOLD,
        weak_threshold: float | None = None,
        nms_iou: float = NANODET_NMS_IOU,
        size: int = INPUT_SIZE,
        tile: int | None = None,
        threads: int | None = None,
    ) -> None:
        if check_count(size, "size", CELL) % CELL:
            raise ConfigError(f"size must be a multiple of {CELL} pixels, got {size}: {INPUT_SIZE} suits most images")
        if tile is not None:
            check_count(tile, "tile", CELL)
        self._threshold = threshold
        self._least = threshold if weak_threshold is None else weak_threshold
        self._nms_iou = nms_iou
        self._size = size
        self._tile = tile
        self._session = open_onnx_session(WEIGHTS, threads)

    def __call__(self, images: Sequence[ImageArray]) -> list[PersonBoxes]:
        """(H, W, 3) uint8 RGB each, of any sizes -> for each N >= 0 boxes in its pixels, best score first."""
        return [self._find(image) for image in images]

    def _find(self, image: ImageArray) -> PersonBoxes:
        found = [self._search(image, self._size)]
        if not (found[0][1] >= self._threshold).any():
            found.append(self._search(image, max(1, round(SECOND_LOOK * self._size / CELL)) * CELL))
        if self._tile is not None:
            found += [self._search_tile(image, left_top) for left_top in place_tiles(image.shape[:2], self._tile)]
        boxes, scores = (np.concatenate(parts) for parts in zip(*found, strict=True))
        return keep_people(boxes, scores, image.shape[:2], threshold=self._least, nms_iou=self._nms_iou)

    def _search(self, image: ImageArray, size: int) -> tuple[FloatArray, FloatArray]:
        """Boxes (N, 4) in the image's pixels and scores (N,) from the least score on, overlapping ones included."""
        pixels, scale_xy = fit_image(image, size)
        boxes, scores = self._session.run(["boxes", "scores"], {"images": pixels[None]})
        likely = scores[0] >= self._least  # a few out of thousands of cells
        return boxes[0, likely].astype(np.float64) / [*scale_xy, *scale_xy], scores[0, likely].astype(np.float64)

    def _search_tile(self, image: ImageArray, left_top: tuple[int, int]) -> tuple[FloatArray, FloatArray]:
        """Likewise in one tile, without people whom an edge of the tile inside the image may have cut."""
        assert self._tile is not None
        tile = image[left_top[1] : left_top[1] + self._tile, left_top[0] : left_top[0] + self._tile]
        boxes, scores = self._search(tile, self._size)
        boxes += [*left_top, *left_top]
        low, margin = np.array(left_top), _EDGE * self._tile
        high = low + tile.shape[1::-1]
        whole = (boxes[:, :2] >= np.where(low > 0, low + margin, -np.inf)).all(1)
        whole &= (boxes[:, 2:] <= np.where(high < image.shape[1::-1], high - margin, np.inf)).all(1)
        whole &= (boxes[:, 2:] - boxes[:, :2] <= _LARGEST * self._tile).all(1)
        return boxes[whole], scores[whole]


def fit_image(image: ImageArray, size: int) -> tuple[ImageArray, tuple[float, float]]:
    """Scale an image (H, W, 3) to fit ``size`` and pad it with black, right and below, to whole cells of 32 pixels.

    Returns:
        (h, w, 3) uint8, h and w multiples of 32 and at most ``size``, and its pixels per image pixel along x and y.
    """
    height, width = image.shape[:2]
    scale = size / max(height, width)
    inner_wh = (max(1, round(width * scale)), max(1, round(height * scale)))
    # Linear interpolation skips pixels when it shrinks by more than half.
    interpolation = cv2.INTER_AREA if scale < 0.5 else cv2.INTER_LINEAR
    resized = cv2.resize(image, inner_wh, interpolation=interpolation)
    padded = cv2.copyMakeBorder(resized, 0, -inner_wh[1] % CELL, 0, -inner_wh[0] % CELL, cv2.BORDER_CONSTANT)
    return np.asarray(padded, dtype=np.uint8), (inner_wh[0] / width, inner_wh[1] / height)


def place_tiles(image_hw: tuple[int, int], tile: int) -> list[tuple[int, int]]:
    """Left top corners (x, y) of tiles that cover an image and overlap by a quarter or more; none if one would do."""
    if max(image_hw) <= tile:
        return []
    step = tile * (1 - _TILE_OVERLAP)
    spans = [max(0, length - tile) for length in image_hw]
    rows, columns = (np.rint(np.linspace(0, span, 1 + ceil(span / step))).astype(int).tolist() for span in spans)
    return [(left, top) for top in rows for left in columns]
