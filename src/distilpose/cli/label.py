"""Pseudo-labels of a teacher for one's own images."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from distilpose.cli.command import Command, printable

if TYPE_CHECKING:
    from distilpose.training.labeling import LabelOptions


def _label(options: LabelOptions) -> int:
    from distilpose.training.labeling import label_people

    report = label_people(options, progress=True)
    for failure in report.failures:
        print(printable(f"failed: {failure}"), file=sys.stderr)
    print(
        printable(
            f"{report.num_images} images, {report.num_people} people, {report.trusted:.0%} of their keypoints trusted, "
            f"{len(report.failures)} failed -> {report.file} (images: {report.images})"
        )
    )
    return 1 if report.failures else 0


LABEL = Command(
    "label people with a teacher, as training data: COCO keypoint json, and heatmaps if wanted",
    (
        "photos --teacher teacher.safetensors --out labels",
        "boxes.json --images photos --teacher teacher.yaml --out labels --heatmaps labels/heatmaps",
        "photos --boxes detections.json --teacher vitpose.yaml --out labels --min-score 0.5",
    ),
    "distilpose.training.labeling:LabelOptions",
    _label,
)
