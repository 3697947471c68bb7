"""What is kept, what is filled in, and what is refused with a helpful text."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distilpose.errors import DatasetError
from distilpose.evaluation.ground_truth import load_ground_truth
from distilpose.skeletons import COCO_17

Document = dict[str, Any]
Write = Callable[[str, Any], Path]


def test_everybody_labeled_counts_and_nobody_is_lost(annotations: Path) -> None:
    truth = load_ground_truth(annotations, COCO_17)
    assert list(truth.images) == [9, 3, 5], "the image without people is kept"
    assert truth.people.image_id.tolist() == [9, 3, 9, 3]
    assert truth.people.labeled.sum(1).tolist() == [17, 12, 17, 9]
    np.testing.assert_allclose(truth.people.box_xyxy[1], [150, 20, 200, 100])
    kept = truth.coco["annotations"]
    assert [(entry["iscrowd"], entry["num_keypoints"]) for entry in kept] == [
        (0, 17), (0, 12), (0, 17), (1, 0), (0, 0), (0, 9),
    ]  # fmt: skip


def test_annotations_are_numbered_from_one(annotations: Path) -> None:
    ids = [entry["id"] for entry in load_ground_truth(annotations, COCO_17).coco["annotations"]]
    assert ids == [1, 2, 3, 4, 5, 6], "COCO's matching takes id 0 for 'no match'"


def test_optional_fields_are_filled_in(document: Document, write: Write) -> None:
    first, crowd = document["annotations"][0], document["annotations"][3]
    for field in ("area", "num_keypoints", "iscrowd"):
        del first[field]
    del crowd["keypoints"]
    document.pop("categories")
    truth = load_ground_truth(write("gt.json", document), COCO_17)
    filled = truth.coco["annotations"][0]
    assert filled["area"] == pytest.approx(0.53 * 100 * 160)
    assert (filled["num_keypoints"], filled["iscrowd"]) == (17, 0)
    assert truth.coco["annotations"][3]["keypoints"] == [0] * 51


def test_people_without_labels_and_box_are_left_out(document: Document, write: Write) -> None:
    for field in ("bbox", "num_keypoints"):
        del document["annotations"][4][field]
    document["annotations"][0]["num_keypoints"] = 0  # labels are counted
    truth = load_ground_truth(write("gt.json", document), COCO_17)
    assert [entry["num_keypoints"] for entry in truth.coco["annotations"]] == [17, 12, 17, 0, 9]
    assert len(truth.people) == 4


def test_labels_outside_the_image_still_count(document: Document, write: Write) -> None:
    document["annotations"][0]["keypoints"][:3] = [-5.0, 10.0, 1]
    people = load_ground_truth(write("gt.json", document), COCO_17).people
    assert people.labeled[0, 0]
    assert people.true_xy_img[0, 0].tolist() == [-5.0, 10.0]


def test_other_categories_are_left_out(document: Document, write: Write) -> None:
    document["categories"] += [{"id": 2, "name": "dog"}, {"id": 3, "name": "leaf", "keypoints": [], "skeleton": []}]
    document["annotations"].append({"id": 7, "image_id": 9, "category_id": 2, "bbox": [0, 0, 9, 9]})
    assert len(load_ground_truth(write("gt.json", document), COCO_17).coco["annotations"]) == 6


NAN = float("nan")
BROKEN: dict[str, tuple[Callable[[Document], Any], str]] = {
    "no images": (lambda d: d.pop("images"), "no list of images"),
    "image without id": (lambda d: d["images"][0].pop("id"), "position 0 needs a whole-number id"),
    "doubled image": (lambda d: d["images"].append(d["images"][0]), "image id 9: appears more than once"),
    "unknown image": (lambda d: d["annotations"][1].update(image_id=4), "annotation 1: image_id 4 is not among"),
    "no image id": (lambda d: d["annotations"][1].pop("image_id"), "annotation 1: image_id None is not among"),
    "no box": (
        lambda d: [d["annotations"][2].pop(key) for key in ("bbox", "keypoints")],
        "annotation 2 of image_9.png: no bbox",
    ),
    "nan in box": (
        lambda d: d["annotations"][2].update(bbox=[1, 2, NAN, 4]),
        "annotation 2 of image_9.png: expected 4 finite numbers in bbox",
    ),
    "huge number": (
        lambda d: d["annotations"][2].update(bbox=[1, 2, 10**400, 4]),
        "annotation 2 of image_9.png: expected 4 finite numbers in bbox",
    ),
    "negative area": (lambda d: d["annotations"][2].update(area=-1), "annotation 2.*area must be > 0, got -1"),
    "short": (lambda d: d["annotations"][5].update(keypoints=[1] * 48), "annotation 5.*17 times x, y.*48 entries"),
    "nan keypoint": (lambda d: d["annotations"][5]["keypoints"].__setitem__(0, NAN), "annotation 5.*got .nan"),
    "visibility 3": (lambda d: d["annotations"][5]["keypoints"].__setitem__(2, 3), "annotation 5.*visibility"),
    "other order": (lambda d: d["categories"][0]["keypoints"].reverse(), "in this order, got .'right_ankle'"),
    "odd category id": (lambda d: d["categories"][0].update(id=[1]), "category 'person' needs a whole-number id"),
    "odd category": (lambda d: d["annotations"][2].update(category_id=[1]), "annotation 2: .* category_id, got .1."),
    "other category": (
        lambda d: [entry.update(category_id=3) for entry in d["annotations"]],
        "among 6 annotations .* .their category_id: 3; the keypoints are of 1.",
    ),
    "box of one keypoint": (
        lambda d: d["annotations"][2].update(bbox=None, keypoints=[1, 2, 2] + [0] * 48),
        "annotation 2.*: no bbox, and none can be made of its keypoints",
    ),
    "nothing named": (
        lambda d: [d.pop("categories"), d["annotations"][2].update(keypoints=[1, 2, 2] * 5)],
        "annotation 2.*: expected 51 finite numbers.*names no keypoints, so those of coco_17 are assumed",
    ),
    "no people": (lambda d: d.update(annotations=d["annotations"][3:5]), "at least one person with labeled"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_files_are_refused_by_name(case: str, document: Document, write: Write) -> None:
    spoil, message = BROKEN[case]
    spoil(document)
    with pytest.raises(DatasetError, match=f"(?s)gt.json: .*{message}"):
        load_ground_truth(write("gt.json", document), COCO_17)


@pytest.mark.parametrize(
    ("content", "message"), [("", "broken json"), ("[]", "no list of images"), ("{", "broken json")]
)
def test_files_that_are_something_else_are_refused(content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "gt.json").write_text(content)
    with pytest.raises(DatasetError, match=message):
        load_ground_truth(tmp_path / "gt.json", COCO_17)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"nowhere.json: .*cannot read it .*check the path"):
        load_ground_truth(tmp_path / "nowhere.json", COCO_17)
