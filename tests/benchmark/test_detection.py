"""What the benchmark says of detectors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distilpose.benchmark import detection
from distilpose.benchmark.detection import detection_table, measure_detection
from distilpose.data.images import write_image
from distilpose.formats.boxes import PersonBoxes
from distilpose.geometry import xywh_to_xyxy


@pytest.fixture
def labeled(tmp_path: Path) -> Path:
    """Two images: a tall and a small person, and a crowd in the second."""
    (tmp_path / "images").mkdir()
    keypoints = [50, 60, 2] * 17
    entries = [
        (1, [20, 10, 60, 120], 0), (1, [120, 40, 30, 60], 0), (2, [40, 10, 50, 110], 0), (2, [100, 0, 80, 80], 1),
    ]  # fmt: skip
    for image_id in (1, 2):
        write_image(tmp_path / "images" / f"{image_id}.png", np.full((150, 200, 3), image_id, np.uint8))
    document = {
        "images": [{"id": n, "file_name": f"{n}.png", "height": 150, "width": 200} for n in (1, 2)],
        "categories": [{"id": 1, "name": "person"}],
        "annotations": [
            {"id": n, "image_id": i, "category_id": 1, "bbox": box, "iscrowd": crowd, "area": 900, "num_keypoints": 17,
             "keypoints": keypoints}
            for n, (i, box, crowd) in enumerate(entries, start=1)
        ],
    }  # fmt: skip
    (tmp_path / "people.json").write_text(json.dumps(document))
    return tmp_path


@pytest.mark.parametrize(
    ("boxes", "found", "tall", "precision"),
    [
        ({1: [[20, 10, 60, 120], [120, 40, 30, 60]], 2: [[40, 10, 50, 110]]}, 3, 2, 1.0),
        ({1: [[20, 10, 60, 120], [22, 12, 60, 120]], 2: []}, 1, 1, 0.5),  # one person, found twice
        ({1: [[120, 40, 30, 50]], 2: [[110, 10, 40, 40], [0, 100, 20, 30]]}, 1, 0, 0.5),  # on a crowd, and on nothing
        ({1: [], 2: []}, 0, 0, 0.0),
    ],
)
def test_recall_and_precision_by_hand(
    boxes: dict[int, list[Any]], found: int, tall: int, precision: float, labeled: Path, monkeypatch: Any
) -> None:
    def create(name: str) -> Any:
        def detect(images: Any) -> list[PersonBoxes]:
            of_image = xywh_to_xyxy(boxes[int(images[0][0, 0, 0])])
            return [PersonBoxes(of_image, np.ones(len(of_image)))]

        return detect

    monkeypatch.setattr(detection, "create_detector", create)
    quality = measure_detection("x", labeled / "people.json", labeled / "images")
    assert (quality.people, quality.tall) == (3, 2)
    assert (quality.found, quality.tall_found) == (found, tall)
    assert quality.recall == pytest.approx(found / 3)
    assert quality.precision == precision
    assert detection_table(quality, "x", labeled / "people.json").row_count == 4
