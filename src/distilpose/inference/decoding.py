"""Model output -> keypoints in image pixels: flip-test average, heatmap decoding, crop to image, person score."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple, get_args

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from distilpose.errors import ConfigError
from distilpose.geometry import CropTransform
from distilpose.models.outputs import HeatmapOutput, PoseOutput
from distilpose.types import Float32Array, FloatArray

if TYPE_CHECKING:
    from distilpose.backends.base import InferenceBackend, NumpyOutput
    from distilpose.data.preprocess import NetworkInput

FlipTest = Literal["off", "aligned", "reference"]

DARK_KERNEL = 11  # cells; MMPose's setting for heatmaps drawn with sigma 2, which the released teachers use
KEYPOINT_SCORE_THRESHOLD = 0.2  # DistilPose and the COCO top-down baselines


class Keypoints(NamedTuple):
    """What a model says of N crops, whichever kind of model it is."""

    xy_norm: FloatArray  # (N, K, 2) as fractions of the crop; heatmap peaks may lie a little outside [0, 1]
    sigma: FloatArray | None  # (N, K, 2) spread along x and y in heatmap cells; None from a model without sigma
    raw_score: FloatArray | None  # (N, K) unbounded confidence; None from a model without score

    def rows(self, start: int, stop: int) -> Keypoints:
        """Crops ``start`` to ``stop``."""
        return Keypoints(*(None if values is None else values[start:stop] for values in self))  # type: ignore[arg-type]


def join_keypoints(parts: Sequence[Keypoints]) -> Keypoints:
    """One after the other, at least one; all from one model."""
    xy_norm, sigmas, scores = zip(*parts, strict=True)
    return Keypoints(
        np.concatenate(xy_norm),
        None if sigmas[0] is None else np.concatenate(sigmas),
        None if scores[0] is None else np.concatenate(scores),
    )


def check_flip_test(flip_test: str) -> None:
    """Raise `ConfigError` for an unknown flip-test mode."""
    if flip_test not in get_args(FlipTest):
        raise ConfigError(f"flip_test must be one of {', '.join(get_args(FlipTest))}, got {flip_test!r}")


def run_with_flip(backend: InferenceBackend, images: NetworkInput, flip_test: FlipTest) -> NumpyOutput:
    """Run a model, and unless "off" average with its answer to the mirrored crops.

    ``"aligned"`` puts the mirrored answer back where it belongs: left and right change places in coordinates,
    sigmas and scores, and x goes to ``1 - x - 1 / W``, since pixel p of W lands on ``W - 1 - p``.
    ``"reference"`` does what the released code does, to reproduce published numbers: x goes to ``1 - x`` (every
    averaged x is half a pixel too large) and scores are averaged without changing sides.
    Heatmaps are treated alike in both modes: mirrored, sides changed, moved right by one cell, averaged.
    At 4 pixels per cell the exact shift is 3/4 of a cell; the whole cell is the baselines' rule.

    Returns:
        The model's own output type for (B, 3, H, W) crops; an average has no tokens.
    """
    output = backend(images)
    if flip_test == "off":
        return output
    mirrored = backend(images[..., ::-1].copy())
    flip_index = backend.description.skeleton.flip_index
    if isinstance(output, HeatmapOutput):
        assert isinstance(mirrored, HeatmapOutput)
        heatmaps = mirrored.heatmaps[:, flip_index, :, ::-1].copy()
        if not backend.description.udp:  # where mirrored cells lie on cells
            heatmaps[..., 1:] = heatmaps[..., :-1].copy()
        return HeatmapOutput(_mean(output.heatmaps, heatmaps))
    assert isinstance(mirrored, PoseOutput)
    xy_norm = mirrored.xy_norm[:, flip_index].copy()
    xy_norm[..., 0] = 1 - (flip_test == "aligned") / images.shape[-1] - xy_norm[..., 0]
    sides = flip_index if flip_test == "aligned" else slice(None)
    sigma, score = (
        None if a is None or b is None else _mean(a, b[:, sides])
        for a, b in ((output.sigma, mirrored.sigma), (output.score, mirrored.score))
    )
    return PoseOutput(_mean(output.xy_norm, xy_norm), sigma, score)


def _mean(a: Float32Array, b: Float32Array) -> Float32Array:
    return np.asarray((a + b) / 2, dtype=np.float32)


def decode(output: NumpyOutput, *, udp: bool = False) -> Keypoints:
    """Read keypoints off either kind of output.

    A regression output already is what it says. A heatmap is read by DARK (`dark_peaks`); its score is the height
    of the peak, its sigma unknown. Cell c of W lies at ``c / W`` of the crop: heatmaps are drawn with
    cell = pixel / 4, and pixel p lies at ``p / (4 W)``. With ``udp`` cells are counted from center to center: cell c
    lies at ``c / (W - 1)``; see `ModelDescription`.
    """
    if isinstance(output, PoseOutput):
        return Keypoints(*(None if part is None else _float64(part) for part in output[:3]))  # type: ignore[arg-type]
    height, width = output.heatmaps.shape[-2:]
    xy_cell, peak = dark_peaks(output.heatmaps)
    return Keypoints(xy_cell / (np.array([width, height]) - udp), None, peak)


def dark_peaks(heatmaps: Float32Array, kernel: int = DARK_KERNEL) -> tuple[FloatArray, FloatArray]:
    """Find the peak of each heatmap to a fraction of a cell.

    The heatmap is smoothed, and one Newton step on its logarithm leads from the highest cell to the maximum of
    the Gaussian through its neighbors. No step is taken within two cells of the border. As in the paper nothing
    bounds the step: on a heatmap without a clear peak (untrained weights) it may lead far out of the crop.

    Args:
        heatmaps: (B, K, H, W).
        kernel: width of the Gaussian blur in cells, odd.

    Returns:
        (B, K, 2) peaks (x, y) in cells and (B, K) heights of the peaks before smoothing.

    Source:
        "Distribution-Aware Coordinate Representation for Human Pose Estimation" (arXiv:1910.06278). Unlike MMPose
        0.22, a heatmap without a positive value is read at its highest cell, not at cell (-1, -1).
    """
    batch, count, height, width = heatmaps.shape
    flat = heatmaps.reshape(batch, count, -1)
    y, x = np.divmod(flat.argmax(-1), width)
    log_maps = np.log(np.maximum(_blur(heatmaps, kernel), 1e-10))
    inside = (x >= 2) & (x <= width - 3) & (y >= 2) & (y <= height - 3)
    step = np.zeros((batch, count, 2))
    step[inside] = _newton_step(log_maps[inside], x[inside], y[inside])
    return np.stack([x, y], axis=-1) + step, _float64(flat.max(-1))


def _blur(heatmaps: Float32Array, kernel: int) -> Float32Array:
    """Gaussian blur, zero outside; each heatmap keeps the height of its maximum."""
    channels_last = [np.ascontiguousarray(np.moveaxis(maps, 0, -1)) for maps in heatmaps]
    # sigma 0 lets OpenCV derive it from the kernel: 0.3 ((kernel - 1) / 2 - 1) + 0.8, which is 2 cells for 11
    blurred = [cv2.GaussianBlur(maps, (kernel, kernel), 0, borderType=cv2.BORDER_CONSTANT) for maps in channels_last]
    result = np.moveaxis(np.stack(blurred).reshape(-1, *heatmaps.shape[-2:], heatmaps.shape[1]), -1, 1)
    highest = result.max((-2, -1), keepdims=True)
    scale = np.divide(heatmaps.max((-2, -1), keepdims=True), highest, out=np.ones_like(highest), where=highest != 0)
    return np.asarray(result * scale, dtype=np.float32)


def _newton_step(maps: Float32Array, x: NDArray[np.intp], y: NDArray[np.intp]) -> FloatArray:
    """(M, H, W) maps -> (M, 2) step from cell (x, y) to the top of the parabola there; 0 where there is none."""
    rows = np.arange(len(maps))

    def at(dx: int, dy: int) -> FloatArray:
        return _float64(maps[rows, y + dy, x + dx])

    gradient_x, gradient_y = (at(1, 0) - at(-1, 0)) / 2, (at(0, 1) - at(0, -1)) / 2
    hessian_xx = (at(2, 0) - 2 * at(0, 0) + at(-2, 0)) / 4
    hessian_yy = (at(0, 2) - 2 * at(0, 0) + at(0, -2)) / 4
    hessian_xy = (at(1, 1) - at(1, -1) - at(-1, 1) + at(-1, -1)) / 4
    determinant = hessian_xx * hessian_yy - hessian_xy**2
    step_x = hessian_xy * gradient_y - hessian_yy * gradient_x
    step_y = hessian_xy * gradient_x - hessian_xx * gradient_y
    step = np.stack([step_x, step_y], axis=-1)
    return np.divide(step, determinant[:, None], out=np.zeros_like(step), where=determinant[:, None] != 0)


def keypoints_to_image(
    keypoints: Keypoints, transforms: Sequence[CropTransform], heatmap_size_hw: tuple[int, int]
) -> tuple[FloatArray, FloatArray | None]:
    """Map the keypoints of N crops back into their images; ``heatmap_size_hw`` is the grid of sigma's cells.

    Returns:
        (N, K, 2) keypoints in image pixels, and (N, K, 2) sigma in image pixels along the crop's x and y, or None.
    """
    rows = [transform.norm_to_img(row) for transform, row in zip(transforms, keypoints.xy_norm, strict=True)]
    xy_img = np.array(rows).reshape(keypoints.xy_norm.shape)
    if keypoints.sigma is None:
        return xy_img, None
    box_wh = np.array([transform.box_wh for transform in transforms], dtype=np.float64).reshape(-1, 1, 2)
    return xy_img, keypoints.sigma * box_wh / np.array(heatmap_size_hw[::-1])


def pose_score(box_score: ArrayLike, raw_score: ArrayLike | None) -> FloatArray:
    """(N,) score of each person: box score x mean of its keypoint scores above 0.2; 0 where none is.

    Args:
        box_score: (N,) of the detector; 1 for ground-truth boxes.
        raw_score: (N, K) of the model. None, from a model without score, leaves the box score.

    Source:
        DistilPose and the COCO top-down baselines.
    """
    boxes = np.array(box_score, dtype=np.float64)
    if raw_score is None:
        return boxes
    scores = np.asarray(raw_score, dtype=np.float64)
    counted = scores > KEYPOINT_SCORE_THRESHOLD
    return np.asarray(boxes * (scores * counted).sum(-1) / np.maximum(1, counted.sum(-1)))


def _float64(values: ArrayLike) -> FloatArray:
    return np.asarray(values, dtype=np.float64)
