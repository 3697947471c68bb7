import contextlib
import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from distilpose.data.coco import load_person_samples
from distilpose.data.labels import skeleton_of_file
from distilpose.errors import ConfigError, DatasetError
from distilpose.evaluation.comparison import load_ground_truth
from distilpose.skeletons import COCO_17, COCO_WHOLEBODY_133


def test_reads_a_person(document, write):
    loaded = load_person_samples(*write(document))
    (sample,) = loaded.samples
    assert loaded.problems == ()
    assert (sample.image_path.name, sample.image_id, sample.annotation_id) == ("a.png", 3, 7)
    assert sample.image_hw == (120, 100)
    assert sample.box_xyxy.tolist() == [10, 20, 49, 99]  # the baselines' clipping takes one pixel off
    assert sample.area == 1234.5
    assert np.flatnonzero(sample.visibility).tolist() == [0, 9, 16]
    assert sample.visibility[[0, 9, 16]].tolist() == [2, 1, 2]
    assert sample.xy_img[9].tolist() == [45.5, 60]
    assert sample.annotated.all()


def test_optional_fields_may_be_missing(document, write):
    for name in ("iscrowd", "area", "num_keypoints", "category_id"):
        del document["annotations"][0][name]
    (sample,) = load_person_samples(*write(document)).samples
    assert sample.area == pytest.approx(0.53 * 40 * 80)


@pytest.mark.parametrize(
    "change",
    [
        {"iscrowd": 1},
        {"num_keypoints": 0, "keypoints": [0] * 51},
        {"num_keypoints": 3, "keypoints": [0] * 51},
        {"num_keypoints": None, "keypoints": [0] * 51, "bbox": None},
        {"num_keypoints": 0, "keypoints": []},
    ],
)
def test_crowds_and_unlabeled_people_are_passed_over(document, second_person, write, change):
    document["annotations"].append(second_person | change)
    loaded = load_person_samples(*write(document))
    assert [sample.annotation_id for sample in loaded.samples] == [7]
    assert loaded.problems == ()


def test_labels_count_whatever_num_keypoints_says(document, write):
    document["annotations"][0]["num_keypoints"] = 0
    assert load_person_samples(*write(document)).samples[0].visibility.sum() == 5


def test_a_box_made_of_keypoints_keeps_an_area_after_clipping(document, write):
    document["annotations"][0].update(bbox=None, keypoints=[30, 25, 2, 30, 26, 2] + [0] * 45)
    (sample,) = load_person_samples(*write(document)).samples
    assert sample.box_xyxy.tolist() == pytest.approx([29, 24.5, 30, 25.5])  # 2 x 2 pixels, one taken off by clipping


def test_labels_outside_the_image_are_masked(document, write):
    keypoints = document["annotations"][0]["keypoints"]
    keypoints[0:3] = [-0.5, 25, 2]
    keypoints[27:30] = [100, 60, 2]  # x = width: one past the last pixel
    (sample,) = load_person_samples(*write(document)).samples
    assert np.flatnonzero(sample.visibility).tolist() == [16]
    assert not sample.xy_img[[0, 9]].any()
    assert sample.annotated.all()


def test_unannotated_keypoints_carry_no_label(document, write):
    (sample,) = load_person_samples(*write(document), unannotated=("nose", "left_eye")).samples
    assert np.flatnonzero(~sample.annotated).tolist() == [0, 1]
    assert sample.visibility[0] == 0
    with pytest.raises(ConfigError, match="'noze'"):
        load_person_samples(*write(document), unannotated=("noze",))


def test_zero_means_unknown_only_when_said(document, write):
    (sample,) = load_person_samples(*write(document), zero_means_unknown=True).samples
    assert np.flatnonzero(sample.annotated).tolist() == [0, 9, 16]


def test_box_partly_outside_is_clipped_to_the_last_pixel(document, write):
    document["annotations"][0]["bbox"] = [70, 90, 60, 60]
    (sample,) = load_person_samples(*write(document)).samples
    assert sample.box_xyxy.tolist() == [70, 90, 99, 119]


INVALID = {
    "wrong keypoint count": (
        {"keypoints": [1.0, 2.0, 2.0]},
        r"expected 51 finite numbers in keypoints.*got \[1.0, 2.0, 2.0\]",
    ),
    "no keypoints": ({"keypoints": None}, "expected 51 finite numbers in keypoints.*got None"),
    "NaN": ({"keypoints": [float("nan")] * 51}, r"finite numbers in keypoints.*got \[nan.*51 entries"),
    "text": ({"keypoints": ["1"] * 51}, r"finite numbers in keypoints.*got \['1'"),
    "visibility": ({"keypoints": [5.0] * 51}, r"visibility must be 0, 1 or 2, got \[5.0\]"),
    "box right of the image": ({"bbox": [150, 20, 40, 80]}, r"no area inside the image of 100 x 120"),
    "box left of the image": ({"bbox": [-50, 20, 40, 80]}, r"no area inside the image of 100 x 120"),
    "negative box": ({"bbox": [10, 20, -1, 80]}, "width and height > 0"),
    "odd flag": ({"iscrowd": "perhaps"}, "iscrowd must be 0 or 1, got 'perhaps'"),
    "infinite box": ({"bbox": [10, 20, float("inf"), 80]}, "finite numbers in bbox"),
    "huge number": ({"bbox": [10, 20, 10**400, 80]}, "finite numbers in bbox"),
    "no box and one keypoint": (
        {"bbox": None, "keypoints": [30, 25, 2] + [0] * 48},
        "no bbox, and none can be made .* add bbox",
    ),
    "no box and keypoints in one place": (
        {"bbox": None, "keypoints": [30, 25, 2] * 2 + [0] * 45},
        "two in different places must be labeled",
    ),
    "area": ({"area": -1}, "area must be > 0, got -1"),
    "unknown image": ({"image_id": 99}, "image_id 99 is not among the images"),
    "odd image id": ({"image_id": [3]}, r"image_id \[3\] is not among the images"),
    "duplicate id": ({"id": 7}, "appears more than once"),
}


@pytest.mark.parametrize(("change", "text"), INVALID.values(), ids=INVALID.keys())
def test_invalid_annotation_is_named_or_left_out(document, second_person, write, change, text):
    document["annotations"].append(second_person | change)
    annotation_id = change.get("id", 8)
    with pytest.raises(DatasetError, match=text) as caught:
        load_person_samples(*write(document))
    for part in ("people.json", f"annotation {annotation_id}", "--skip-invalid"):
        assert part in str(caught.value)

    loaded = load_person_samples(*write(document), skip_invalid=True)
    assert [sample.annotation_id for sample in loaded.samples] == [7]
    (problem,) = loaded.problems
    assert "people.json" in problem
    assert f"annotation {annotation_id}" in problem


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"file_name": "gone.png"}, r"image .*gone\.png does not exist"),
        ({"file_name": "long" * 100}, r"image .*long does not exist"),
        ({"file_name": None}, "image 4 has no file_name"),
        ({"height": 0}, "image 4 needs a positive whole height and width, got 0 and 100"),
    ],
)
def test_broken_image_is_a_problem_of_its_annotations_only(document, second_person, write, change, text):
    document["images"].append(document["images"][0] | {"id": 4} | change)
    assert len(load_person_samples(*write(document)).samples) == 1
    document["annotations"].append(second_person | {"image_id": 4})
    with pytest.raises(DatasetError, match=f"annotation 8: {text}"):
        load_person_samples(*write(document))


def test_many_problems_are_one_error(document, second_person, write):
    document["annotations"] += [second_person | {"id": 100 + i, "bbox": [1]} for i in range(24)]
    document["images"].append(document["images"][0])
    with pytest.raises(DatasetError, match="25 invalid entries") as caught:
        load_person_samples(*write(document))
    assert "image id 3: appears more than once" in str(caught.value)
    assert "and 5 more" in str(caught.value)
    assert len(load_person_samples(*write(document), skip_invalid=True).problems) == 25


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the file is empty"),
        ("{", "broken json"),
        ("[]", "got a list with no list of images"),
        ('{"images": [], "annotations": []}', "got no list of images"),
        ('{"images": [{"id": 1}], "annotations": []}', "got no list of annotations"),
        (100_000 * "[", "lists nested too deeply"),
        ('{"images": [{"id": ' + 5000 * "1" + "}]}", "broken json"),
    ],
)
def test_unusable_file(write, text, message):
    with pytest.raises(DatasetError, match=rf"people\.json.*{message}"):
        load_person_samples(*write(text), skip_invalid=True)


def test_missing_file_and_folder(document, write, tmp_path):
    file, images = write(document)
    with pytest.raises(DatasetError, match=r"gone\.json.*cannot read it"):
        load_person_samples(tmp_path / "gone.json", images)
    with pytest.raises(DatasetError, match=r"image folder .*nowhere does not exist"):
        load_person_samples(file, tmp_path / "nowhere")


def test_nobody_left_is_an_error_even_when_skipping(document, write):
    document["annotations"][0]["bbox"] = [1]
    with pytest.raises(DatasetError, match="got none among 1 annotations \\(1 of them invalid\\)"):
        load_person_samples(*write(document), skip_invalid=True)


def test_categories_must_have_the_skeleton_in_order(document, second_person, write):
    names = list(COCO_17.keypoint_names)
    document["categories"] = [{"id": 1, "name": "person", "keypoints": names}, {"id": 2, "name": "dog"}]
    document["annotations"].append(second_person | {"category_id": 2})
    assert len(load_person_samples(*write(document)).samples) == 1
    document["categories"][0]["keypoints"] = names[::-1]
    with pytest.raises(DatasetError, match=r"expected the keypoints .* in this order"):
        load_person_samples(*write(document))


def test_categories_without_keypoints_are_passed_over(document, second_person, write):
    """CVAT writes empty lists for labels that are no skeletons."""
    names = list(COCO_17.keypoint_names)
    document["categories"] = [
        {"id": 1, "name": "person", "keypoints": names, "skeleton": [[1, 2]], "supercategory": ""},
        {"id": 2, "name": "leaf", "keypoints": [], "skeleton": [], "supercategory": ""},
        {"id": 3, "name": "stone", "keypoints": None},
    ]
    document["annotations"] += [second_person | {"category_id": 2, "keypoints": [], "segmentation": []}]
    file, images = write(document)
    assert len(load_person_samples(file, images).samples) == 1
    assert skeleton_of_file(file) is COCO_17


@pytest.mark.parametrize(
    ("category", "annotation", "message"),
    [
        ({"id": [1]}, {}, r"category 'person' needs a whole-number id, got \[1\]"),
        ({}, {"category_id": [1]}, r"annotation 7: expected a whole-number category_id, got \[1\]"),
        ({}, {"category_id": 4}, r"got none among 1 .* \(their category_id: 4; the keypoints are of 1\)"),
    ],
)
def test_categories_and_annotations_that_do_not_fit(document, write, category, annotation, message):
    names = list(COCO_17.keypoint_names)
    document["categories"] = [{"id": 1, "name": "person", "keypoints": names, **category}]
    document["annotations"][0].update(annotation)
    with pytest.raises(DatasetError, match=message):
        load_person_samples(*write(document))


def test_other_keypoints_in_a_file_that_names_none(document, write):
    document["annotations"][0]["keypoints"] = [30, 25, 2] * 5
    with pytest.raises(DatasetError, match=r"got \[30.*15 entries.\n.*names no keypoints.*data.skeleton in training"):
        load_person_samples(*write(document))
    document["categories"] = [{"id": 1, "name": "person", "keypoints": list(COCO_17.keypoint_names)}]
    with pytest.raises(DatasetError, match="15 entries") as caught:
        load_person_samples(*write(document))
    assert "names no keypoints" not in str(caught.value)


def whole_body(person: dict[str, Any]) -> None:
    """Add feet, an invalid face and hands, as COCO-WholeBody has them."""
    person.update(
        foot_kpts=[20, 30, 2] * 6, face_kpts=[21, 31, 2] * 68, lefthand_kpts=[22, 32, 0.7] * 21,
        righthand_kpts=[23, 33, 1.0] * 21, foot_valid=True, face_valid=False, lefthand_valid=True,
    )  # fmt: skip


def test_the_five_lists_of_coco_wholebody_are_one(document, write):
    person = document["annotations"][0]
    whole_body(person)
    document["categories"] = [{"id": 1, "name": "person", "keypoints": list(COCO_17.keypoint_names)}]
    file, images = write(document)
    assert load_person_samples(file, images).samples[0].visibility.shape == (17,)
    (sample,) = load_person_samples(file, images, skeleton=COCO_WHOLEBODY_133).samples
    assert sample.visibility.tolist() == [*person["keypoints"][2::3], *[2] * 6, *[0] * 68, *[2] * 21, *[1] * 21]
    assert sample.xy_img[[17, 91, 132]].tolist() == [[20, 30], [22, 32], [23, 33]]
    counted = load_ground_truth(file, COCO_WHOLEBODY_133).people
    assert (counted.labeled == [sample.visibility > 0]).all()
    person["foot_kpts"].pop()
    with pytest.raises(DatasetError, match=r"expected 399 finite numbers in keypoints.*398 entries"):
        load_person_samples(*write(document), skeleton=COCO_WHOLEBODY_133)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(part=st.sampled_from(["images", "annotations"]), data=st.data(), value=JSON)
def test_any_json_value_anywhere_gives_samples_or_a_dataset_error(document, write, part, data, value):
    broken: dict[str, Any] = copy.deepcopy(document)
    field = data.draw(st.sampled_from([None, "categories", *broken[part][0]]))
    if field is None:
        broken[part] = value
    elif field == "categories":
        broken[field] = value
    else:
        broken[part][0][field] = value
    with contextlib.suppress(DatasetError):
        (sample,) = load_person_samples(*write(broken)).samples
        assert np.isfinite([*sample.xy_img.ravel(), *sample.box_xyxy, sample.area]).all()


def test_agrees_with_pycocotools(shared_data: Path):
    coco_tools = pytest.importorskip("pycocotools.coco")
    file = shared_data / "coco_fixture" / "test_coco.json"
    oracle = coco_tools.COCO(str(file))
    people = {a["id"]: a for a in oracle.loadAnns(oracle.getAnnIds(iscrowd=False)) if a["num_keypoints"] > 0}
    samples = load_person_samples(file, file.parent).samples
    assert {sample.annotation_id for sample in samples} == set(people)
    for sample in samples:
        keypoints = np.reshape(people[sample.annotation_id]["keypoints"], (17, 3))
        assert np.array_equal(sample.xy_img, keypoints[:, :2])
        assert np.array_equal(sample.visibility, keypoints[:, 2])
        assert sample.area == people[sample.annotation_id]["area"]
