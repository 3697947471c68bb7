"""Whose crops an evaluation takes: everybody labelled, or what a detector found."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from distilpose.errors import DatasetError
from distilpose.evaluation.ground_truth import GroundTruth, finite_numbers, read_json
from distilpose.geometry import clip_boxes_xyxy, xywh_to_xyxy
from distilpose.results import PERSON_CATEGORY_ID

logger = logging.getLogger(__name__)


class PersonBoxes(NamedTuple):
    """N boxes as aligned arrays, the boxes of one image side by side.

    Attributes:
        source: "ground truth", or the name of the detections file.
        image_id: (N,) of the annotation file.
        xyxy: (N, 4) image pixels.
        score: (N,) of the detector; 1 for ground truth.
        person: (N,) row in `GroundTruth.people` of the person each box belongs to; None for detections.
    """

    source: str
    image_id: NDArray[np.int64]
    xyxy: NDArray[np.float64]
    score: NDArray[np.float64]
    person: NDArray[np.intp] | None


def ground_truth_boxes(ground_truth: GroundTruth) -> PersonBoxes:
    """One box for each labelled person, clipped as the COCO top-down baselines do.

    A person whose box has no area inside the image gets none, and so counts as missed.

    Raises:
        DatasetError: the entry of an image has no size.
    """
    people = ground_truth.people
    boxes = np.stack(
        [clip_boxes_xyxy(person.box_xyxy, image_size_hw(ground_truth, person.image_id))[0] for person in people]
    )
    usable = (boxes[:, :2] < boxes[:, 2:]).all(1)
    if not usable.all():
        logger.warning("%s: %d people have no box inside the image", ground_truth.file, (~usable).sum())
    image_id = np.array([person.image_id for person in people])
    order = np.argsort(image_id, kind="stable")
    order = order[usable[order]]
    return PersonBoxes("ground truth", image_id[order], boxes[order], np.ones(len(order)), order)


def detected_boxes(file: Path, ground_truth: GroundTruth) -> PersonBoxes:
    """Every person of a COCO detections file, as it is: not clipped, and scored as low as may be.

    Boxes in images that the ground truth does not hold are left out, so that the detections of a whole data set
    serve for a part of it.

    Args:
        file: json list of ``image_id``, ``category_id``, ``bbox`` and ``score``.
        ground_truth: of the evaluation.

    Raises:
        DatasetError: the file is unusable, or none of its people is in the images of the ground truth.
    """
    rows = read_json(file, "a COCO detections file")
    if not isinstance(rows, list):
        raise DatasetError(
            f"{file}: expected a COCO detections file, a list of boxes, got {type(rows).__name__}: leave --detections "
            "out to evaluate with ground-truth boxes"
        )
    boxes = [_check_box(row, position, file) for position, row in enumerate(rows)]
    people = [box for box in boxes if box["category_id"] == PERSON_CATEGORY_ID]
    known = [box for box in people if box["image_id"] in ground_truth.images]
    if people and not known:
        raise DatasetError(
            f"{file}: expected detections in the images of {ground_truth.file}, got {len(people)} people in other "
            "images: pass the detections of these images"
        )
    if len(known) < len(people):
        logger.warning("%s: %d of %d people are in other images", file, len(people) - len(known), len(people))
    known.sort(key=lambda box: int(box["image_id"]))
    return PersonBoxes(
        source=file.name,
        image_id=np.array([box["image_id"] for box in known], dtype=np.int64),
        xyxy=xywh_to_xyxy([box["bbox"] for box in known]),
        score=np.array([box["score"] for box in known], dtype=np.float64),
        person=None,
    )


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


def _check_box(row: Any, position: int, file: Path) -> Mapping[str, Any]:
    where = f"{file}: detection {position}"
    missing = [
        name for name in ("image_id", "category_id", "bbox", "score") if not isinstance(row, dict) or name not in row
    ]
    if missing:
        raise DatasetError(f"{where} has no {', '.join(missing)}: every detection needs them, write the file again")
    numbers = finite_numbers(row["bbox"], 4)
    if numbers is None or (numbers[2:] <= 0).any() or finite_numbers([row["score"]], 1) is None:
        raise DatasetError(
            f"{where}: expected bbox as x, y, width > 0, height > 0 and a finite score, got {row['bbox']} and "
            f"{row['score']!r}: correct it or leave it out"
        )
    return dict(row)
