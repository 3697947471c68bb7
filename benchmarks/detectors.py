"""Person detectors on labelled photographs: accuracy and time, in one run.

    python benchmarks/detectors.py ../shared/data/coco_val_dev/person_keypoints.json \
        ../shared/data/coco_val_dev/images auto onnx:yolox.onnx

Names are those of ``--detector``. Average precision is COCO's, over the boxes of score 0.05 and above; recall,
precision and F1 are those of the detector's own threshold at an overlap (IoU) of 0.5. Detectors take turns image by
image, each in one thread, so that a load of the machine falls on all of them.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import time
from pathlib import Path

import cv2
import numpy as np
from faster_coco_eval import COCO, COCOeval_faster
from rich.console import Console
from rich.table import Table

from distilpose.detection.detectors import create_detector
from distilpose.formats.boxes import PersonBoxes
from distilpose.geometry import box_iou_xyxy, xywh_to_xyxy, xyxy_to_xywh

LOW = 0.05  # least score of a box that counts for average precision
TALL = 100  # pixels
IOU = 0.5
PERSON = 1


def average_precision(truth: COCO, people: dict[int, PersonBoxes]) -> list[float]:
    """AP, AP50, AP75, AP of small, medium and large people, and AR, in percent."""
    rows = [
        {"image_id": image_id, "category_id": PERSON, "bbox": box, "score": score}
        for image_id, (boxes, scores) in people.items()
        for box, score in zip(xyxy_to_xywh(boxes).tolist(), scores.tolist(), strict=True)
    ]
    if not rows:
        return [0.0] * 7
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval_faster(truth, truth.loadRes(rows), "bbox")
        evaluation.params.catIds = [PERSON]
        evaluation.run()
    return [100 * float(evaluation.stats[place]) for place in (0, 1, 2, 3, 4, 5, 8)]


def match(found: PersonBoxes, labels: list[dict[str, object]]) -> tuple[np.ndarray, np.ndarray, int]:
    """Which labelled people are tall and which are found, and the number of boxes that are nobody's.

    The surest box takes first, the person it fits best. Boxes on crowds are left out.
    """
    persons = xywh_to_xyxy([label["bbox"] for label in labels if not label["iscrowd"]])
    crowds = xywh_to_xyxy([label["bbox"] for label in labels if label["iscrowd"]])
    taken, wrong = np.zeros(len(persons), dtype=bool), 0
    for box in found.boxes_xyxy:
        overlap = np.where(taken, 0, box_iou_xyxy(box, persons)[0])
        if overlap.max(initial=0) >= IOU:
            taken[overlap.argmax()] = True
        else:
            wrong += not (box_iou_xyxy(box, crowds) > 0.1).any()
    return persons[:, 3] - persons[:, 1] >= TALL, taken, wrong


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("annotations", type=Path)
    parser.add_argument("images", type=Path)
    parser.add_argument("detectors", nargs="+")
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(arguments.annotations))
    names = arguments.detectors
    usual = {name: create_detector(name, threads=1) for name in names}
    generous = {name: create_detector(name, threshold=LOW, threads=1) for name in names}
    seconds: dict[str, list[float]] = {name: [] for name in names}
    people: dict[str, dict[int, PersonBoxes]] = {name: {} for name in names}
    matches: dict[str, list[tuple[np.ndarray, np.ndarray, int]]] = {name: [] for name in names}
    for image_id, entry in truth.imgs.items():
        image = cv2.cvtColor(cv2.imread(str(arguments.images / entry["file_name"])), cv2.COLOR_BGR2RGB)
        for name in names:
            people[name][image_id] = generous[name]([image])[0]
            start = time.perf_counter()
            found = usual[name]([image])[0]
            seconds[name].append(time.perf_counter() - start)
            matches[name].append(match(found, truth.imgToAnns[image_id]))

    table = Table(title=f"{len(truth.imgs)} images of {arguments.annotations.parent.name}, person boxes")
    heads = ("AP", "AP50", "AP75", "small", "medium", "large", "AR", "recall", f"of {TALL} px", "precision", "F1", "ms")
    for head in ("detector", *heads):
        table.add_column(head, justify="left" if head == "detector" else "right", no_wrap=True)
    for name in names:
        tall, taken = (np.concatenate([match[place] for match in matches[name]]) for place in (0, 1))
        right, wrong = int(taken.sum()), sum(match[2] for match in matches[name])
        f1 = 2 * right / (len(taken) + right + wrong)
        shares = (taken.mean(), taken[tall].mean(), right / max(1, right + wrong), f1)
        values = [*average_precision(truth, people[name]), *(100 * float(share) for share in shares)]
        milliseconds = 1000 * float(np.median(seconds[name]))
        table.add_row(name, *(f"{value:.1f}" for value in values), f"{milliseconds:.0f}")
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
