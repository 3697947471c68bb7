"""A data set as each annotation tool exports it has the AP that pycocotools gives on the same people in COCO's file."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import yaml
from pycocotools_ap import pycocotools_ap

from distilpose.evaluation.comparison import load_ground_truth
from distilpose.evaluation.metrics.coco_ap import coco_keypoint_ap
from distilpose.skeletons import COCO_17

Document = dict[str, Any]
REAL = Path(__file__).parents[3] / "shared" / "data" / "coco_val_dev"
NAMES = list(COCO_17.keypoint_names)
COCO_17_EDGES = [[start + 1, end + 1] for start, end in COCO_17.edges]
AREA_OF_BOX = 0.53  # what stands for the area where a tool exports none


class Layout(NamedTuple):
    write: Callable[[Document, Path, Path], Path]  # the people, their images, a folder -> the file that we read
    area: float | None = None  # of a person as a share of the box; None: the export has COCO's own
    crowds: bool = True  # whether the tool knows them
    nobody: bool = True  # whether images without people are kept; a task without marks has no size in Label Studio


def boxes(annotation: Document, image: Document) -> list[float]:
    """Center and size as fractions of the image."""
    left, top, width, height = annotation["bbox"]
    return [(left + width / 2) / image["width"], (top + height / 2) / image["height"],
            width / image["width"], height / image["height"]]  # fmt: skip


def people_of(people: Document, image: Document) -> list[Document]:
    return [each for each in people["annotations"] if each["image_id"] == image["id"]]


def yolo(people: Document, images: Path, folder: Path) -> Path:
    (folder / "images").mkdir()
    (folder / "labels").mkdir()
    for image in people["images"]:
        (folder / "images" / image["file_name"]).symlink_to(images / image["file_name"])
        rows = []
        for each in people_of(people, image):
            points = np.reshape(each["keypoints"], (-1, 3)) / [image["width"], image["height"], 1]
            rows.append(" ".join(f"{value:.6g}" for value in [0, *boxes(each, image), *points.ravel()]))
        if rows:
            (folder / "labels" / f"{Path(image['file_name']).stem}.txt").write_text("\n".join(rows))
    names = {"path": str(folder), "train": "images", "val": "images", "names": {0: "person"}}
    file = folder / "data.yaml"
    file.write_text(yaml.safe_dump(names | {"kpt_shape": [17, 3], "flip_idx": COCO_17.flip_index.tolist()}))
    return file


def write_json(file: Path, content: Any) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content))
    return file


def cvat(people: Document, images: Path, folder: Path) -> Path:
    """COCO Keypoints 1.0: annotations/person_keypoints_default.json, attributes, images numbered anew."""
    numbers = {image["id"]: number for number, image in enumerate(people["images"], start=1)}
    more = {"license": 0, "flickr_url": "", "coco_url": "", "date_captured": 0}
    attributes = {"occluded": False, "track_id": 3, "keyframe": True}
    content = {
        "licenses": [{"name": "", "id": 0, "url": ""}],
        "info": {"contributor": "", "date_created": "", "description": "", "url": "", "version": "", "year": ""},
        "categories": [{"id": 1, "name": "person", "supercategory": "", "keypoints": NAMES, "skeleton": COCO_17_EDGES}],
        "images": [image | {"id": numbers[image["id"]]} | more for image in people["images"]],
        "annotations": [
            each | {"id": number, "image_id": numbers[each["image_id"]], "segmentation": [], "attributes": attributes}
            for number, each in enumerate(people["annotations"], start=1)
        ],
    }
    return write_json(folder / "annotations" / "person_keypoints_default.json", content)


def roboflow(people: Document, images: Path, folder: Path) -> Path:
    """train/_annotations.coco.json: a category without keypoints, names with a hash, ids from 0, the area of boxes."""
    numbers = {image["id"]: number for number, image in enumerate(people["images"])}
    categories = [
        {"id": 0, "name": "people", "supercategory": "none"},
        {"id": 1, "name": "person", "supercategory": "people", "keypoints": NAMES, "skeleton": COCO_17_EDGES},
    ]
    listed = []
    for image in people["images"]:
        name = f"{image['file_name'].replace('.', '_')}.rf.{image['id']:032x}.jpg"
        date = {"license": 1, "date_captured": "2024-05-01T10:00:00+00:00"}
        listed.append(
            image | {"id": numbers[image["id"]], "file_name": name, "extra": {"name": image["file_name"]}} | date
        )
    annotations = [
        each | {"id": number, "image_id": numbers[each["image_id"]], "area": each["bbox"][2] * each["bbox"][3],
                "segmentation": []}
        for number, each in enumerate(people["annotations"])
    ]  # fmt: skip
    content = {"info": {"year": "2024", "version": "1"}, "licenses": [{"id": 1, "url": "", "name": "CC BY 4.0"}]}
    content |= {"categories": categories, "images": listed, "annotations": annotations}
    return write_json(folder / "train" / "_annotations.coco.json", content)


def coco_annotator(people: Document, images: Path, folder: Path) -> Path:
    """Flags that are true or false, whole paths, many fields of its own, categories in the order of their making."""
    own = {"dataset_id": 2, "deleted": False, "metadata": {}, "milliseconds": 0, "events": []}
    categories = [
        {"id": 4, "name": "dog", "supercategory": "", "color": "#1f6b9e", "keypoint_colors": []},
        {"id": 7, "name": "person", "supercategory": "", "color": "#e0a0b0", "keypoints": NAMES,
         "skeleton": COCO_17_EDGES, "keypoint_colors": ["#bf5c4d"] * 17},
    ]  # fmt: skip
    listed = [
        image | own | {"path": f"/datasets/people/{image['file_name']}", "category_ids": [7], "annotated": True}
        for image in people["images"]
    ]
    annotations = [
        each | own | {"category_id": 7, "iscrowd": bool(each["iscrowd"]), "isbbox": False, "creator": "system",
                      "segmentation": [[1, 1, 2, 1, 2, 2]], "color": "#44ff00"}
        for each in people["annotations"]
    ]  # fmt: skip
    return write_json(folder / "people.json", {"images": listed, "categories": categories, "annotations": annotations})


def label_studio(people: Document, images: Path, folder: Path) -> Path:
    """Its own JSON: percent of the image, a rectangle for each person and its points as children; no visibility."""
    tasks = []
    for task, image in enumerate(people["images"], start=1):
        size = {"original_width": image["width"], "original_height": image["height"], "image_rotation": 0}
        scale = 100 / np.array([image["width"], image["height"]])
        marks: list[Document] = []
        for each in people_of(people, image):
            (left, top), (width, height) = each["bbox"][:2] * scale, each["bbox"][2:] * scale
            value = {
                "x": left,
                "y": top,
                "width": width,
                "height": height,
                "rotation": 0,
                "rectanglelabels": ["person"],
            }
            marks.append({"id": f"r{each['id']}", "type": "rectanglelabels", "value": value, **size,
                          "from_name": "box", "to_name": "image"})  # fmt: skip
            for name, (x, y, visible) in zip(NAMES, np.reshape(each["keypoints"], (-1, 3)), strict=True):
                if visible:
                    point = {"x": x * scale[0], "y": y * scale[1], "width": 0.5, "keypointlabels": [name]}
                    marks.append({"id": f"{each['id']}{name}", "type": "keypointlabels", "value": point, **size,
                                  "parentID": f"r{each['id']}", "from_name": "point", "to_name": "image"})  # fmt: skip
        data = {"image": f"/data/upload/1/{image['file_name']}"}
        tasks.append({"id": task, "data": data, "annotations": [{"id": task, "result": marks}], "predictions": []})
    return write_json(folder / "project-1-at-2024-05-01.json", tasks)


def supervision(people: Document, images: Path, folder: Path) -> Path:
    """`DetectionDataset.as_coco`, run as it is; it writes boxes alone, so that keypoints are put beside them."""
    sv = pytest.importorskip("supervision")
    found, order = {}, []
    for image in people["images"]:
        here = people_of(people, image)
        xywh = np.array([each["bbox"] for each in here], dtype=float).reshape(-1, 4)
        xyxy = np.hstack([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]])
        areas = np.array([each["area"] for each in here])
        crowds = np.array([each["iscrowd"] for each in here])
        found[str(images / image["file_name"])] = sv.Detections(
            xyxy, class_id=np.zeros(len(here), dtype=int), data={"area": areas, "iscrowd": crowds}
        )
        order += here
    file = folder / "annotations.json"
    sv.DetectionDataset(["person"], list(found), found).as_coco(annotations_path=str(file))
    content = json.loads(file.read_text())
    for entry, each in zip(content["annotations"], order, strict=True):
        entry["keypoints"] = each["keypoints"]
    return write_json(file, content)


LAYOUTS = {
    "COCO": Layout(lambda people, _, folder: write_json(folder / "people.json", people)),
    "CVAT": Layout(cvat),
    "Roboflow": Layout(roboflow, area=1.0),
    "COCO Annotator": Layout(coco_annotator),
    "supervision": Layout(supervision),
    "YOLO-pose": Layout(yolo, area=AREA_OF_BOX, crowds=False),
    "Label Studio": Layout(label_studio, area=AREA_OF_BOX, crowds=False, nobody=False),
}


def predictions(people: Document) -> list[Document]:
    """People near the true ones, some of them far off, and one in each image who is not there."""
    rng = np.random.default_rng(0)
    found = []
    for each in people["annotations"]:
        keypoints = np.array(each["keypoints"], dtype=float).reshape(-1, 3)
        spread = 0.06 * rng.exponential() * np.sqrt(each["area"])
        keypoints[:, :2] += rng.normal(size=(17, 2)) * spread
        found.append({"image_id": each["image_id"], "keypoints": keypoints.ravel().tolist(), "score": rng.uniform()})
    for image in people["images"]:
        keypoints = np.column_stack([rng.uniform(0, 100, (17, 2)), np.ones(17)])
        found.append({"image_id": image["id"], "keypoints": keypoints.ravel().tolist(), "score": rng.uniform()})
    return [each | {"category_id": 1} for each in found]


@pytest.mark.parametrize("tool", LAYOUTS)
@pytest.mark.parametrize("source", ["small", pytest.param("coco_val_dev", marks=pytest.mark.slow)])
def test_ap_is_that_of_pycocotools_on_the_original(source, tool, document, images, tmp_path) -> None:
    people, layout = document, LAYOUTS[tool]
    if source == "coco_val_dev":
        if not REAL.is_dir():
            pytest.skip(f"real people are not part of the repository and {REAL} is not there")
        people, images = json.loads((REAL / "person_keypoints.json").read_text()), REAL / "images"
    original = copy.deepcopy(people)
    original["annotations"] = [each for each in original["annotations"] if layout.crowds or not each["iscrowd"]]
    if not layout.nobody:
        original["images"] = [image for image in original["images"] if people_of(original, image)]
    for number, each in enumerate(original["annotations"], start=1):
        width, height = each["bbox"][2:]
        each |= {"id": number, "area": layout.area * width * height if layout.area else each["area"]}
    folder = tmp_path / "exported"
    folder.mkdir()
    truth = load_ground_truth(layout.write(original, images, folder), COCO_17)
    results = predictions(original)
    expected = pycocotools_ap(original, results)

    ids = {image["file_name"]: image["id"] for image in original["images"]}
    place = {}
    for image_id, image in truth.images.items():
        name = Path(image["file_name"]).name
        place[ids[image["extra"]["name"] if tool == "Roboflow" else name]] = image_id
    moved = [each | {"image_id": place[each["image_id"]]} for each in results]
    assert 0.2 < expected[0] < 0.9
    np.testing.assert_allclose(list(coco_keypoint_ap(truth.coco, moved).values()), expected, atol=1e-9)
    np.testing.assert_allclose(pycocotools_ap(dict(truth.coco), moved), expected, atol=1e-9)
