"""One rule for the id of an image, whichever file it is written to."""

import json
from pathlib import Path

import numpy as np
import pytest

from distilpose import PoseResult
from distilpose.formats.image_ids import image_ids, stem_number
from distilpose.formats.writers import PoseRecord, open_writers


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("a/000000000785.jpg", 785), (Path("12.png"), 12), (r"c:\x\7.jpg", 7), (f"{2**63 - 1}.jpg", 2**63 - 1),
        (f"{2**63}.jpg", 2**63), ("9" * 5000 + ".jpg", None), ("\u0663.jpg", None), ("1.5.jpg", None), ("a.jpg", None),
        ("", None),
    ],
)  # fmt: skip
def test_the_number_of_a_stem(name: str | Path, number: int | None) -> None:
    assert stem_number(name) == number


def test_every_image_has_an_id_of_its_own() -> None:
    assert image_ids(["b.jpg", "a/2.jpg", "a.jpg", "1.png", "x/9.jpg", "y/9.jpg"]) == [3, 2, 4, 1, 5, 6]
    assert image_ids([f"{2**63 - 1}.jpg", f"{2**63}.jpg"]) == [2**63 - 1, 1]


def test_all_files_of_a_run_call_an_image_the_same(tmp_path: Path) -> None:
    xy = np.zeros((1, 17, 2))
    result = PoseResult(xy, np.array([[0, 0, 5, 5]]), np.ones(1), np.ones(1), raw_score=np.ones((1, 17)))
    names = ["b.jpg", "2.jpg", "a.jpg"]
    writers = list(open_writers(tmp_path, ["coco", "coco-dataset", "jsonl"]))
    for name, image_id in zip(names, image_ids(names), strict=True):
        for writer in writers:
            writer.write(PoseRecord(name, result, (5, 5), image_id))
    for writer in writers:
        writer.close()
    images = json.loads((tmp_path / "annotations.json").read_text())["images"]
    lines = [json.loads(line) for line in (tmp_path / "poses.jsonl").read_text().splitlines()]
    rows = json.loads((tmp_path / "predictions.json").read_text())
    assert [row["image_id"] for row in rows] == [1, 2, 3]
    assert [image["id"] for image in images] == [line["image_id"] for line in lines] == [1, 2, 3]
    result.save(tmp_path / "one.json")
    assert json.loads((tmp_path / "one.json").read_text())[0]["image_id"] == 1
