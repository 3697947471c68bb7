"""A small data set whose truth is known: two images with people, one without, a crowd, a person without keypoints."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from distilpose.skeletons import COCO_17

IMAGE_HW = (200, 300)


def person(
    annotation_id: int, image_id: int, box_xywh: list[float], labeled: int = 17, crowd: int = 0
) -> dict[str, Any]:
    """A person whose keypoints lie spread over its box; the first ``labeled`` of them are labeled."""
    rng = np.random.default_rng(annotation_id)
    xy = np.array(box_xywh[:2]) + rng.uniform(0.1, 0.9, (17, 2)) * box_xywh[2:]
    visibility = np.where(np.arange(17) < labeled, 2, 0)
    keypoints = np.column_stack([xy * (visibility > 0)[:, None], visibility])
    return {
        "id": annotation_id, "image_id": image_id, "category_id": 1, "bbox": box_xywh, "iscrowd": crowd,
        "area": 0.6 * box_xywh[2] * box_xywh[3], "num_keypoints": labeled, "keypoints": keypoints.ravel().tolist(),
    }  # fmt: skip


@pytest.fixture
def document() -> dict[str, Any]:
    """The ground truth: annotation ids from 0 on, images out of order, 4 people that count."""
    return {
        "images": [
            {"id": image_id, "file_name": f"image_{image_id}.png", "height": IMAGE_HW[0], "width": IMAGE_HW[1]}
            for image_id in (9, 3, 5)
        ],
        "annotations": [
            person(0, 9, [10.0, 10.0, 100.0, 160.0]),
            person(1, 3, [150.0, 20.0, 50.0, 80.0], labeled=12),
            person(2, 9, [160.0, 30.0, 90.0, 150.0]),
            person(3, 9, [0.0, 150.0, 290.0, 45.0], labeled=0, crowd=1),
            person(4, 3, [20.0, 20.0, 40.0, 90.0], labeled=0),
            person(5, 3, [220.0, 60.0, 60.0, 90.0], labeled=9),
        ],
        "categories": [{"id": 1, "name": "person", "keypoints": list(COCO_17.keypoint_names)}],
    }


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str, Any], Path]:
    """Write a value as json into the test's folder."""

    def write_json(name: str, value: Any) -> Path:
        path = tmp_path / name
        path.write_text(json.dumps(value))
        return path

    return write_json


@pytest.fixture
def annotations(document: dict[str, Any], write: Callable[[str, Any], Path]) -> Path:
    """The ground truth as a file."""
    return write("person_keypoints.json", document)


@pytest.fixture
def images(document: dict[str, Any], tmp_path: Path) -> Path:
    """A folder with its images."""
    folder = tmp_path / "images"
    folder.mkdir()
    for image in document["images"]:
        noise = np.random.default_rng(image["id"]).integers(0, 255, (*IMAGE_HW, 3), dtype=np.uint8)
        cv2.imwrite(str(folder / image["file_name"]), noise)
    return folder


@pytest.fixture
def perfect_results(document: dict[str, Any]) -> list[dict[str, Any]]:
    """The truth as results, the person without keypoints and the crowd left out."""
    return [
        {key: entry[key] for key in ("image_id", "category_id", "keypoints")} | {"score": 0.5}
        for entry in document["annotations"]
        if entry["num_keypoints"]
    ]
