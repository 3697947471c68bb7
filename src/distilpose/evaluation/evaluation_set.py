"""The person crops of an evaluation, ready to be fed to a model as often as wanted."""

from __future__ import annotations

import logging
import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import groupby, islice
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from distilpose.backends.description import ModelDescription
from distilpose.data.check import find_bad_images, size_conflict
from distilpose.data.files import listed
from distilpose.data.images import read_image
from distilpose.data.preprocess import NetworkInput, Normalization, crop_image, network_input
from distilpose.errors import DatasetError
from distilpose.evaluation.comparison import GroundTruth, load_ground_truth
from distilpose.formats.boxes import PersonBoxes, match_boxes
from distilpose.geometry import box_iou_xyxy, clip_boxes_xyxy
from distilpose.inference.people import checked_people
from distilpose.skeletons import KeypointMapping
from distilpose.types import FloatArray, ImageArray, IntArray

if TYPE_CHECKING:
    from distilpose.detection.detectors import Detector

logger = logging.getLogger(__name__)

BOX_IOU = 0.5  # overlap from which on a box is that person's


class EvaluationBoxes(NamedTuple):
    """N boxes as aligned arrays, the boxes of one image side by side."""

    source: str  # "ground truth", or the name of the detections file or of the detector
    image_id: IntArray  # (N,) of the annotation file
    xyxy: FloatArray  # (N, 4) image pixels
    score: FloatArray  # (N,) of the detector; 1 for ground truth
    # (N,) row in `GroundTruth.people` of the person each box belongs to; None for detections
    person: NDArray[np.intp] | None = None

    def people_with_a_box(self, ground_truth: GroundTruth) -> int:
        """How many labeled people have a box that overlaps theirs by at least `BOX_IOU` (IoU)."""
        people = ground_truth.people
        return sum(
            bool((box_iou_xyxy(box, self.xyxy[self.image_id == image_id]) >= BOX_IOU).any())
            for box, image_id in zip(people.box_xyxy, people.image_id, strict=True)
        )


class EvaluationSet:
    """Ground truth, person boxes and the images they lie in. Build one with `EvaluationSet.load`.

    Attributes:
        ground_truth: what results are compared with.
        boxes: whose crops are taken.
        description: of the model that the crops are for.
        transforms: N crops in the order of ``boxes``; kept in memory after the first pass with ``keep_crops`` (144 KiB
            each at 256 x 192).

    Raises:
        DatasetError: an image that holds boxes does not exist.
    """

    def __init__(
        self,
        ground_truth: GroundTruth,
        paths: Mapping[int, Path],
        boxes: EvaluationBoxes,
        description: ModelDescription,
        keep_crops: bool = False,
    ) -> None:
        self.ground_truth, self.boxes, self.description = ground_truth, boxes, description
        self.transforms, self._paths = description.crops(boxes.xyxy), paths
        _check_exist([paths[image_id] for image_id in np.unique(boxes.image_id).tolist()], ground_truth)
        self._keep_crops = keep_crops
        self._kept: list[ImageArray] | None = None

    @classmethod
    def load(
        cls,
        annotations: Path,
        images: Path,
        description: ModelDescription,
        *,
        detections: Path | None = None,
        detector: Detector | None = None,
        detector_name: str | None = None,
        mapping: KeypointMapping | None = None,
        category: str | None = None,
        keep_crops: bool = False,
        check_images: bool = False,
        skip_invalid: bool = False,
    ) -> EvaluationSet:
        """Read and check the files of an evaluation; images themselves are read when crops are asked for.

        Crops are those of ``detections``, a boxes file (`match_boxes`): not clipped, with any score; those of other
        images are left out. Or those of a ``detector``, named in the result. Or of every labeled person's own box.
        ``mapping`` is that of a file with other keypoints to the model's, ``category`` the name of the one to read of a
        file with several; more is said of `EvaluationSet`. With
        ``check_images`` the images of labeled people are decoded now; with ``skip_invalid`` broken annotations and
        images are left out with a warning.

        Raises:
            DatasetError: the annotations are unusable, or an image is missing.
            InputError: the detections are unusable, or in other images; with a detector, an image cannot be read.
        """
        ground_truth = load_ground_truth(
            annotations, description.skeleton, mapping, category=category, skip_invalid=skip_invalid
        )
        paths = ground_truth.paths(images)
        if check_images:
            ground_truth = _without_bad_images(ground_truth, paths, skip_invalid)
            paths = {image_id: paths[image_id] for image_id in ground_truth.images}
        if detector is not None:
            _check_exist(list(paths.values()), ground_truth)
            found = [checked_people(detector([read_image(path)]), 1)[0] for path in paths.values()]
            boxes = _joined(f"detector {detector_name or type(detector).__name__}", list(paths), found)
        elif detections is not None:
            people = match_boxes(detections, list(paths.values()), annotations).people
            boxes = _joined(detections.name, list(paths), [people[path] for path in paths.values()])
        else:
            boxes = _true_boxes(ground_truth)
        return cls(ground_truth, paths, boxes, description, keep_crops)

    def with_true_boxes(self) -> EvaluationSet:
        """The same people in the boxes of the ground truth."""
        truth = self.ground_truth
        return EvaluationSet(truth, self._paths, _true_boxes(truth), self.description)

    def __len__(self) -> int:
        return len(self.transforms)

    def batches(self, batch_size: int, normalization: Normalization | None) -> Iterator[NetworkInput]:
        """All crops in order, as network input (B, 3, H, W), the last batch perhaps smaller; errors as in `crops`."""
        rest = self._all_crops()
        while crops := list(islice(rest, batch_size)):
            yield network_input(np.stack(crops), normalization)

    def crops(self, rows: Iterable[int]) -> Iterator[ImageArray]:
        """The crops (H, W, 3) of some boxes; an image is decoded once if its rows stand together.

        Raises:
            DatasetError: an image does not have the size its annotations were made on.
            InputError: an image cannot be read.
        """
        for image_id, group in groupby(rows, key=lambda row: int(self.boxes.image_id[row])):
            path, expected_hw = self._paths[image_id], self.ground_truth.image_hw(image_id)
            image = read_image(path)
            if problem := size_conflict(path, (image.shape[0], image.shape[1]), expected_hw):
                raise DatasetError(f"{self.ground_truth.file}: {problem}")
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
        self._kept = kept if self._keep_crops else None


def _without_bad_images(truth: GroundTruth, paths: Mapping[int, Path], skip_invalid: bool) -> GroundTruth:
    """The ground truth without unusable images; a `DatasetError` if none is to be skipped, or no other is left."""
    labeled = {paths[image_id]: truth.image_hw(image_id) for image_id in np.unique(truth.people.image_id).tolist()}
    if not skip_invalid:
        _check_exist(labeled, truth)
    bad = find_bad_images(labeled)
    if bad and (not skip_invalid or len(bad) == len(labeled)):
        lines = [f"{truth.file}: {len(bad)} of {len(labeled)} images cannot be used:"]
        lines += listed([*bad.values()])
        remedy = "Replace them, or pass --skip-invalid to report them and go on without them."
        raise DatasetError("\n".join([*lines, remedy if len(bad) < len(labeled) else "Replace them."]))
    for problem in bad.values():
        logger.warning("skipped: %s: %s", truth.file, problem)
    return truth.without_images({image_id for image_id, path in paths.items() if path in bad})


def _true_boxes(ground_truth: GroundTruth) -> EvaluationBoxes:
    """One box for each labeled person, clipped as the COCO top-down baselines do; none without area in the image."""
    people = ground_truth.people
    sizes_hw = [ground_truth.image_hw(image_id) for image_id in people.image_id.tolist()]
    boxes = np.stack([clip_boxes_xyxy(box, hw)[0] for box, hw in zip(people.box_xyxy, sizes_hw, strict=True)])
    usable = np.asarray((boxes[:, :2] < boxes[:, 2:]).all(1))
    if not usable.all():
        logger.warning("%s: %d people have no box inside the image", ground_truth.file, (~usable).sum())
    order = np.argsort(people.image_id, kind="stable")
    order = order[usable[order]]
    return EvaluationBoxes("ground truth", people.image_id[order], boxes[order], np.ones(len(order)), order)


def _joined(source: str, image_ids: Sequence[int], found: Sequence[PersonBoxes]) -> EvaluationBoxes:
    """The boxes of some images, in order."""
    return EvaluationBoxes(
        source=source,
        image_id=np.repeat(np.array(image_ids, dtype=np.int64), [len(boxes.box_score) for boxes in found]),
        xyxy=np.concatenate([boxes.boxes_xyxy for boxes in found]),
        score=np.concatenate([boxes.box_score for boxes in found]),
    )


def _check_exist(paths: Collection[Path], ground_truth: GroundTruth) -> None:
    missing = [path for path in paths if not os.path.isfile(path)]  # Path.is_file raises for a name that is too long
    if missing:
        raise DatasetError(
            f"{missing[0]} does not exist ({len(missing)} of {len(paths)} images of {ground_truth.file} are "
            "missing): pass the folder that holds them as --images, in training as data.validation.images"
        )
