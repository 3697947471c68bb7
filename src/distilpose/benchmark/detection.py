"""How many people a detector finds, on labeled images."""

from __future__ import annotations

import time
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from distilpose.data.images import read_image
from distilpose.detection.detectors import create_detector
from distilpose.evaluation.ground_truth import load_ground_truth
from distilpose.evaluation.person_boxes import image_paths
from distilpose.geometry import box_iou_xyxy, xywh_to_xyxy
from distilpose.skeletons import COCO_17
from distilpose.types import FloatArray

IOU = 0.5  # from which on a box is that person's
TALL = 100  # pixels


class DetectionQuality(NamedTuple):
    """A detector on the people of an annotation file, crowds left out.

    Attributes:
        people: labeled.
        tall: those at least `TALL` pixels high.
        boxes: found, those on crowds left out.
        found: people with a box of their own (IoU of at least `IOU`).
        tall_found: likewise.
        milliseconds: of an image, median.
    """

    people: int
    tall: int
    boxes: int
    found: int
    tall_found: int
    milliseconds: float

    @property
    def recall(self) -> float:
        """Share of the people that was found."""
        return self.found / max(1, self.people)

    @property
    def tall_recall(self) -> float:
        """Share of the tall people that was found."""
        return self.tall_found / max(1, self.tall)

    @property
    def precision(self) -> float:
        """Share of the boxes that are a person."""
        return self.found / max(1, self.boxes)


def measure_detection(name: str, annotations: Path, images: Path) -> DetectionQuality:
    """Run a detector, with its own threshold, on every image of a COCO file.

    Args:
        name: what `create_detector` takes.
        annotations: COCO keypoint file, with all people labeled.
        images: folder.
    """
    detector = create_detector(name)
    truth = load_ground_truth(annotations, COCO_17)
    labels = defaultdict(list)
    for entry in truth.coco["annotations"]:
        labels[entry["image_id"]].append(entry)
    people = tall = boxes = found = tall_found = 0
    seconds = []
    for image_id, path in image_paths(truth, images).items():
        image = read_image(path)
        start = time.perf_counter()
        detected = detector([image])[0].boxes_xyxy
        seconds.append(time.perf_counter() - start)
        single = [entry for entry in labels[image_id] if not entry.get("iscrowd")]
        crowd = xywh_to_xyxy([entry["bbox"] for entry in labels[image_id] if entry.get("iscrowd")])
        persons = xywh_to_xyxy([entry["bbox"] for entry in single])
        is_tall = persons[:, 3] - persons[:, 1] >= TALL
        taken = _matched(detected, persons)
        in_crowd = (box_iou_xyxy(detected, crowd) > 0.1).any(1) & ~taken.any(1)
        people, tall = people + len(persons), tall + int(is_tall.sum())
        found, tall_found = found + int(taken.any(0).sum()), tall_found + int(taken[:, is_tall].any(0).sum())
        boxes += len(detected) - int(in_crowd.sum())
    return DetectionQuality(people, tall, boxes, found, tall_found, 1000 * float(np.median(seconds)))


def _matched(detected: FloatArray, persons: FloatArray) -> NDArray[np.bool_]:
    """(D, N) True where a box is taken for a person: the surest box takes first, the person it fits best."""
    overlap = box_iou_xyxy(detected, persons)
    taken = np.zeros(overlap.shape, dtype=bool)
    for row in range(len(detected)):  # detectors give the surest first
        free = np.where(taken.any(0), -1.0, overlap[row])
        if free.size and free.max() >= IOU:
            taken[row, int(free.argmax())] = True
    return taken


def detection_table(quality: DetectionQuality, name: str, annotations: Path) -> Table:
    """Recall, precision and time."""
    title = f"people found by {name} in {annotations.parent.name}, box overlap (IoU) from {IOU} on"
    table = Table(title=title)
    table.add_column("what")
    table.add_column("", justify="right", no_wrap=True)
    table.add_row(f"of {quality.people} people", f"{100 * quality.recall:.0f} %")
    table.add_row(f"of the {quality.tall} at least {TALL} pixels high", f"{100 * quality.tall_recall:.0f} %")
    table.add_row(f"of {quality.boxes} boxes a person", f"{100 * quality.precision:.0f} %")
    table.add_row("milliseconds an image", f"{quality.milliseconds:.0f}")
    return table
