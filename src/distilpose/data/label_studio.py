"""Label Studio's exports, which hold every keypoint by itself, with the keypoints of a person put together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from distilpose.data.files import entries_of, finite_numbers, shortened
from distilpose.errors import DatasetError
from distilpose.skeletons import SKELETONS, name_key

_Point = tuple[str, float, float]  # name, x and y in image pixels


def is_label_studio(content: Any) -> bool:
    """Whether a json file is Label Studio's own: a list of tasks."""
    return isinstance(content, list) and bool(content) and isinstance(content[0], dict) and "annotations" in content[0]


def tasks_to_coco(tasks: Sequence[Any], file: Path) -> dict[str, Any]:
    """Label Studio's tasks as a COCO document: a person is a rectangle and the points that belong to it.

    A point belongs to the rectangle that is its parent, else to the only one around it. In an image without rectangles
    all points are one person's.

    Raises:
        DatasetError: a task is broken, or it cannot be told whose a point is.

    Source:
        https://labelstud.io/guide/task_format, https://labelstud.io/tags/keypointlabels
    """
    images: list[dict[str, Any]] = []
    people: list[tuple[int, list[_Point], list[float] | None]] = []
    for number, task in enumerate(tasks, start=1):
        try:
            marks = [mark for each in task["annotations"] for mark in each["result"] if "original_width" in mark]
            boxes = {mark["id"]: _box(mark) for mark in marks if mark["type"].startswith("rectangle")}
            points = [(mark.get("parentID"), _point(mark)) for mark in marks if mark["type"] == "keypointlabels"]
            if not marks:
                continue
            name = str(task["data"].get("image") or next(iter(task["data"].values())))
            image = {"width": marks[0]["original_width"], "height": marks[0]["original_height"]}
        except (KeyError, TypeError, AttributeError, StopIteration, IndexError) as error:
            raise DatasetError(f"{file}: task {number} is not as Label Studio writes it ({error!r})") from error
        name = unquote(name.rpartition("?d=")[2]) if "?d=" in name else name.rpartition("/")[2]
        images.append({"id": number, "file_name": name, **image})
        grouped: dict[Any, list[_Point]] = {key: [] for key in boxes}
        for parent, point in points:
            grouped.setdefault(_owner(parent, point, boxes, f"{file}: task {number} ({name})"), []).append(point)
        for key, group in grouped.items():
            _check_once([point[0] for point in group], f"{file}: task {number} ({name})")
            people.append((number, group, boxes.get(key)))
    return _document(images, people)


def group_points(document: dict[str, Any], file: Path) -> dict[str, Any]:
    """A COCO document with one annotation for each point, as Label Studio exports it, grouped; any other as it is.

    The keypoint's name is the category's. An image can hold one person then: which point is whose is not in the file.

    Raises:
        DatasetError: an image has one keypoint twice.
    """
    categories = entries_of(document, "categories")
    names = {str(entry.get("id")): str(entry.get("name")) for entry in categories}
    marks = [entry for entry in entries_of(document, "annotations") if entry.get("keypoints")]
    points = [finite_numbers(entry["keypoints"], 3) for entry in marks]
    kinds = {str(entry.get("category_id")) for entry in marks}
    if len(kinds) < 2 or any(point is None for point in points) or any(entry.get("keypoints") for entry in categories):
        return document
    people: dict[Any, list[_Point]] = {}
    for entry, point in zip(marks, points, strict=True):
        if point is not None and point[2] > 0 and isinstance(entry.get("image_id"), int | str):
            kind = str(entry.get("category_id"))
            people.setdefault(entry["image_id"], []).append((names.get(kind, kind), point[0], point[1]))
    for image_id, group in people.items():
        _check_once([point[0] for point in group], f"{file}: image {image_id}")
    return _document(document.get("images"), [(image_id, group, None) for image_id, group in people.items()])


def _box(mark: Mapping[str, Any]) -> list[float]:
    """Left, top, width, height in image pixels."""
    value, scale = mark["value"], (mark["original_width"] / 100, mark["original_height"] / 100)
    return [value["x"] * scale[0], value["y"] * scale[1], value["width"] * scale[0], value["height"] * scale[1]]


def _point(mark: Mapping[str, Any]) -> _Point:
    value = mark["value"]
    x, y = value["x"] * mark["original_width"] / 100, value["y"] * mark["original_height"] / 100
    return str(value["keypointlabels"][0]), x, y


def _owner(parent: Any, point: _Point, boxes: Mapping[Any, list[float]], where: str) -> Any:
    if parent in boxes or not boxes:
        return parent if parent in boxes else None
    _, x, y = point
    around = [key for key, (left, top, w, h) in boxes.items() if left <= x <= left + w and top <= y <= top + h]
    if len(around) != 1:
        raise DatasetError(
            f"{where}: keypoint {point[0]!r} lies in {len(around)} rectangles and has no parent: in Label Studio, drag "
            "it into the person's rectangle in the list of regions, and export again"
        )
    return around[0]


def _check_once(names: Sequence[str], where: str) -> None:
    if doubled := sorted({name for name in names if names.count(name) > 1}):
        raise DatasetError(
            f"{where}: one person has {shortened(doubled)} more than once: where several people stand in an image, "
            "draw a rectangle for each, drag their keypoints into it, and export Label Studio's own JSON"
        )


def _document(images: Any, people: Iterable[tuple[Any, list[_Point], list[float] | None]]) -> dict[str, Any]:
    people = list(people)
    seen = list(dict.fromkeys(name for _, points, _ in people for name, _, _ in points))
    keys = {name_key(name) for name in seen}
    whole = [known for known in SKELETONS.values() if keys <= {name_key(name) for name in known.keypoint_names}]
    names = list(whole[0].keypoint_names) if whole else seen
    place = {name_key(name): index for index, name in enumerate(names)}
    annotations: list[dict[str, Any]] = []
    for image_id, points, box in people:
        keypoints: list[float] = [0] * (3 * len(names))
        for name, x, y in points:
            start = 3 * place[name_key(name)]
            keypoints[start : start + 3] = x, y, 2
        annotations.append({"id": len(annotations) + 1, "image_id": image_id, "category_id": 1, "keypoints": keypoints})
        annotations[-1] |= {} if box is None else {"bbox": box}
    category = {"id": 1, "name": "person", "keypoints": names}
    return {"images": images, "annotations": annotations, "categories": [category]}
