"""Whose crops an evaluation takes: everybody labeled, or what a detector found."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from distilpose.data.annotations import find_images
from distilpose.data.images import read_image
from distilpose.errors import DatasetError
from distilpose.evaluation.ground_truth import GroundTruth
from distilpose.formats.boxes import PersonBoxes, match_boxes
from distilpose.geometry import box_iou_xyxy, clip_boxes_xyxy
from distilpose.skeletons import Skeleton
from distilpose.types import FloatArray, IntArray

if TYPE_CHECKING:
    from distilpose.detection.detectors import Detector

logger = logging.getLogger(__name__)

BOX_IOU = 0.5  # overlap from which on a box is that person's


class EvaluationBoxes(NamedTuple):
    """N boxes as aligned arrays, the boxes of one image side by side.

    Attributes:
        source: "ground truth", or the name of the detections file or of the detector.
        image_id: (N,) of the annotation file.
        xyxy: (N, 4) image pixels.
        score: (N,) of the detector; 1 for ground truth.
        person: (N,) row in `GroundTruth.people` of the person each box belongs to; None for detections.
    """

    source: str
    image_id: IntArray
    xyxy: FloatArray
    score: FloatArray
    person: NDArray[np.intp] | None


def ground_truth_boxes(ground_truth: GroundTruth) -> EvaluationBoxes:
    """One box for each labeled person, clipped as the COCO top-down baselines do.

    A person whose box has no area inside the image gets none, and so counts as missed.

    Raises:
        DatasetError: the entry of an image has no size.
    """
    people = ground_truth.people
    boxes = np.stack([clip_boxes_xyxy(p.box_xyxy, image_size_hw(ground_truth, p.image_id))[0] for p in people])
    usable = (boxes[:, 0] < boxes[:, 2]) & (boxes[:, 1] < boxes[:, 3])
    if not usable.all():
        logger.warning("%s: %d people have no box inside the image", ground_truth.file, (~usable).sum())
    image_id = np.array([person.image_id for person in people], dtype=np.int64)
    order = np.argsort(image_id, kind="stable")
    order = order[usable[order]]
    return EvaluationBoxes("ground truth", image_id[order], boxes[order], np.ones(len(order)), order)


def detected_boxes(file: Path, ground_truth: GroundTruth, paths: Mapping[int, Path]) -> EvaluationBoxes:
    """Every detected person as the file has it: not clipped, and scored as low as may be.

    Detections in images that the ground truth does not hold are left out, so that the detections of a whole data
    set serve for a part of it.

    Args:
        file: person boxes, as `match_boxes` reads them.
        ground_truth: of the evaluation.
        paths: file of each image by id.

    Raises:
        InputError: the file is unusable, or none of its people is in these images.
    """
    people = match_boxes(file, list(paths.values()), ground_truth.file).people
    return _joined(file.name, list(paths), [people[path] for path in paths.values()])


def found_boxes(detector: Detector | str, paths: Mapping[int, Path], skeleton: Skeleton) -> EvaluationBoxes:
    """Every person that a detector finds, with its own threshold.

    Args:
        detector: or its name (`create_detector`).
        paths: file of each image by id.
        skeleton: of the model; a detector of people fits a person's alone.

    Raises:
        ConfigError: there is no such detector, or it does not fit the skeleton.
        InputError: its model or an image cannot be read.
    """
    from distilpose.detection.detectors import check_detector_fits, create_detector

    name = detector if isinstance(detector, str) else type(detector).__name__
    if isinstance(detector, str):
        check_detector_fits(detector, skeleton)
        detector = create_detector(detector)
    found = [detector([read_image(path)])[0] for path in paths.values()]
    return _joined(f"detector {name}", list(paths), found)


def people_with_a_box(boxes: EvaluationBoxes, ground_truth: GroundTruth) -> int:
    """How many labeled people have a box that overlaps theirs by at least `BOX_IOU` (IoU)."""
    return sum(
        bool((box_iou_xyxy(person.box_xyxy, boxes.xyxy[boxes.image_id == person.image_id]) >= BOX_IOU).any())
        for person in ground_truth.people
    )


def _joined(source: str, image_ids: Sequence[int], found: Sequence[PersonBoxes]) -> EvaluationBoxes:
    """The boxes of some images, in order."""
    return EvaluationBoxes(
        source=source,
        image_id=np.repeat(np.array(image_ids, dtype=np.int64), [len(boxes.box_score) for boxes in found]),
        xyxy=np.concatenate([boxes.boxes_xyxy for boxes in found]),
        score=np.concatenate([boxes.box_score for boxes in found]),
        person=None,
    )


def image_paths(ground_truth: GroundTruth, folder: Path) -> dict[int, Path]:
    """File of each image by id, in the order of the annotation file; a file need not exist.

    Raises:
        DatasetError: the entry of an image names no file.
    """
    names: dict[int, str] = {}
    for image_id, entry in ground_truth.images.items():
        name = entry.get("file_name")
        if not isinstance(name, str) or not name:
            raise DatasetError(f"{ground_truth.file}: image {image_id} has no file_name: add it")
        names[image_id] = name
    return find_images(names, folder)


def image_size_hw(ground_truth: GroundTruth, image_id: int) -> tuple[int, int]:
    """(H, W) of an image in pixels, as the annotation file says.

    Raises:
        DatasetError: it does not say.
    """
    entry = ground_truth.images[image_id]
    height, width = entry.get("height"), entry.get("width")
    if not (isinstance(height, int) and isinstance(width, int) and height > 0 and width > 0):
        raise DatasetError(
            f"{ground_truth.file}: image {image_id} needs a positive whole height and width, got {height!r} and "
            f"{width!r}: add them"
        )
    return height, width
