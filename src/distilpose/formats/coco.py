"""COCO keypoint results, JSON lines of the same entries, and annotation files as CVAT and FiftyOne open them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from distilpose.formats.image_ids import fill_ids
from distilpose.formats.record import ComposedFile, GrowingFile, ImageNames, PoseRecord, image_size
from distilpose.geometry import xyxy_to_xywh
from distilpose.inference.decoding import KEYPOINT_SCORE_THRESHOLD

_OF_COCO = ("image_id", "category_id")  # said once for all people of a line, or not at all
_PERSON = {"id": 1, "name": "person", "supercategory": "person"}


def prediction_rows(record: PoseRecord) -> list[dict[str, Any]]:
    """The people of one image as entries of ``predictions.json``."""
    frame_id: dict[str, Any] = {"image": record.source}
    if record.frame is not None:
        frame_id |= {"frame": record.frame, "time": record.time}
    return [{**frame_id, **person} for person in _people(record)]


def _people(record: PoseRecord) -> list[dict[str, Any]]:
    result = record.result
    people = []
    for person, entry in enumerate(result.to_coco(record.image_id)):
        row = {
            **entry,
            "box_xyxy": result.box[person].tolist(),
            "box_score": float(result.box_score[person]),
            "raw_score": None if result.raw_score is None else result.raw_score[person].tolist(),
            "sigma": None if result.sigma is None else result.sigma[person].tolist(),
        }
        people.append(row if result.track_id is None else {**row, "track_id": int(result.track_id[person])})
    return people


def coco_results(path: Path) -> GrowingFile:
    """Writes a COCO results list, one person per line."""

    def entry(record: PoseRecord, first: bool) -> str:
        lines = ",\n".join(json.dumps(row, allow_nan=False) for row in prediction_rows(record))
        return ("\n" if first else ",\n") + lines if lines else ""

    return GrowingFile(path, entry, head="[", tail="\n]\n")


def json_lines(path: Path) -> GrowingFile:
    """Writes a line per image or frame, those without people as well: what a record says, and ``people``."""

    def entry(record: PoseRecord, first: bool) -> str:
        people = [{name: row[name] for name in row if name not in _OF_COCO} for row in _people(record)]
        fields = {name: getattr(record, name) for name in ("source", "image_id", "frame", "time", "size_hw")}
        return json.dumps({**fields, "people": people}, allow_nan=False) + "\n"

    return GrowingFile(path, entry)


def coco_dataset(path: Path) -> ComposedFile:
    """Writes an annotation file; keypoints with a score below 0.2 are not labeled, as in COCO: (0, 0), visibility 0.

    Images without an ``image_id`` get the first free numbers. Frames of a video are named as in
    `ImageNames`. ``area`` is that of the box.
    """
    names = ImageNames()

    def entry(record: PoseRecord) -> dict[str, Any]:
        height, width = image_size(record, "coco-dataset")
        skeleton = record.result.skeleton
        return {
            "image": {"id": record.image_id, "file_name": names.listed(record), "height": height, "width": width},
            "people": _annotations(record),
            "category": {"keypoints": skeleton.keypoint_names, "skeleton": [[a + 1, b + 1] for a, b in skeleton.edges]},
        }

    return ComposedFile(path, entry, _compose)


def _annotations(record: PoseRecord) -> list[dict[str, Any]]:
    result = record.result
    score = np.ones(result.xy.shape[:2]) if result.score is None else result.score
    sure = score >= KEYPOINT_SCORE_THRESHOLD
    keypoints = np.concatenate([np.where(sure[..., None], result.xy, 0), 2.0 * sure[..., None]], axis=-1)
    rows = []
    for person, box_xywh in enumerate(xyxy_to_xywh(result.box)):
        row = {
            "category_id": _PERSON["id"],
            "iscrowd": 0,
            "bbox": box_xywh.tolist(),
            "area": float(box_xywh[2:].prod()),
            "keypoints": [value for x, y, v in keypoints[person].tolist() for value in (x, y, int(v))],
            "num_keypoints": int(sure[person].sum()),
            "score": float(result.pose_score[person]),
        }
        rows.append(row if result.track_id is None else {**row, "track_id": int(result.track_id[person])})
    return rows


def _compose(file: BinaryIO, entries: Callable[[], Iterator[Any]]) -> None:
    ids = fill_ids([entry["image"]["id"] for entry in entries()])
    category: dict[str, Any] = {}

    def images() -> Iterator[Any]:
        for number, entry in zip(ids, entries(), strict=True):
            category.update(entry["category"])
            yield {**entry["image"], "id": number}

    def annotations() -> Iterator[Any]:
        numbers = count(1)
        for image_id, entry in zip(ids, entries(), strict=True):
            yield from ({"id": next(numbers), "image_id": image_id, **person} for person in entry["people"])

    for head, rows in ((b'{"images": [', images()), (b'],\n"annotations": [', annotations())):
        file.write(head)
        for place, row in enumerate(rows):
            file.write(("," if place else "").encode() + b"\n" + json.dumps(row, allow_nan=False).encode())
    file.write(f'],\n"categories": [{json.dumps({**_PERSON, **category})}]}}\n'.encode())
