"""The predictor: one image and its person boxes -> poses in image pixels."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from distilpose.backends.loading import as_backend
from distilpose.data.images import check_image
from distilpose.data.preprocess import NetworkInput, network_input, preprocess
from distilpose.geometry import CropTransform, check_boxes_xyxy
from distilpose.geometry.boxes import check_array, overlaps_image
from distilpose.inference.decoding import (
    FlipTest,
    Keypoints,
    check_flip_test,
    decode,
    join_keypoints,
    keypoints_to_image,
    pose_score,
    run_with_flip,
)
from distilpose.inference.result import PoseResult
from distilpose.options import check_count
from distilpose.skeletons import Skeleton
from distilpose.types import FloatArray, ImageArray

if TYPE_CHECKING:
    from torch import nn

    from distilpose.backends.base import InferenceBackend

logger = logging.getLogger(__name__)

CROPS_AHEAD = 256  # of an image, cut before the network: a crowd beyond it is cut batch by batch


class PreparedImage(NamedTuple):
    """The crops of one image and what is needed to bring their keypoints back."""

    images: NetworkInput  # (M, 3, H, W) the first crops, at most `CROPS_AHEAD`; `PosePredictor.crops` cuts the rest
    transforms: Sequence[CropTransform]  # of the N crops
    boxes_xyxy: FloatArray  # (N, 4) image pixels
    box_score: FloatArray  # (N,) confidence of the detector
    image: ImageArray | None = None  # what the rest is cut from; None when all are cut


class PosePredictor:
    """Finds the keypoints of the people in given boxes.

    Args:
        model: from `create_model` or `load_model`, an `InferenceBackend`, or a name or file that `load_model` takes.
        flip_test: "off"; "aligned" averages with the mirrored crops, slower and a little better; "reference" does so
            with the released code's errors, to reproduce published numbers.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1``, ``mps``, ``openvino:GPU``, see `as_backend`; where the model
            already is when None.
        batch_size: most crops that the model sees at once.
        threads: of one run on the CPU; see `as_backend`.

    Attributes:
        batch_size: as above.

    Raises:
        ConfigError: ``flip_test`` or ``batch_size`` is out of range.
        InputError: ``model`` is not a model.
        CheckpointError: the model file is unusable.

    Example:
        >>> from distilpose import create_model
        >>> predictor = PosePredictor(create_model("distilpose_s"))
        >>> result = predictor(np.zeros((480, 640, 3), np.uint8), [[200, 100, 300, 400]])
        >>> result.xy.shape
        (1, 17, 2)
    """

    def __init__(
        self,
        model: nn.Module | InferenceBackend | str | Path,
        *,
        flip_test: FlipTest = "off",
        device: str | None = None,
        batch_size: int = 32,
        threads: int | None = None,
    ) -> None:
        check_flip_test(flip_test)
        self.batch_size = check_count(batch_size, "batch_size")
        self._backend = as_backend(model, device, threads=threads)
        self._flip_test: FlipTest = flip_test

    @property
    def skeleton(self) -> Skeleton:
        """The keypoints that the model finds."""
        return self._backend.description.skeleton

    def __call__(self, image: ImageArray, boxes_xyxy: ArrayLike, box_score: ArrayLike | None = None) -> PoseResult:
        """Find the keypoints of each person; no boxes give an empty result.

        Args:
            image: (H, W, 3) uint8 RGB, as `read_image` returns it.
            boxes_xyxy: (N, 4) person boxes in image pixels; they may reach beyond the image; one that lies
                wholly outside of it is warned about.
            box_score: (N,) confidence of the detector; 1 each when None.

        Returns:
            N people in the order of the boxes. It refers to ``image``, so that it can show itself.

        Raises:
            InputError: the image, a box or a score is unusable.
        """
        prepared = self.prepare(image, boxes_xyxy, box_score)
        if not (inside := overlaps_image(prepared.boxes_xyxy, image.shape[:2])).all():
            logger.warning("a box lies outside of its image: %s", prepared.boxes_xyxy[~inside][0].tolist())
        starts = range(0, len(prepared.transforms), self.batch_size)
        parts = [self.run(self.crops(prepared, start, start + self.batch_size)) for start in starts]
        return replace(self.finish(prepared, join_keypoints(parts) if parts else None), image=image)

    def prepare(self, image: ImageArray, boxes_xyxy: ArrayLike, box_score: ArrayLike | None = None) -> PreparedImage:
        """Check the arguments of a call and cut the crops: the part before the network."""
        check_image(image)
        boxes = check_boxes_xyxy(boxes_xyxy)
        detector_score = np.ones(len(boxes)) if box_score is None else check_array(box_score, "box_score", len(boxes))
        description = self._backend.description
        transforms = description.crops(boxes)
        if not transforms:
            empty = np.zeros((0, *description.input_size_hw, 3), dtype=np.uint8)
            return PreparedImage(network_input(empty, description.normalization), transforms, boxes, detector_score)
        images = preprocess(image, transforms[:CROPS_AHEAD], description.normalization)
        rest = image if len(transforms) > CROPS_AHEAD else None
        return PreparedImage(images, transforms, boxes, detector_score, rest)

    def crops(self, prepared: PreparedImage, start: int, stop: int) -> NetworkInput:
        """Network input of some of an image's crops, cut now where `prepare` has not."""
        if stop <= len(prepared.images) or prepared.image is None:
            return prepared.images[start:stop]
        return preprocess(prepared.image, prepared.transforms[start:stop], self._backend.description.normalization)

    def run(self, images: NetworkInput) -> Keypoints:
        """The network, flip test and decoding on 1 to ``batch_size`` crops."""
        output = run_with_flip(self._backend, images, self._flip_test)
        return decode(output, udp=self._backend.description.udp)

    def finish(self, prepared: PreparedImage, keypoints: Keypoints | None) -> PoseResult:
        """Bring the keypoints of all of an image's crops (None without any) back into its pixels, behind the network.

        Raises:
            InputError: the model returned numbers that are not finite.
        """
        if keypoints is None:
            return PoseResult.empty(self.skeleton)
        size_hw = self._backend.description.heatmap_size_hw
        xy_img, sigma_img = keypoints_to_image(keypoints, prepared.transforms, size_hw)
        return PoseResult(
            xy=xy_img,
            box=prepared.boxes_xyxy,
            box_score=prepared.box_score,
            pose_score=pose_score(prepared.box_score, keypoints.raw_score),
            raw_score=keypoints.raw_score,
            sigma=sigma_img,
            skeleton=self.skeleton,
        )
