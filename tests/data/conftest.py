import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from distilpose.data.coco import PersonSample
from synthetic_people import write_synthetic_dataset

IMAGE_HW = (120, 100)


def keypoint_list(points: dict[int, tuple[float, float, int]]) -> list[float]:
    """51 numbers with the given keypoints, the rest unlabeled."""
    return [float(value) for index in range(17) for value in points.get(index, (0, 0, 0))]


@pytest.fixture
def document() -> dict[str, Any]:
    """A smallest file: one image, one person (annotation 7) with nose, left wrist and right ankle."""
    return {
        "images": [{"id": 3, "file_name": "a.png", "height": IMAGE_HW[0], "width": IMAGE_HW[1]}],
        "annotations": [
            {
                "id": 7,
                "image_id": 3,
                "category_id": 1,
                "iscrowd": 0,
                "bbox": [10.0, 20.0, 40.0, 80.0],
                "area": 1234.5,
                "num_keypoints": 3,
                "keypoints": keypoint_list({0: (30, 25, 2), 9: (45.5, 60, 1), 16: (20, 95, 2)}),
            }
        ],
    }


@pytest.fixture
def write(tmp_path: Path) -> Callable[[Any], tuple[Path, Path]]:
    """Write a document beside its image; returns annotation file and image folder."""

    def _write(document: Any) -> tuple[Path, Path]:
        cv2.imwrite(str(tmp_path / "a.png"), np.full((*IMAGE_HW, 3), 90, dtype=np.uint8))
        file = tmp_path / "people.json"
        file.write_text(document if isinstance(document, str) else json.dumps(document))
        return file, tmp_path

    return _write


@pytest.fixture
def second_person(document: dict[str, Any]) -> dict[str, Any]:
    """A valid annotation 8 for the same image."""
    return copy.deepcopy(document["annotations"][0]) | {"id": 8}


@pytest.fixture(scope="session")
def drawn_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Annotation file of 12 drawn images."""
    return write_synthetic_dataset(tmp_path_factory.mktemp("drawn"), 12, seed=5)


@pytest.fixture
def make_sample(tmp_path: Path) -> Callable[..., PersonSample]:
    """A person on a 200 x 160 image with all keypoints on a grid, unless told otherwise."""

    def _make(**changes: Any) -> PersonSample:
        grid = np.array([(30.0 + 20 * (index % 5), 25.0 + 40 * (index // 5)) for index in range(17)])
        fields = {
            "image_path": tmp_path / "dots.png",
            "image_id": 1,
            "annotation_id": 42,
            "image_hw": (200, 160),
            "box_xyxy": np.array([20.0, 15.0, 130.0, 180.0]),
            "xy_img": grid,
            "visibility": np.full(17, 2),
            "annotated": np.ones(17, dtype=bool),
            "area": 9000.0,
        }
        return PersonSample(**(fields | changes))

    return _make
