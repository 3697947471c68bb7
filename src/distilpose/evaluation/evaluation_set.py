"""The person crops of an evaluation, ready to be fed to a model as often as wanted."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from distilpose.data.images import read_image
from distilpose.data.preprocess import NetworkInput, Normalization, crop_image, network_input
from distilpose.errors import DatasetError
from distilpose.evaluation.ground_truth import GroundTruth, load_ground_truth
from distilpose.evaluation.person_boxes import (
    EvaluationBoxes,
    detected_boxes,
    found_boxes,
    ground_truth_boxes,
    image_paths,
    image_size_hw,
)
from distilpose.geometry import CROP_PADDING, crops_from_boxes
from distilpose.skeletons import COCO_17, KeypointMapping, Skeleton
from distilpose.types import ImageArray

if TYPE_CHECKING:
    from distilpose.detection.detectors import Detector


class EvaluationSet:
    """Ground truth, person boxes and the images they lie in. Build one with `EvaluationSet.load`.

    Args:
        ground_truth: what results are compared with.
        paths: file of each image by id.
        boxes: whose crops to take.
        input_size_hw: (H, W) of a crop in pixels.
        skeleton: of the ground truth.
        keep_crops: hold the crops in memory after the first pass (144 KiB each at 256 x 192).
        padding: see `ModelDescription`.
        udp: likewise.

    Attributes:
        ground_truth, boxes, input_size_hw, skeleton: as above.
        transforms: N crops in the order of ``boxes``.

    Raises:
        DatasetError: an image that holds boxes does not exist.
    """

    def __init__(
        self,
        ground_truth: GroundTruth,
        paths: Mapping[int, Path],
        boxes: EvaluationBoxes,
        input_size_hw: tuple[int, int],
        skeleton: Skeleton,
        keep_crops: bool,
        padding: float = CROP_PADDING,
        udp: bool = False,
    ) -> None:
        self.ground_truth = ground_truth
        self.boxes = boxes
        self.input_size_hw = input_size_hw
        self.skeleton = skeleton
        self.transforms = crops_from_boxes(boxes.xyxy, input_size_hw, padding, udp=udp)
        self._geometry = (padding, udp)
        self._paths = paths
        _check_exist([paths[image_id] for image_id in np.unique(boxes.image_id).tolist()], ground_truth)
        self._keep_crops = keep_crops
        self._kept: list[ImageArray] | None = None

    @classmethod
    def load(
        cls,
        annotations: Path,
        images: Path,
        *,
        input_size_hw: tuple[int, int],
        detections: Path | None = None,
        detector: Detector | str | None = None,
        skeleton: Skeleton = COCO_17,
        mapping: KeypointMapping | None = None,
        keep_crops: bool = False,
        padding: float = CROP_PADDING,
        udp: bool = False,
    ) -> EvaluationSet:
        """Read and check the files of an evaluation; images themselves are read when crops are asked for.

        Args:
            annotations: COCO keypoint file.
            images: folder that its ``file_name`` entries lie in.
            input_size_hw: (H, W) of the model's input in pixels.
            detections: boxes file as `match_boxes` reads it. Without it and a detector, every labeled person's own
                box is used.
            detector: to find the people with, or its name (`create_detector`).
            skeleton: of the model.
            mapping: of a file with other keypoints to ``skeleton``.
            keep_crops: hold the crops in memory, for one evaluation per epoch.
            padding: see `ModelDescription`.
            udp: likewise.

        Raises:
            DatasetError: the annotations are unusable, or an image is missing.
            InputError: the detections are unusable, or in other images; with a detector, an image cannot be read.
        ConfigError: there is no such detector, or it finds something else than the model's skeleton has.
        """
        ground_truth = load_ground_truth(annotations, skeleton, mapping)
        paths = image_paths(ground_truth, images)
        if detector is not None:
            _check_exist(list(paths.values()), ground_truth)
            boxes = found_boxes(detector, paths, skeleton)
        elif detections is not None:
            boxes = detected_boxes(detections, ground_truth, paths)
        else:
            boxes = ground_truth_boxes(ground_truth)
        return cls(ground_truth, paths, boxes, input_size_hw, skeleton, keep_crops, padding, udp)

    def with_true_boxes(self) -> EvaluationSet:
        """The same people in the boxes of the ground truth."""
        boxes = ground_truth_boxes(self.ground_truth)
        return EvaluationSet(
            self.ground_truth, self._paths, boxes, self.input_size_hw, self.skeleton, False, *self._geometry
        )

    def __len__(self) -> int:
        return len(self.transforms)

    def batches(self, batch_size: int, normalization: Normalization | None) -> Iterator[NetworkInput]:
        """All crops in order, as network input (B, 3, H, W), the last batch perhaps smaller.

        Raises:
            DatasetError: an image does not have the size its annotations were made on.
            InputError: an image cannot be read.
        """
        pending: list[ImageArray] = []
        for crop in self._all_crops():
            pending.append(crop)
            if len(pending) == batch_size:
                yield network_input(np.stack(pending), normalization)
                pending = []
        if pending:
            yield network_input(np.stack(pending), normalization)

    def crops(self, rows: Iterable[int]) -> Iterator[ImageArray]:
        """The crops (H, W, 3) of some boxes; an image is decoded once if its rows stand together.

        Raises:
            DatasetError: an image does not have the size its annotations were made on.
            InputError: an image cannot be read.
        """
        for image_id, group in groupby(rows, key=lambda row: int(self.boxes.image_id[row])):
            image = self._read(image_id)
            for row in group:
                yield crop_image(image, self.transforms[row])

    def _all_crops(self) -> Iterator[ImageArray]:
        if self._kept is not None:
            yield from self._kept
            return
        kept: list[ImageArray] = []
        for crop in self.crops(range(len(self))):
            if self._keep_crops:
                kept.append(crop)
            yield crop
        if self._keep_crops:
            self._kept = kept

    def _read(self, image_id: int) -> ImageArray:
        image = read_image(self._paths[image_id])
        expected_hw = image_size_hw(self.ground_truth, image_id)
        if image.shape[:2] != expected_hw:
            raise DatasetError(
                f"{self._paths[image_id]}: {self.ground_truth.file} expects an image of height, width {expected_hw}, "
                f"got {image.shape[:2]}: pass the images the annotations were made on"
            )
        return image


def _check_exist(paths: Collection[Path], ground_truth: GroundTruth) -> None:
    missing = [path for path in paths if not os.path.isfile(path)]  # Path.is_file raises for a name that is too long
    if missing:
        raise DatasetError(
            f"{missing[0]} does not exist ({len(missing)} of {len(paths)} images of {ground_truth.file} are "
            "missing): pass the folder that holds them as --images"
        )
