"""COCO keypoint results, one entry per person with everything the model said; and JSON lines of the same entries."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from distilpose.formats.record import GrowingFile, PoseRecord

_OF_COCO = ("image_id", "category_id")  # said once for all people of a line, or not at all


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
