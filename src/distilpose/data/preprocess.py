"""Image and crop transforms -> the arrays a network reads. Training, evaluation and prediction all pass here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from distilpose.errors import InputError
from distilpose.geometry import CropTransform
from distilpose.types import Float32Array, FloatArray, ImageArray

# https://github.com/pytorch/vision: ImageNet statistics of RGB in 0..1
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

_LONGEST_SIDE = 32_766  # pixels that cv2.warpAffine reads

NetworkInput = Float32Array | ImageArray


@dataclass(frozen=True)
class Normalization:
    """Mean and standard deviation per RGB channel, in units of pixel value / 255."""

    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD


def crop_image(image: ImageArray, transform: CropTransform) -> ImageArray:
    """A crop of an (H, W, 3) uint8 image, bilinear, black outside -> (h, w, 3); an `InputError` if it cannot be cut."""
    height, width = transform.size_hw
    matrix = transform.matrix
    if max(image.shape[:2]) > _LONGEST_SIDE:
        image, matrix = _cut_out(image, transform)
    try:
        crop = cv2.warpAffine(image, matrix, (width, height), flags=cv2.INTER_LINEAR)
    except cv2.error as error:
        raise InputError(f"a crop of {transform} cannot be cut out of an image of {image.shape}: {error}") from error
    return np.asarray(crop, dtype=np.uint8)


def _cut_out(image: ImageArray, transform: CropTransform) -> tuple[ImageArray, FloatArray]:
    """The part of an image that a crop shows, thinned out where it is too large for OpenCV, and the matrix for it."""
    height, width = transform.size_hw
    corners = transform.to_img([[0, 0], [width, 0], [0, height], [width, height]])
    limit = np.array(image.shape[1::-1])
    low = np.clip(np.floor(corners.min(axis=0)) - 1, 0, limit - 1).astype(int)
    high = np.clip(np.ceil(corners.max(axis=0)) + 2, low + 1, limit).astype(int)
    step = -(-int((high - low).max()) // _LONGEST_SIDE)
    matrix = transform.matrix
    matrix[:, 2] += matrix[:, :2] @ low
    matrix[:, :2] *= step
    return np.ascontiguousarray(image[low[1] : high[1] : step, low[0] : high[0] : step]), matrix


def normalize(crops: ImageArray, normalization: Normalization) -> Float32Array:
    """(..., H, W, 3) uint8 -> (..., 3, H, W) float32 with the channels' mean removed and spread scaled."""
    mean, std = (np.array(values, dtype=np.float32)[:, None] for values in (normalization.mean, normalization.std))
    # A pixel has 256 values: looking them up is several times as fast as computing on a float copy of the crops.
    tables = (np.arange(256, dtype=np.float32) / np.float32(255) - mean) / std
    *leading, height, width, _ = crops.shape
    images = np.empty((*leading, 3, height, width), dtype=np.float32)
    for crop, planes in zip(crops.reshape(-1, height, width, 3), images.reshape(-1, 3, height, width), strict=True):
        for values, table, plane in zip(cv2.split(crop), tables, planes, strict=True):
            cv2.LUT(values, table, dst=plane)
    return images


def network_input(crops: ImageArray, normalization: Normalization | None) -> NetworkInput:
    """(N, H, W, 3) uint8 RGB -> (N, 3, H, W): normalized float32; uint8 for a file that normalizes by itself (None)."""
    if normalization is None:
        return np.ascontiguousarray(np.moveaxis(crops, -1, -3))
    return normalize(crops, normalization)


def preprocess(
    image: ImageArray, transforms: Sequence[CropTransform], normalization: Normalization | None
) -> NetworkInput:
    """One image (H, W, 3) uint8 RGB and N >= 1 crops of one size -> (N, 3, h, w), see `network_input`."""
    return network_input(np.stack([crop_image(image, transform) for transform in transforms]), normalization)
