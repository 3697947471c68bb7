"""The images that are labeled, and what an interrupted run has done of them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

from distilpose.errors import ConfigError
from distilpose.geometry import xyxy_to_xywh
from distilpose.types import FloatArray

PEOPLE_PER_IMAGE = 1000  # annotation ids of an image: number of the image times this, and on


class LabelTask(NamedTuple):
    """An image to label."""

    image_id: int
    path: Path
    boxes_xyxy: FloatArray | None  # None: the detector finds them
    annotation_ids: Sequence[int]


def match_records(
    tasks: Sequence[LabelTask], records: Sequence[dict[str, Any]], folder: Path, *, from_annotations: bool
) -> tuple[list[LabelTask], dict[int, dict[str, Any]]]:
    """The images with ids of their own, and by id what an interrupted run has labeled of them.

    A record is of the image of its ``file_name``, wherever that stands in the list now; of an annotation file
    (``from_annotations``) of the image of its id. One whose boxes have changed is left out. New images of a list get
    free ids.
    """
    key = "id" if from_annotations else "file_name"
    by_key = {record["image"][key]: record for record in records}
    taken = {record["image"]["id"] for record in records}
    free = count(max([*taken, *(task.image_id for task in tasks)], default=0) + 1)
    matched, done = [], {}
    for task in tasks:
        record = by_key.get(task.image_id if from_annotations else name_in_folder(task.path, folder))
        if record is not None and _is_of(record, task, from_annotations):
            task = task._replace(image_id=record["image"]["id"])
            done[task.image_id] = record
        elif not from_annotations and task.image_id in taken:
            image_id = next(free)
            task = task._replace(image_id=image_id, annotation_ids=people_ids(image_id, len(task.annotation_ids)))
        matched.append(task)
    return matched, done


def _is_of(record: Mapping[str, Any], task: LabelTask, from_annotations: bool) -> bool:
    """Whether an image's record is of these boxes and, in an annotation file, of these annotations."""
    if from_annotations and [*task.annotation_ids] != _column(record, "id"):
        return False
    if task.boxes_xyxy is None:
        return True
    return [box_as_labeled(box, from_annotations) for box in task.boxes_xyxy] == _column(record, "bbox")


def _column(record: Mapping[str, Any], name: str) -> list[Any]:
    return [entry[name] for entry in record["annotations"]]


def name_in_folder(path: Path, folder: Path) -> str:
    """The ``file_name`` of an image."""
    return (path.relative_to(folder) if path.is_relative_to(folder) else path).as_posix()


def people_ids(image_id: int, count: int) -> Sequence[int]:
    """Annotation ids of the people in an image, the same in every run."""
    return range(image_id * PEOPLE_PER_IMAGE, image_id * PEOPLE_PER_IMAGE + count)


def box_as_labeled(box_xyxy: FloatArray, from_annotations: bool) -> list[float]:
    """A box as the file of labels holds it: x, y, width, height in image pixels."""
    box_xywh = xyxy_to_xywh(box_xyxy)[0]
    if from_annotations:
        box_xywh[2:] += 1  # reading annotations took one pixel off, see `clip_boxes_xyxy`
    return [float(value) for value in box_xywh.round(2)]


def read_records(file: Path, options: Mapping[str, Any], teacher: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What an interrupted run with these options and this teacher, by its description, has labeled.

    A new file notes both.

    Raises:
        ConfigError: the file is damaged, or of another run.
    """
    own = json.loads(json.dumps({"options": dict(options), "teacher": dict(teacher)}))
    text = file.read_text(encoding="utf-8") if file.exists() else ""
    whole = text[: text.rfind("\n") + 1] or json.dumps(own) + "\n"  # a last line may be cut off
    if whole != text:
        file.write_text(whole, encoding="utf-8")
    try:
        first, *records = map(json.loads, whole.splitlines())
    except ValueError as error:
        raise ConfigError(f"{file} is damaged ({error}): delete it") from error
    before = {"teacher": own["teacher"], **(first if isinstance(first, dict) else {})}  # earlier versions noted none
    for name, other in (("options", "other options"), ("teacher", "another teacher, or one trained again since")):
        if before.get(name) != own[name]:
            raise ConfigError(f"{file} holds labels of a run with {other}: choose another --out, or delete it")
    return records
