"""The predictor: one image and its person boxes -> poses in image pixels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from distilpose.errors import ConfigError, InputError
from distilpose.geometry import CropTransform, check_boxes_xyxy, crops_from_boxes
from distilpose.images import check_image
from distilpose.loading import as_runner
from distilpose.postprocess import (
    FlipTest,
    Keypoints,
    check_flip_test,
    decode,
    keypoints_to_image,
    pose_score,
    run_with_flip,
)
from distilpose.preprocess import preprocess
from distilpose.results import PoseResult
from distilpose.skeleton import Skeleton

if TYPE_CHECKING:
    from torch import nn

    from distilpose.runtimes import Runner


class PosePredictor:
    """Finds the keypoints of the people in given boxes.

    Args:
        model: from `create_model` or `load_model`, a `Runner`, or a name or file that `load_model` takes.
        flip_test: "off"; "aligned" averages with the mirrored crops, slower and a little better; "reference" does so
            with the released code's errors, to reproduce published numbers.
        device: torch device; where the model's weights are when None.
        batch_size: most crops that the model sees at once.

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
        model: nn.Module | Runner | str | Path,
        *,
        flip_test: FlipTest = "off",
        device: str | None = None,
        batch_size: int = 32,
    ) -> None:
        check_flip_test(flip_test)
        if batch_size < 1:
            raise ConfigError(f"batch_size must be at least 1, got {batch_size}")
        self._runner = as_runner(model, device)
        self._flip_test: FlipTest = flip_test
        self._batch_size = batch_size

    @property
    def skeleton(self) -> Skeleton:
        """The keypoints that the model finds."""
        return self._runner.description.skeleton

    def __call__(
        self, image: NDArray[np.uint8], boxes_xyxy: ArrayLike, box_score: ArrayLike | None = None
    ) -> PoseResult:
        """Find the keypoints of each person; no boxes give an empty result.

        Args:
            image: (H, W, 3) uint8 RGB, as `read_image` returns it.
            boxes_xyxy: (N, 4) person boxes in image pixels; they may reach beyond the image.
            box_score: (N,) confidence of the detector; 1 each when None.

        Returns:
            N people in the order of the boxes.

        Raises:
            InputError: the image, a box or a score is unusable.
        """
        check_image(image)
        boxes = check_boxes_xyxy(boxes_xyxy)
        detector_score = _check_box_score(box_score, len(boxes))
        if len(boxes) == 0:
            return PoseResult.empty(self.skeleton)
        description = self._runner.description
        transforms = crops_from_boxes(boxes, description.input_size_hw)
        keypoints = _joined(list(self._batches(image, transforms)))
        xy_img, sigma_img = keypoints_to_image(keypoints, transforms, description.heatmap_size_hw)
        return PoseResult(
            xy=xy_img,
            box=boxes,
            box_score=detector_score,
            pose_score=pose_score(detector_score, keypoints.raw_score),
            raw_score=keypoints.raw_score,
            sigma=sigma_img,
            skeleton=description.skeleton,
        )

    def _batches(self, image: NDArray[np.uint8], transforms: Sequence[CropTransform]) -> Iterator[Keypoints]:
        for start in range(0, len(transforms), self._batch_size):
            batch = transforms[start : start + self._batch_size]
            crops = preprocess(image, batch, self._runner.description.normalisation)
            yield decode(run_with_flip(self._runner, crops, self._flip_test))


def _joined(parts: Sequence[Keypoints]) -> Keypoints:
    xy_norm, sigmas, scores = zip(*parts, strict=True)
    return Keypoints(
        np.concatenate(xy_norm),
        None if sigmas[0] is None else np.concatenate(sigmas),
        None if scores[0] is None else np.concatenate(scores),
    )


def _check_box_score(box_score: ArrayLike | None, people: int) -> NDArray[np.float64]:
    if box_score is None:
        return np.ones(people)
    try:
        scores = np.asarray(box_score, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"box_score must be {people} numbers, got {box_score!r}") from error
    if scores.shape != (people,) or not np.isfinite(scores).all():
        raise InputError(f"box_score must be {people} finite numbers, one per box, got {scores.tolist()}")
    return scores
