"""Boxes for photographs of one person: the whole image, the whole image fitted to a first pose, and the detector.

    python benchmarks/one_person.py ../shared/data/coco_val_dev/person_keypoints.json ../shared/data/coco_val_dev/images

Images with exactly one annotated person count. The first pose is compared with the labels by OKS.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from distilpose import PosePredictor
from distilpose.data.files import read_json
from distilpose.data.images import read_image
from distilpose.detection.detectors import WholeImage
from distilpose.geometry.oks import oks
from distilpose.inference.people import FittedWholeImage, open_detector


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("annotations", type=Path)
    parser.add_argument("images", type=Path)
    options = parser.parse_args()
    document = read_json(options.annotations, "COCO keypoint annotations")
    people: defaultdict[int, list[dict[str, Any]]] = defaultdict(list)
    for annotation in document["annotations"]:
        people[annotation["image_id"]].append(annotation)
    predictor = PosePredictor("distilpose_mobilenet")
    detectors = {
        "whole image": WholeImage(),
        "whole image, fitted": FittedWholeImage(predictor),
        "built-in detector": open_detector("auto", predictor),
    }
    similarity: dict[str, list[float]] = {name: [] for name in detectors}
    for entry in document["images"]:
        if len(people[entry["id"]]) != 1 or not people[entry["id"]][0]["num_keypoints"]:
            continue
        label, image = people[entry["id"]][0], read_image(options.images / entry["file_name"])
        keypoints = np.reshape(label["keypoints"], (1, -1, 3))
        for name, detector in detectors.items():
            boxes = detector([image])[0].boxes_xyxy[:1]
            xy = predictor(image, boxes).xy if len(boxes) else np.full((1, keypoints.shape[1], 2), np.inf)
            sigmas, labeled = predictor.skeleton.oks_sigmas, keypoints[..., 2] > 0
            assert sigmas is not None
            similarity[name].append(float(oks(keypoints[..., :2], xy, label["area"], sigmas, labeled)[0, 0]))
    table = Table("box", "people", "OKS >= 0.5", "OKS >= 0.75", "mean OKS")
    for name, values in similarity.items():
        counts = [str(sum(value >= level for value in values)) for level in (0.5, 0.75)]
        table.add_row(name, str(len(values)), *counts, f"{np.mean(values):.3f}")
    Console().print(table)


if __name__ == "__main__":
    main()
