"""COCO keypoint results: ``predictions.json``, one entry per person, with everything the model said."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from distilpose.formats.record import GrowingFile, PoseRecord


def prediction_rows(record: PoseRecord) -> list[dict[str, Any]]:
    """The people of one image as entries of ``predictions.json``."""
    frame_id: dict[str, Any] = {"image": record.source}
    if record.frame is not None:
        frame_id |= {"frame": record.frame, "time": record.time}
    return [{**frame_id, **person} for person in person_rows(record)]


def person_rows(record: PoseRecord) -> list[dict[str, Any]]:
    """The people of one image as entries without the name of their image."""
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
        if result.track_id is not None:
            row["track_id"] = int(result.track_id[person])
        people.append(row)
    return people


class CocoResults:
    """Writes a COCO results list, one person per line."""

    def __init__(self, path: Path) -> None:
        self._file = GrowingFile(path, b"\n]\n")
        self._file.append(b"[")
        self._first = True

    def write(self, record: PoseRecord) -> None:
        """See `PoseWriter`."""
        self.extend(prediction_rows(record))

    def extend(self, rows: Sequence[dict[str, Any]]) -> None:
        """Write entries that are ready."""
        if rows:
            lines = ",\n".join(json.dumps(row, allow_nan=False) for row in rows)
            self._file.append((("\n" if self._first else ",\n") + lines).encode())
            self._first = False

    def close(self) -> None:
        """See `PoseWriter`."""
        self._file.close()


def write_predictions(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write entries as a json list, one person per line."""
    writer = CocoResults(path)
    try:
        writer.extend(rows)
    finally:
        writer.close()
