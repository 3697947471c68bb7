"""JSON lines: one line per image or frame, those without people as well."""

from __future__ import annotations

import json
from pathlib import Path

from distilpose.formats.coco import person_rows
from distilpose.formats.record import GrowingFile, PoseRecord

_OF_COCO = ("image_id", "category_id")  # said once for all people of a line, or not at all


class JsonLines:
    """Writes ``source``, ``image_id``, ``frame``, ``time``, ``size_hw`` and ``people``, a line each."""

    def __init__(self, path: Path) -> None:
        self._file = GrowingFile(path)

    def write(self, record: PoseRecord) -> None:
        """See `PoseWriter`."""
        line = {
            "source": record.source,
            "image_id": record.image_id,
            "frame": record.frame,
            "time": record.time,
            "size_hw": record.size_hw,
            "people": [{name: row[name] for name in row if name not in _OF_COCO} for row in person_rows(record)],
        }
        self._file.append(json.dumps(line, allow_nan=False).encode() + b"\n")

    def close(self) -> None:
        """See `PoseWriter`."""
        self._file.close()
