"""Object keypoint similarity (OKS): how alike two poses are, from 0 to 1, and the suppression of near-copies by it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from distilpose.types import FloatArray

OKS_NMS_THRESHOLD = 0.9  # the COCO top-down baselines and DistilPose


def keypoint_similarity(xy_a: ArrayLike, xy_b: ArrayLike, area: ArrayLike, sigmas: Sequence[float]) -> FloatArray:
    """How near a keypoint lies to another for a person of that size: the terms of which OKS is the mean.

    Args:
        xy_a: (..., K, 2) keypoints in image pixels; all leading axes broadcast.
        xy_b: (..., K, 2) likewise.
        area: (...) squared size of the person in pixels.
        sigmas: K OKS constants (`Skeleton.oks_sigmas`).

    Returns:
        (..., K) similarity in [0, 1]; NaN where a keypoint is.

    Source:
        COCO keypoint evaluation, https://cocodataset.org/#keypoints-eval: ``exp(-d^2 / (2 area (2 sigma)^2))``.
    """
    a, b = np.asarray(xy_a, dtype=np.float64), np.asarray(xy_b, dtype=np.float64)
    squared_distance = ((a - b) ** 2).sum(-1)
    variance = (2 * np.asarray(sigmas, dtype=np.float64)) ** 2
    area_k = np.asarray(area, dtype=np.float64)[..., None] + np.spacing(1)
    return np.asarray(np.exp(-squared_distance / (2 * area_k * variance)))


def oks(
    xy_a: ArrayLike,
    xy_b: ArrayLike,
    area: ArrayLike,
    sigmas: Sequence[float],
    labeled_a: NDArray[np.bool_] | None = None,
) -> FloatArray:
    """Compare every pose of one list with every pose of another.

    Args:
        xy_a: (N, K, 2) keypoints in image pixels.
        xy_b: (M, K, 2) likewise.
        area: squared size of the person in pixels; any shape that broadcasts to (N, M), such as (N, 1).
        sigmas: K OKS constants (`Skeleton.oks_sigmas`).
        labeled_a: (N, K) True where ``xy_a`` is labeled; only these keypoints count. All count when None.

    Returns:
        (N, M) similarity in [0, 1], the mean of `keypoint_similarity`; 0 for a pose without labeled keypoints.
    """
    a, b = np.asarray(xy_a, dtype=np.float64), np.asarray(xy_b, dtype=np.float64)
    area_nm = np.broadcast_to(np.asarray(area, dtype=np.float64), (len(a), len(b)))
    similarity = keypoint_similarity(a[:, None], b[None], area_nm, sigmas)
    if labeled_a is None:
        return np.asarray(similarity.mean(-1))
    count = np.maximum(1, labeled_a.sum(-1))
    return np.asarray((similarity * labeled_a[:, None]).sum(-1) / count[:, None])


def oks_nms(
    xy: ArrayLike,
    pose_score: ArrayLike,
    area: ArrayLike,
    sigmas: Sequence[float],
    threshold: float = OKS_NMS_THRESHOLD,
) -> NDArray[np.intp]:
    """Keep the best-scored of each group of near-identical poses in one image.

    Args:
        xy: (N, K, 2) keypoints in image pixels.
        pose_score: (N,) score of each person; of equal scores the first comes first.
        area: (N,) squared size of each person in pixels (of the padded crop box, as in the COCO baselines); a pair is
            compared at its mean.
        sigmas: K OKS constants.
        threshold: a pose more similar than this to a better one is dropped.

    Returns:
        Indices of the kept poses, best score first.
    """
    areas = np.asarray(area, dtype=np.float64)
    similarity = oks(xy, xy, (areas[:, None] + areas[None]) / 2, sigmas)
    kept: list[int] = []
    for index in np.argsort(-np.asarray(pose_score, dtype=np.float64), kind="stable"):
        if not (similarity[index, kept] > threshold).any():
            kept.append(int(index))
    return np.array(kept, dtype=np.intp)
