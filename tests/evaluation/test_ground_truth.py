"""What is kept, what is filled in, and what is refused with a helpful text."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distilpose.errors import DatasetError
from distilpose.evaluation.comparison import load_ground_truth
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


def test_a_category_is_chosen_by_name(document: Document, write: Write) -> None:
    other = {"id": 2, "name": "statue", "keypoints": list(COCO_17.keypoint_names)}
    document["categories"].append(other)
    document["annotations"][0]["category_id"] = 2
    file = write("gt.json", document)
    assert len(load_ground_truth(file, COCO_17).people) == 4
    assert len(load_ground_truth(file, COCO_17, category="person").people) == 3


# What is wrong with single annotations is found as in training: tests/data/test_coco.py.
BROKEN: dict[str, tuple[Callable[[Document], Any], str]] = {
    "no images": (lambda d: d.pop("images"), "no list of images"),
    "image without id": (lambda d: d["images"][0].pop("id"), "position 0 needs a whole-number id"),
    "doubled image": (lambda d: d["images"].append(d["images"][0]), "image id 9: appears more than once"),
    "no image id": (lambda d: d["annotations"][1].pop("image_id"), "annotation 1: image_id None is not among"),
    "short": (lambda d: d["annotations"][5].update(keypoints=[1] * 48), "annotation 5.*17 times x, y.*48 entries"),
    "other category": (
        lambda d: [entry.update(category_id=3) for entry in d["annotations"]],
        "among 6 annotations .* .their category_id: 3; the keypoints are of 1.",
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
