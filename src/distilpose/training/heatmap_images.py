"""What a training looks like: crops beside the heatmaps of teacher and student, for TensorBoard."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from distilpose.inference.result import PoseResult
from distilpose.skeletons import Skeleton
from distilpose.training.step import BatchView
from distilpose.types import Float32Array, ImageArray

NUM_CROPS = 4  # the same ones each time, so that heatmaps can be watched growing
TAG = "heatmaps"
_MIN_HEIGHT = 256  # of a crop in the image; smaller ones are enlarged
_TITLE_HEIGHT = 24
_DIMMED = 0.4  # brightness of a crop under a heatmap


def draw_view(crops: ImageArray, view: BatchView, skeleton: Skeleton) -> ImageArray:
    """(N, H, W, 3) uint8 RGB crops and what was made of them -> one (rows, columns, 3) uint8 RGB image.

    One row per crop: the crop with its keypoints, then one titled column per set of heatmaps laid over it, the highest
    value over all keypoints, clipped to [0, 1]; cell c of W lies at c / W of the crop. Small crops are enlarged to at
    least 256 rows.
    """
    height, width = crops.shape[1:3]
    zoom = -(-_MIN_HEIGHT // height)
    size_hw = (zoom * height, zoom * width)
    large = [_stretch(crop, size_hw) for crop in crops]
    columns = [_column("crop", large)]
    if view.xy_norm is not None:
        xy_large = view.xy_norm.float().cpu().numpy() * np.array(size_hw[::-1], dtype=np.float32)
        people = [PoseResult.from_keypoints(xy[None], skeleton) for xy in xy_large]
        columns = [_column("keypoints", [each.draw(crop) for each, crop in zip(people, large, strict=True)])]
    for title, tensor in view.heatmaps.items():
        maps = tensor.float().cpu().numpy()
        overlaid = [_overlay(crop, _stretch(m.max(0), size_hw)) for crop, m in zip(large, maps, strict=True)]
        columns.append(_column(title, overlaid))
    return np.concatenate(columns, axis=1)


def _stretch(plane: NDArray[Any], size_hw: tuple[int, int]) -> NDArray[Any]:
    """Enlarge so that cell c of W lands at c / W of the new width; half-pixel rules would shift a heatmap."""
    height, width = size_hw
    matrix = np.array([[width / plane.shape[1], 0, 0], [0, height / plane.shape[0], 0]])
    return cv2.warpAffine(plane, matrix, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def _overlay(crop: ImageArray, heatmap: Float32Array) -> ImageArray:
    heat = np.clip(heatmap, 0, 1)
    colors = cv2.applyColorMap((255 * heat).astype(np.uint8), cv2.COLORMAP_INFERNO)[..., ::-1]  # OpenCV's are BGR
    mixed = heat[..., None] * colors + (1 - heat[..., None]) * _DIMMED * crop
    return np.rint(mixed).astype(np.uint8)


def _column(title: str, rows: list[ImageArray]) -> ImageArray:
    strip = np.zeros((_TITLE_HEIGHT, rows[0].shape[1], 3), dtype=np.uint8)
    cv2.putText(strip, title, (6, 17), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (255, 255, 255), 1, cv2.LINE_AA)
    return np.concatenate([strip, *rows])
