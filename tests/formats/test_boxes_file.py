"""Boxes files: every rule of matching, and every refusal."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from distilpose.errors import DatasetError, InputError
from distilpose.formats.boxes import match_boxes, match_image_ids

PATHS = [Path("photos/000000000785.jpg"), Path("photos/garden.jpg"), Path("other/12.png")]


def write(folder: Path, content: Any, name: str = "boxes.json") -> Path:
    path = folder / name
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def row(image_id: int | None = None, image: str | None = None, x: float = 1, **fields: Any) -> dict[str, Any]:
    """A detection whose left edge tells it apart."""
    named = {"image_id": image_id, "image": image}
    return {key: value for key, value in named.items() if value is not None} | {"bbox": [x, 2, 30, 40]} | fields


def labeled(**fields: Any) -> dict[str, Any]:
    """An annotation file of one annotation."""
    annotation = {"image_id": 785, "category_id": 1, "bbox": [1, 2, 30, 40]} | fields
    category = {"id": fields.get("category_id", 1), "name": "pedestrian" if "category_id" in fields else "person"}
    image = {"id": 785, "file_name": "000000000785.jpg", "height": 80, "width": 80}
    return {"images": [image], "annotations": [annotation], "categories": [category]}


def lefts(boxes: Path, paths: list[Path], annotations: Path | None = None) -> list[list[float]]:
    """Left edges of the boxes that each image gets."""
    matched = match_boxes(boxes, paths, annotations)
    return [matched.people[path].boxes_xyxy[:, 0].tolist() for path in paths]


def test_without_annotations_a_numeric_stem_is_the_image_id(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    boxes = write(tmp_path, [row(785, x=1, score=0.5), row(12, x=2), row(785, x=3), row(99, x=4)])
    matched = match_boxes(boxes, PATHS)
    people = matched.people[PATHS[0]]
    assert people.boxes_xyxy.tolist() == [[1, 2, 31, 42], [3, 2, 33, 42]]
    assert people.box_score.tolist() == [0.5, 1.0]
    assert len(matched.people[PATHS[1]].boxes_xyxy) == 0
    assert matched.people[PATHS[1]].boxes_xyxy.shape == (0, 4)
    assert matched.image_ids == {PATHS[0]: 785, PATHS[1]: 1, PATHS[2]: 12}
    assert "1 of 4 boxes are of other images, the first of image_id 99" in caplog.text


def test_a_number_beyond_64_bits_finds_its_image_but_is_not_its_id(tmp_path: Path) -> None:
    path, number = Path("photos/12345678901234567890.jpg"), 12345678901234567890
    matched = match_boxes(write(tmp_path, [row(number, x=1), row(2**62, x=2)]), [path, Path(f"{2**62}.jpg")])
    assert [len(people.boxes_xyxy) for people in matched.people.values()] == [1, 1]
    assert list(matched.image_ids.values()) == list(match_image_ids([path, Path(f"{2**62}.jpg")]).values())
    assert matched.image_ids == {path: 1, Path(f"{2**62}.jpg"): 2**62}


def test_an_image_field_comes_before_the_stem(tmp_path: Path) -> None:
    rows = [row(785, "garden.jpg", x=1), row(image="photos/garden.jpg", x=2), row(785, x=3), row(image="no.jpg", x=4)]
    boxes = write(tmp_path, rows)
    assert lefts(boxes, PATHS[1:]) == [[1, 2], []]
    assert match_boxes(boxes, PATHS[1:]).image_ids == {PATHS[1]: 785, PATHS[2]: 12}
    assert lefts(boxes, PATHS) == [[3], [1, 2], []]


def test_annotations_say_ids_and_an_image_field_which_image_was_meant(tmp_path: Path) -> None:
    images = [{"id": 12, "file_name": "garden.jpg"}, {"id": 7, "file_name": "photos/000000000785.jpg"}]
    annotations = write(tmp_path, {"images": images}, "annotations.json")
    rows = [row(12, x=1), row(7, "12.png", x=2), row(785, x=3), row(image="12.png", x=4), row(7, "a/000000000785.jpg")]
    boxes = write(tmp_path, rows)
    assert lefts(boxes, PATHS, annotations) == [[1], [1], [2, 4]]
    expected = {PATHS[0]: 7, PATHS[1]: 12, PATHS[2]: 1}
    assert match_boxes(boxes, PATHS, annotations).image_ids == expected
    assert match_image_ids(PATHS, annotations) == expected


def test_predictions_are_a_boxes_file(tmp_path: Path) -> None:
    predicted = {"image_id": None, "image": "photos/garden.jpg", "score": 0.1, "box_score": 0.8}
    boxes = write(tmp_path, [{**predicted, "box_xyxy": [1, 2, 3, 4], "category_id": 1, "keypoints": [0] * 51}])
    people = match_boxes(boxes, PATHS).people[PATHS[1]]
    assert people.boxes_xyxy.tolist() == [[1, 2, 3, 4]]
    assert people.box_score.tolist() == [0.8]


def test_same_names_in_two_folders_need_more_of_the_path(tmp_path: Path) -> None:
    paths = [Path("a/1.jpg"), Path("b/1.jpg"), Path("b/a/1.jpg")]
    assert lefts(write(tmp_path, [row(image="b/1.jpg")]), paths) == [[], [1], []]
    assert lefts(write(tmp_path, [row(image=r".\b\a\1.jpg")]), paths) == [[], [], [1]]
    assert lefts(write(tmp_path, [row(image="a/1.jpg")]), paths) == [[1], [], []]  # as written, not only its end
    for ambiguous in (row(image="1.jpg"), row(1)):
        with pytest.raises(InputError, match=r"fits 3 images, a/1.jpg and b/1.jpg"):
            match_boxes(write(tmp_path, [ambiguous]), paths)
    assert list(match_image_ids(paths).values()) == [2, 3, 4]  # a number of several images is nobody's
    assert match_image_ids(paths[:1]) == {paths[0]: 1}


def test_only_people_are_taken(tmp_path: Path) -> None:
    rows = [row(785, x=1, category_id=1), row(785, x=2, category_id=18), row(785, x=3)]
    boxes = write(tmp_path, rows)
    assert lefts(boxes, PATHS[:1]) == [[1, 3]]
    images = [{"id": 785, "file_name": "000000000785.jpg"}]
    categories = [{"id": 1, "name": "cat"}, {"id": 18, "name": "person"}]
    annotations = write(tmp_path, {"images": images, "categories": categories}, "annotations.json")
    assert lefts(boxes, PATHS[:1], annotations) == [[2, 3]]


def test_labeled_people_are_boxes_clipped_as_in_evaluation(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    document = {
        "images": [{"id": 5, "file_name": "garden.jpg", "height": 100, "width": 80}],
        "annotations": [
            {"image_id": 5, "bbox": [10, 20, 30, 40], "category_id": 1},
            {"image_id": 5, "bbox": [60, 90, 50, 50], "category_id": 1},
            {"image_id": 5, "bbox": [0, 0, 50, 50], "category_id": 1, "iscrowd": 1},
            {"image_id": 5, "bbox": [-40, 10, 20, 20], "category_id": 1},
        ],
        "categories": [{"id": 1, "name": "person"}],
    }
    boxes = write(tmp_path, document)
    matched = match_boxes(boxes, PATHS)
    # the rule of reference.md: x2 = min(W - 1, x + max(0, w - 1))
    assert matched.people[PATHS[1]].boxes_xyxy.tolist() == [[10, 20, 39, 59], [60, 90, 79, 99]]
    assert matched.image_ids[PATHS[1]] == 5
    assert "1 of 4 rows are left out, the first: row 3: it has no area inside its image" in caplog.text


def test_people_without_a_box_have_that_of_their_keypoints(tmp_path: Path) -> None:
    names = ["a", "b", "c"]
    document = {
        "images": [{"id": 5, "file_name": "garden.jpg", "height": 100, "width": 80}],
        "annotations": [
            {"image_id": 5, "category_id": 7, "keypoints": [10, 20, 2, 30, 60, 1, 0, 0, 0]},
            {"image_id": 5, "category_id": 7, "keypoints": [0] * 9},
            {"image_id": 5, "category_id": 8, "keypoints": [], "bbox": [1, 2, 30, 40]},
        ],
        "categories": [{"id": 7, "name": "twig", "keypoints": names}, {"id": 8, "name": "leaf", "keypoints": []}],
    }
    # 20 x 40 pixels, grown by a tenth of 40 on each side; clipping takes one pixel off
    assert match_boxes(write(tmp_path, document), PATHS).people[PATHS[1]].boxes_xyxy.tolist() == [[6, 16, 33, 63]]
    document["annotations"][1]["keypoints"] = [10, 20, 2, *[0] * 6]
    assert len(match_boxes(write(tmp_path, document), PATHS).people[PATHS[1]].boxes_xyxy) == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "the file is empty"),
        ("{", "broken json"),
        ([], "expected person boxes, got none"),
        ({"rows": []}, "no list of images"),
        ({"images": [], "annotations": 3}, "expected a list of boxes"),
        ({"images": [{"id": 1}], "annotations": []}, "an id and a file_name"),
        ({"images": [{"id": 785, "file_name": "x.jpg"}], "annotations": [row(785)]}, "row 0: its image 785"),
        ("3", "expected a list of boxes"),
        ([5, row(785, category_id=18)], "row 0: expected bbox"),
        ([{"bbox": [1, 2, 3, 4]}], "row 0: expected .* an image_id or image"),
        ([{"image_id": 785}], "row 0"),
        ([row([785])], "row 0"),
        ([row(785, score=float("nan"))], "row 0"),
        ([row(785, category_id=[1])], "row 0"),
        ([row(785, bbox=[1, 2, 3])], "row 0"),
        ([row(785, bbox=[1, 2, "a", 4])], "row 0"),
        ([row(785, bbox=[1, 2, 0, 4])], "row 0: .*x1 < x2"),
        ([row(785, bbox=[1, 2, float("inf"), 4])], "row 0: .*finite"),
        ("[" * 100_000, "nested too deeply"),
        ([row(4), row(5)], "none of its 2 boxes .* image_id 4, .*000000000785.jpg.*--annotations"),
        ([row(785, category_id=0)], "expected person boxes, got none: its categories are 0, people are 1"),
        ([row(785, bbox=[0.1, 0.2, 0.3, 0.4])], "in pixels, got numbers from 0 to 1 alone"),
        (labeled(iscrowd=1), "got none: its 1 annotations are crowds"),
        (labeled(category_id=2), "its categories are 2, people are not among the categories: one must be called pers"),
        (labeled(bbox=[40, 40, 79, 79], keypoints=[50, 50, 2]), "expected bbox as left, top, width, height"),
        (labeled(keypoints=[0.5, 0.5, 2]), "expected keypoints in pixels"),
    ],
)
def test_unusable_file_is_refused_by_name(tmp_path: Path, content: Any, message: str) -> None:
    with pytest.raises((InputError, DatasetError), match=message) as caught:
        match_boxes(write(tmp_path, content), PATHS)
    assert "boxes.json" in str(caught.value)


def test_missing_and_contradicting_annotation_files(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere.json: .*cannot read it \(No such file or directory\)"):
        match_image_ids(PATHS, tmp_path / "nowhere.json")
    images = [{"id": 1, "file_name": "garden.jpg"}, {"id": 2, "file_name": "photos/garden.jpg"}]
    with pytest.raises(InputError, match="fits two images of the annotation file, ids 1 and 2"):
        match_image_ids(PATHS, write(tmp_path, {"images": images}))


def test_rows_are_selected_first_and_a_broken_one_is_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [row(785, bbox=None, category_id=18), row(785, x=3), row(785, bbox=[]), row("785", x=4), row("garden.jpg")]
    assert lefts(write(tmp_path, rows), PATHS) == [[3, 4], [1], []]
    assert "1 of 5 rows are left out, the first: row 2: expected bbox" in caplog.text


def test_flags_and_categories_as_tools_write_them(tmp_path: Path) -> None:
    people = [{"image_id": 5, "bbox": [x, 9, 9, 9], "category_id": "1"} for x in range(1, 6)]
    flags: list[Any] = ["0", "false", None, "true", 1]
    document = {
        "images": [{"id": 5, "file_name": "garden.jpg", "height": 100, "width": 80}],
        "annotations": [person | {"iscrowd": flag} for person, flag in zip(people, flags, strict=True)],
        "categories": [{"id": 1, "name": "Person"}, {"id": 2, "name": "dog"}],
    }
    assert lefts(write(tmp_path, document), PATHS) == [[], [1, 2, 3], []]
    document["annotations"] = [people[0] | {"iscrowd": "maybe"}]
    with pytest.raises(InputError, match="row 0: expected iscrowd as 0 or 1, got 'maybe'"):
        match_boxes(write(tmp_path, document), PATHS)


def test_text_ids_and_empty_boxes_of_an_annotation_file(tmp_path: Path) -> None:
    person = {"image_id": "garden", "category_id": "1"}
    document = {
        "images": [{"id": "garden", "file_name": r"photos\garden.jpg", "height": 100, "width": 80}],
        "annotations": [
            person | {"id": "a", "bbox": [1, 2, 30, 40], "iscrowd": None},
            person | {"id": "b", "bbox": [0, 0, 0, 0], "keypoints": [5, 9, 2, 9, 30, 2]},
        ],
        "categories": [{"id": "1", "name": "Person"}],
    }
    assert lefts(write(tmp_path, document), PATHS) == [[], [1, pytest.approx(2.9)], []]


@pytest.mark.parametrize(
    "text",
    [
        "image,x1,y1,x2,y2,score\ngarden.jpg,1,2,31,42,0.5\n",
        "\ufefffile_name, x, y, width, height, score\nphotos/garden.jpg, 1, 2, 30, 40, 0.5\n",
        "source,person,keypoint,box_x1,box_y1,box_x2,box_y2,box_score\n"
        + "".join(f"garden.jpg,0,{name},1,2,31,42,0.5\n" for name in ("nose", "ear")),
    ],
)
def test_csv_boxes(tmp_path: Path, text: str) -> None:
    people = match_boxes(write(tmp_path, text, "boxes.csv"), PATHS).people[PATHS[1]]
    assert (people.boxes_xyxy.tolist(), people.box_score.tolist()) == ([[1, 2, 31, 42]], [0.5])
    with pytest.raises(InputError, match="expected a header with x1"):
        match_boxes(write(tmp_path, "a,b\n1,2\n", "boxes.csv"), PATHS)
    open_quote = '"' + "garden.jpg,1,2,31,42\n" * 10_000
    for name, head in (("boxes.csv", "image,x1,y1,x2,y2\n"), ("header.csv", ""), ("mot.txt", "1,1,1,2,30,40\n")):
        with pytest.raises(InputError, match=f"{name} is no CSV .*quotation mark"):
            match_boxes(write(tmp_path, head + open_quote, name), PATHS)


def test_mot_boxes_are_of_a_video_or_of_numbered_images(tmp_path: Path) -> None:
    boxes = write(
        tmp_path, "1,3,1,2,30,40,1,1,0.8\n2,3,5,2,30,40,1,1,1\n2,4,6,2,9,9,1,3,1\n2,5,7,2,9,9,0,1,1\n", "gt.txt"
    )
    frames = match_boxes(boxes, [Path("street.mp4")]).frames
    assert {key: people.boxes_xyxy.tolist() for key, people in frames.items()} == {
        (Path("street.mp4"), 0): [[1, 2, 31, 42]],
        (Path("street.mp4"), 1): [[5, 2, 35, 42]],
    }
    assert lefts(boxes, [Path("img1/000001.jpg"), Path("img1/000002.jpg")]) == [[1], [5]]
    detected = write(tmp_path, "1,-1,1,2,30,40,0.25,-1,-1,-1\n", "det.txt")
    assert match_boxes(detected, [Path("a.mp4")]).frames[Path("a.mp4"), 0].box_score.tolist() == [0.25]


def test_yolo_labels_are_shares_of_the_upright_image(tmp_path: Path) -> None:
    path, labels = tmp_path / "a.jpg", tmp_path / "labels"
    exif = Image.Exif()
    exif[0x0112] = 6  # turned: 60 wide, 100 high
    Image.new("RGB", (100, 60)).save(path, exif=exif)
    labels.mkdir()
    (labels / "a.txt").write_text("0 0.5 0.5 0.5 0.2 0.75\n16 0.5 0.5 0.1 0.1\n0 0.5\n")
    people = match_boxes(labels, [path]).people[path]
    np.testing.assert_allclose(people.boxes_xyxy, [[15, 40, 45, 60]])
    assert people.box_score.tolist() == [0.75]
