"""Habits of annotation tools: what is read like plain COCO, what is said, and what is refused with its likely cause."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from distilpose.data.annotations import find_images
from distilpose.data.coco import load_person_samples
from distilpose.data.files import read_flag, shortened
from distilpose.data.labels import skeleton_of_file
from distilpose.errors import DatasetError, printable
from distilpose.evaluation.comparison import load_ground_truth
from distilpose.skeletons import COCO_17, LSP_14

Document = dict[str, Any]
NAMES = list(COCO_17.keypoint_names)


def people(document: Document) -> Document:
    return document["annotations"][0]


def categories(*names: str, **more: Any) -> list[Document]:
    return [{"id": number, "name": name, "keypoints": NAMES, **more} for number, name in enumerate(names)]


# Each is another way to write the document of conftest.py: training and evaluation read the same person from it.
HABITS: dict[str, Callable[[Document], Any]] = {
    "text flag": lambda d: people(d).update(iscrowd="0"),
    "false flag": lambda d: people(d).update(iscrowd="false"),
    "null flag": lambda d: people(d).update(iscrowd=None),
    "text ids": lambda d: (d["images"][0].update(id="3"), people(d).update(id="7", image_id="3")),
    "image id as text in annotations": lambda d: people(d).update(image_id="3"),
    "category 0": lambda d: (d.update(categories=categories("person")), people(d).update(category_id=0)),
    "category id as text": lambda d: (
        d.update(categories=categories("x", "person")),
        people(d).update(category_id="1"),
    ),
    "Person without keypoints": lambda d: (
        d.update(categories=[{"id": 1, "name": "Person"}, {"id": 2, "name": "ball"}]),
        d["annotations"].append({"id": 9, "image_id": 3, "category_id": 2, "bbox": [1, 1, 5, 5]}),
    ),
    "another skeleton too": lambda d: (
        d.update(categories=[{"id": 1, "name": "Person", "keypoints": NAMES}, {"id": 2, "keypoints": ["tip", "tail"]}]),
        d["annotations"].append({"id": 9, "image_id": 3, "category_id": 2, "bbox": [1, 1, 5, 5], "keypoints": [1] * 6}),
    ),
    "sizes as text and with a fraction of 0": lambda d: d["images"][0].update(
        height=str(d["images"][0]["height"]), width=float(d["images"][0]["width"])
    ),
    "backslashes": lambda d: d["images"][0].update(file_name=".\\a.png"),
    "a folder that is not there": lambda d: d["images"][0].update(file_name="upload/7/a.png"),
    "(0, 0) flagged visible": lambda d: people(d)["keypoints"].__setitem__(slice(3, 6), [0, 0, 2]),
    "broken edges": lambda d: d.update(categories=categories("x", "person", skeleton=[[1, 2], [3, 99], "no"])),
}


@pytest.mark.parametrize("habit", HABITS)
def test_habits_of_tools_are_read_like_plain_coco(habit, document, write, caplog):
    plain = load_person_samples(*write(document)).samples[0]
    HABITS[habit](document)
    file, images = write(document)
    (sample,) = load_person_samples(file, images).samples
    counted = load_ground_truth(file, COCO_17).people
    assert sample.image_path.samefile(plain.image_path)
    assert (sample.annotation_id, sample.image_id, sample.area) == (7, 3, 1234.5)
    assert np.array_equal(sample.xy_img, plain.xy_img)
    assert np.array_equal(sample.visibility, plain.visibility)
    assert np.array_equal(counted.labeled, [plain.visibility > 0])


def test_images_in_nested_folders_and_names_as_ids(document, write, tmp_path):
    document["images"][0].update(id="a.png", file_name="a.png")
    people(document).update(image_id="a.png")
    file, images = write(document)
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "a.png").rename(tmp_path / "deep" / "er" / "a.png")
    (sample,) = load_person_samples(file, images).samples
    assert sample.image_path == tmp_path / "deep" / "er" / "a.png"
    (tmp_path / "deep" / "a.png").write_bytes(sample.image_path.read_bytes())
    with pytest.raises(DatasetError, match="does not exist"):  # which of the two is meant is not guessed
        load_person_samples(file, images)


def test_ids_beyond_64_bits_are_numbered_like_text(document, write, caplog):
    document["images"][0].update(id=2**70)
    people(document).update(id=-(2**65), image_id=2**70)
    file, images = write(document)
    (sample,) = load_person_samples(file, images).samples
    assert (sample.image_id, sample.annotation_id) == (1, 1)
    assert load_ground_truth(file, COCO_17).people.image_id.tolist() == [1]
    assert "image ids are text or beyond 64 bits: they are numbered" in caplog.text


def test_a_byte_order_mark_and_utf_16_are_read(document, write):
    file, images = write(document)
    for encoding in ("utf-8-sig", "utf-16"):
        file.write_text(json.dumps(document), encoding=encoding)
        assert len(load_person_samples(file, images).samples) == 1


@pytest.mark.parametrize("empty", [None, [], [0, 0, 0, 0], [30, 25, 0, 0]])
def test_an_empty_box_and_area_are_missing(document, write, empty, caplog):
    del people(document)["bbox"], people(document)["area"]
    expected = load_person_samples(*write(document)).samples[0]
    people(document).update(bbox=empty, area=0)
    file, images = write(document)
    (sample,) = load_person_samples(file, images).samples
    counted = load_ground_truth(file, COCO_17).people
    assert sample.box_xyxy.tolist() == expected.box_xyxy.tolist()
    assert sample.area == counted.area.item() == expected.area > 0
    assert "1 of 1 annotations have no bbox" in caplog.text


REFUSED: dict[str, tuple[Callable[[Document], Any], str]] = {
    "fractions": (
        lambda d: people(d).update(keypoints=[0.3, 0.2, 2] * 17, bbox=[0.1, 0.1, 0.5, 0.5]),
        "keypoints in pixels, got numbers from 0 to 1.*multiply them by its width and height",
    ),
    "fractions in boxes": (lambda d: people(d).update(bbox=[0.1, 0.1, 0.5, 0.5]), "expected bbox in pixels"),
    "corners": (lambda d: people(d).update(bbox=[15, 20, 90, 110]), "1 of 1 boxes that leave the image.*right, bottom"),
    "odd flag": (lambda d: people(d).update(iscrowd="maybe"), "iscrowd must be 0 or 1, got 'maybe'"),
    "other skeletons alone": (
        lambda d: d.update(categories=[{"id": 1, "name": "person", "keypoints": ["a", "b"]}]),
        r"got \['a', 'b'\] for category 'person'",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_meant_is_refused_with_its_cause(case, document, write):
    spoil, message = REFUSED[case]
    spoil(document)
    file, images = write(document)
    for read in (lambda: load_person_samples(file, images), lambda: load_ground_truth(file, COCO_17)):
        with pytest.raises(DatasetError, match=f"(?s)people.json.*{message}") as caught:
            read()
        assert len(str(caught.value)) < 1000


def test_doubled_people_and_tight_boxes_are_counted(document, write, second_person, caplog):
    people(document)["bbox"] = [20, 25, 25.5, 70]
    document["annotations"].append(second_person | {"bbox": [20, 25, 25.5, 70]})
    assert len(load_person_samples(*write(document)).samples) == 2
    assert "1 annotations have the keypoints of another one in the same image" in caplog.text
    assert "2 of 2 boxes end at the outermost keypoints" in caplog.text


def test_a_category_is_chosen_by_name(document, write, second_person):
    document["categories"] = [
        {"id": 1, "name": "person", "keypoints": NAMES},
        {"id": 2, "name": "Jumper", "keypoints": list(LSP_14.keypoint_names)},
    ]
    document["annotations"].append(second_person | {"category_id": 2, "keypoints": [30, 40, 2] * 14})
    file, images = write(document)
    with pytest.raises(DatasetError, match=r"different keypoints \(person, Jumper\).*category"):
        skeleton_of_file(file)
    assert skeleton_of_file(file, "jumper") is LSP_14
    (sample,) = load_person_samples(file, images, skeleton=LSP_14, category="JUMPER").samples
    assert sample.annotation_id == 8
    with pytest.raises(DatasetError, match=r"expected a category 'dog', got \['person', 'Jumper'\]"):
        load_person_samples(file, images, category="dog")


@pytest.mark.parametrize("keypoints", [None, [], [0] * 51])
def test_people_without_labels_are_kept_when_asked(document, write, second_person, keypoints):
    document["annotations"].append(second_person | {"keypoints": keypoints, "num_keypoints": 0, "area": None})
    assert len(load_person_samples(*write(document)).samples) == 1
    labeled, unlabeled = load_person_samples(*write(document), keep_unlabeled=True).samples
    assert labeled.annotated.all()
    assert not unlabeled.annotated.any()
    assert not unlabeled.visibility.any()
    assert not unlabeled.xy_img.any()
    assert unlabeled.area == pytest.approx(0.53 * 40 * 80)
    document["annotations"] = [document["annotations"][1]]
    assert len(load_person_samples(*write(document), keep_unlabeled=True).samples) == 1
    del document["annotations"][0]["bbox"]
    with pytest.raises(DatasetError, match=r"annotation 8.*no bbox"):
        load_person_samples(*write(document), keep_unlabeled=True)


def test_all_bad_images_are_found_at_once(document, write, tmp_path, caplog):
    file, images = write(document)
    names = ["cut.jpg", "small.png", "text.png", "turned.jpg"]
    document["images"] += [document["images"][0] | {"id": 10 + n, "file_name": name} for n, name in enumerate(names)]
    document["annotations"] += [people(document) | {"id": 10 + n, "image_id": 10 + n} for n in range(4)]
    pixels = Image.fromarray(np.random.default_rng(0).integers(0, 256, (120, 100, 3), dtype=np.uint8))
    pixels.save(tmp_path / "cut.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "cut.jpg").read_bytes()[:-2000])
    pixels.resize((50, 60)).save(tmp_path / "small.png")
    (tmp_path / "text.png").write_text("no image")
    exif = Image.Exif()
    exif[0x0112] = 3
    pixels.save(tmp_path / "turned.jpg", exif=exif)
    file.write_text(json.dumps(document))
    assert len(load_person_samples(file, images).samples) == 5
    with pytest.raises(DatasetError, match="3 invalid entries") as caught:
        load_person_samples(file, images, check_images=True)
    for part in ("cut.jpg", "small.png is of height and width (60, 50)", "text.png"):
        assert part in str(caught.value)
    loaded = load_person_samples(file, images, check_images=True, skip_invalid=True)
    assert [sample.image_path.name for sample in loaded.samples] == ["a.png", "turned.jpg"]
    assert "1 images are turned by 180 degrees" in caplog.text


def yolo_set(folder: Path, rows: list[str], yaml: str, *, at: str = "images/train") -> Path:
    (folder / at).mkdir(parents=True)
    cv2.imwrite(str(folder / at / "a.png"), np.zeros((120, 100, 3), np.uint8))
    cv2.imwrite(str(folder / at / "nobody.png"), np.zeros((50, 60, 3), np.uint8))
    labels = folder / at.replace("images", "labels")
    labels.mkdir(parents=True)
    (labels / "a.txt").write_text("\n".join(rows) + "\n", errors="surrogateescape")
    file = folder / "data.yaml"
    file.write_text(yaml)
    return file


def yolo_row(person: Document, dims: int) -> str:
    """A COCO annotation of an image of 100 x 120 pixels, in the words of YOLO's documentation."""
    left, top, width, height = person["bbox"]
    numbers = [0, (left + width / 2) / 100, (top + height / 2) / 120, width / 100, height / 120]
    for x, y, v in np.reshape(person["keypoints"], (-1, 3)):
        numbers += [x / 100, y / 120, int(v)][:dims]
    return " ".join(map(str, numbers))


@pytest.mark.parametrize("dims", [2, 3])
def test_yolo_pose_is_read_like_coco(document, write, tmp_path, dims):
    person = people(document)
    if dims == 2:  # visibility is not in the file: what is not at (0, 0) is visible
        person["keypoints"] = [2 if i % 3 == 2 and v else v for i, v in enumerate(person["keypoints"])]
    yaml = f"train: images/train\nval: images/train\nkpt_shape: [17, {dims}]\nnames: {{0: person}}\n"
    file = yolo_set(tmp_path / "set", [yolo_row(person, dims), "0 0.5 0.5 0.2 0.2"], yaml)
    del person["area"]
    (plain,) = load_person_samples(*write(document)).samples
    (sample,) = load_person_samples(file, tmp_path).samples
    assert (sample.image_path.name, sample.image_hw) == ("a.png", (120, 100))
    np.testing.assert_allclose(sample.xy_img, plain.xy_img)
    np.testing.assert_allclose(sample.box_xyxy, plain.box_xyxy)
    assert sample.visibility.tolist() == plain.visibility.tolist()
    assert sample.area == pytest.approx(plain.area)
    assert len(load_person_samples(file, tmp_path, keep_unlabeled=True).samples) == 2
    truth = load_ground_truth(Path(f"{file}:val"), COCO_17)
    assert len(truth.images) == 2
    np.testing.assert_allclose(truth.people.box_xyxy[0], [10, 20, 50, 100])
    assert skeleton_of_file(file) is COCO_17


def test_yolo_with_own_keypoints_and_folders_as_roboflow_writes_them(tmp_path):
    yaml = (
        "train: ../train/images\nkpt_shape: [3, 3]\nflip_idx: [0, 2, 1]\nnames: [bug]\n"
        "kpt_names: {0: [head, wing_a, wing_b]}\n"
    )
    row = "0 0.5 0.5 0.4 0.4 0.5 0.4 2 0.4 0.5 1 0 0 0"
    file = yolo_set(tmp_path, [row], yaml, at="train/images")
    skeleton = skeleton_of_file(file)
    assert (skeleton.keypoint_names, skeleton.flip_pairs) == (("head", "wing_a", "wing_b"), ((1, 2),))
    (sample,) = load_person_samples(file, tmp_path, skeleton=skeleton).samples
    np.testing.assert_allclose(sample.xy_img, [[50, 48], [40, 60], [0, 0]])
    assert sample.visibility.tolist() == [2, 1, 0]


@pytest.mark.parametrize(
    ("row", "yaml", "message"),
    [
        ("0 0.5 0.5 0.4 0.4 0.5", "", "a.txt, line 1: expected class, x, y, width, height and 2 times 3 numbers"),
        ("0 0.5 0.5 0.4 x", "", "a.txt, line 1"),
        ("0 50 50 40 40", "", "line 1: expected fractions of the image"),
        ("", "kpt_shape: 17", r"expected kpt_shape: \[number of keypoints, 2 or 3\], got 17"),
        ("", "flip_idx: [1, 1]", "flip_idx must hold 0 to 1, each once"),
        ("", "flip_idx: ['1', '0']", "flip_idx must hold 0 to 1, each once"),
        ("\udcff", "", "a.txt: expected YOLO labels as text in UTF-8"),
        ("", "train: nowhere", "train: .*nowhere does not exist"),
        ("", "kpt_names: [one]", "kpt_names must be the names of 2 keypoints"),
        ("", "a: &a [1]\nb: [*a", "(?s)cannot be read as YAML .*expected the data.yaml"),
        ("", "a: !!int x", "(?s)cannot be read as YAML .*expected the data.yaml"),
    ],
)
def test_broken_yolo_sets_are_refused_by_file_and_line(tmp_path, row, yaml, message):
    base = {"train": "train: images/train", "kpt_shape": "kpt_shape: [2, 3]"}
    base.pop(yaml.partition(":")[0], None)
    file = yolo_set(tmp_path, [row], "\n".join([*base.values(), yaml]))
    with pytest.raises(DatasetError, match=message):
        load_person_samples(file, tmp_path)


def mark(kind: str, key: str, value: Document, **more: Any) -> Document:
    return {"id": key, "type": kind, "original_width": 100, "original_height": 120, "value": value, **more}


def test_label_studio_json_groups_points_by_rectangle(write, tmp_path):
    box = {"x": 10, "y": 20, "width": 40, "height": 60, "rotation": 0, "rectanglelabels": ["person"]}
    points = {"nose": (30, 25), "left wrist": (45, 60), "RightAnkle": (20, 70)}
    marks = [mark("rectanglelabels", "r", box), mark("rectanglelabels", "s", box | {"x": 60, "width": 30})]
    for number, (name, (x, y)) in enumerate(points.items()):
        parent = {"parentID": "r"} if number else {}  # the first one lies in one rectangle alone
        marks.append(mark("keypointlabels", name, {"x": x, "y": y, "width": 0.5, "keypointlabels": [name]}, **parent))
    task = {"id": 5, "data": {"image": "/data/upload/1/a.png"}, "annotations": [{"result": marks}]}
    file, images = write([task])
    (sample,) = load_person_samples(file, images).samples
    assert sample.xy_img[[0, 9, 16]].tolist() == [[30, 30], [45, 72], [20, 84]]
    assert np.flatnonzero(sample.visibility).tolist() == [0, 9, 16]
    assert sample.box_xyxy.tolist() == [10, 24, 49, 95]
    lost = copy.deepcopy(task)
    lost["annotations"][0]["result"][2]["value"]["x"] = 99
    with pytest.raises(DatasetError, match=r"task 1 \(a.png\): keypoint 'nose' lies in 0 rectangles.*drag"):
        load_person_samples(*write([lost]))


def test_names_of_label_studio_uploads_find_the_files_that_were_uploaded(tmp_path):
    for name in ("a b.png", "c.png", "d%20e.png", "ab12cd34-f.png", "f.png", "g.png", "h.png"):
        (tmp_path / name).touch()
    names = {
        1: "a%20b.png",  # local files
        2: "ab12cd34-c.png",  # an upload
        3: "d%20e.png",  # a name that is there is taken as it is
        4: "ab12cd34-f.png",
        5: "00000000-g.png",  # two uploads of one name: which one g.png is cannot be told
        6: "11111111-g.png",
        7: "ab12cd3-c.png",
        8: "h.png",
        9: "22222222-h.png",  # h.png is another image's
    }
    found = {image_id: path.name for image_id, path in find_images(names, tmp_path).items()}
    assert found == names | {1: "a b.png", 2: "c.png"}


def test_one_entry_for_each_point_is_grouped_or_named(document, write):
    names = {"nose": (30, 25), "left_wrist": (45.5, 60), "right_ankle": (20, 95)}
    document["categories"] = [{"id": number, "name": name} for number, name in enumerate(names)]
    document["annotations"] = [
        {"id": n, "image_id": 3, "category_id": n, "keypoints": [x, y, 2], "num_keypoints": 1, "bbox": [x, y, 1, 1]}
        for n, (x, y) in enumerate(names.values())
    ]
    (sample,) = load_person_samples(*write(document)).samples
    assert sample.xy_img[[0, 9, 16]].tolist() == [list(point) for point in names.values()]
    with pytest.raises(DatasetError, match="no list of images"):
        load_person_samples(*write({**document, "images": None}))
    document["annotations"].append(document["annotations"][0] | {"id": 9})
    with pytest.raises(DatasetError, match=r"one person has \['nose'\] more than once.*draw a rectangle"):
        load_person_samples(*write(document))


def test_flags():
    flags = {True: (1, "1", True, 1.0), False: (0, "FALSE", "no", None), None: ([], 2)}
    assert all(read_flag(value) is flag for flag, values in flags.items() for value in values)


def test_values_in_errors_are_short_however_deep():
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    bomb: Any = "x"
    for _ in range(60):
        bomb = [bomb] * 9
    for value in (deep, bomb, "x" * 10**6, list(range(10**6)), {str(i): i for i in range(1000)}):
        assert len(shortened(value)) < 2000
    error = DatasetError(f"{'a' * 10**5}.jpg is missing\n{'b' * 10**5}.jpg too")
    assert [len(line) for line in str(error).split("\n")] == [2005, 2005]
    assert str(error).endswith("b.jpg too")
    assert len(printable("\x00" * 10**5)) < 10**4
