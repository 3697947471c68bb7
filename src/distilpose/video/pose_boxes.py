"""Boxes that belong to poses: what keypoints span, where a person's box usually lies around them, poses found twice."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from distilpose.geometry import CROP_PADDING
from distilpose.geometry.oks import oks
from distilpose.inference.decoding import KEYPOINT_SCORE_THRESHOLD
from distilpose.inference.result import PoseResult
from distilpose.types import FloatArray

# From the outermost keypoints to the edges of the person box (left, top, right, bottom; left and right averaged), in
# longer sides of the keypoints' extent: median, 5th and 95th percentile over the 4,624 people with at least five
# labeled keypoints among 5,202 of COCO val2017 (the labels of our training crops; none is in coco_val_dev).
BOX_MARGIN = np.array([0.08, 0.14, 0.08, 0.09])
BOX_MARGIN_LOW = np.array([0.0, 0.05, 0.0, 0.0])
BOX_MARGIN_HIGH = np.array([0.28, 0.44, 0.28, 0.46])
# Shipped student on 500 people of coco_val_train_crops: of two crops of one person, box edges 6 % apart, 96 % give
# poses more alike than this, 79 % more alike than the 0.9 of `oks.oks_nms`.
DUPLICATE_OKS = 0.7
_WEIGHT_FLOOR = 0.05  # a keypoint of score 0 still says a little, and no pose is left without weight
MIN_KEYPOINTS = 3  # with fewer confident ones, all keypoints span the box


def find_duplicates(result: PoseResult, threshold: float = DUPLICATE_OKS) -> NDArray[np.bool_]:
    """Find the poses that are the same person as an earlier row, such as after two tracks have run onto one.

    Poses more similar than ``threshold`` (OKS at the area of the smaller padded box) are one person.

    Returns:
        (N,) True for the rows to leave out before `PoseTracker.update`. Of each group the first stays:
        `PoseTracker.expected` names the longest known person first, a detector the surest.
    """
    area = box_area(result.box) * CROP_PADDING**2
    alike = oks(result.xy, result.xy, np.minimum(area[:, None], area[None]), result.skeleton.oks_sigmas)
    double = np.zeros(len(result), dtype=np.bool_)
    for row in range(1, len(result)):
        double[row] = (alike[row, :row][~double[:row]] > threshold).any()
    return double


def keypoint_weight(result: PoseResult) -> FloatArray:
    """(N, K) how far each keypoint is to be believed, in (0, 1]: its score, 1 from a model without one."""
    score = result.score
    return np.ones(result.xy.shape[:2]) if score is None else np.maximum(score, _WEIGHT_FLOOR)


def keypoint_extent(result: PoseResult) -> FloatArray:
    """(N, 4) smallest boxes around the confident keypoints, in image pixels as x1, y1, x2, y2."""
    return extent_of(result.xy, keypoint_weight(result))


def boxes_around(result: PoseResult) -> FloatArray:
    """(N, 4) person boxes, in image pixels, as they usually lie around such poses; never without area."""
    return grown(keypoint_extent(result), BOX_MARGIN)


def extent_of(xy: FloatArray, weight: FloatArray) -> FloatArray:
    """(N, 4) smallest boxes around the keypoints (N, K, 2) whose weight (N, K) is that of a confident one."""
    confident = weight >= KEYPOINT_SCORE_THRESHOLD
    confident |= (confident.sum(1) < MIN_KEYPOINTS)[:, None]
    low = np.where(confident[..., None], xy, np.inf).min(1)
    high = np.where(confident[..., None], xy, -np.inf).max(1)
    return np.concatenate([low, high], axis=1)


def grown(extent_xyxy: FloatArray, margin: FloatArray) -> FloatArray:
    """(N, 4) boxes whose edges lie margin (left, top, right, bottom) further out, in longer sides of each."""
    longer = np.maximum((extent_xyxy[:, 2:] - extent_xyxy[:, :2]).max(1), 1.0)  # a pose in one point has no area
    return np.asarray(extent_xyxy + longer[:, None] * margin * [-1, -1, 1, 1])


def box_area(boxes_xyxy: FloatArray) -> FloatArray:
    """(N,) areas in square pixels, at least 1."""
    return np.asarray(np.maximum((boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]).prod(1), 1.0))
