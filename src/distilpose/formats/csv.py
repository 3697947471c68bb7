"""CSV for statistics: long (a row per keypoint), wide (a row per person), and DeepLabCut's four header rows."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from distilpose.formats.conversions import BOX_COLUMNS, table_columns
from distilpose.formats.record import ComposedFile, GrowingFile, ImageNames, PoseRecord

_SOURCE = ("source", "image_id", "frame", "time")
_LONG = (
    "person", "track_id", "keypoint", "x", "y", "score", "raw_score", "sigma_x", "sigma_y", *BOX_COLUMNS, "box_score",
    "pose_score",
)  # fmt: skip
_WIDE = ("person", "track_id", "pose_score", "box_score", *BOX_COLUMNS)
_DLC_COORDS = ("x", "y", "likelihood")


def long_csv(path: Path) -> GrowingFile:
    """Writes a row per person and keypoint, with the columns of `PoseResult.to_pandas`; empty cells are unknown."""

    def entry(record: PoseRecord, first: bool) -> str:
        columns = table_columns(record.result)
        nothing = [None] * len(columns["person"])
        cells = [columns[name].tolist() if name in columns else nothing for name in _LONG]
        return _lines([*_source(record), *row] for row in zip(*cells, strict=True))

    return GrowingFile(path, entry, head=_lines([[*_SOURCE, *_LONG]]))


def wide_csv(path: Path) -> GrowingFile:
    """Writes a row per person; each keypoint has the columns ``NAME_x``, ``NAME_y`` and ``NAME_score``."""

    def entry(record: PoseRecord, first: bool) -> str:
        result = record.result
        names = [f"{name}_{part}" for name in result.skeleton.keypoint_names for part in ("x", "y", "score")]
        rows: list[list[Any]] = [[*_SOURCE, *_WIDE, *names]] if first else []
        tracks = [None] * len(result) if result.track_id is None else result.track_id.tolist()
        scores = zip(result.pose_score.tolist(), result.box_score.tolist(), result.box.tolist(), strict=True)
        for person, (values, track, (pose, box, sides)) in enumerate(
            zip(_triples(record), tracks, scores, strict=True)
        ):
            rows.append([*_source(record), person, track, pose, box, *sides, *values])
        return _lines(rows)

    return GrowingFile(path, entry)


class DeepLabCutFolder:
    """Writes a CSV per video, and ``images.csv`` for images, as DeepLabCut's for several animals.

    Rows are frames (or image names); the columns have four header rows: scorer, individuals (``track4``, or
    ``person1`` on images), bodyparts, coords. ``pandas.read_csv(file, header=[0, 1, 2, 3], index_col=0)`` reads it.
    """

    def __init__(self, path: Path) -> None:
        path.mkdir(exist_ok=True)
        self._path, self._names = path, ImageNames()
        self._files: dict[str, ComposedFile] = {}

    def write(self, record: PoseRecord) -> None:
        """See `PoseWriter`."""
        image_name = self._names.of(record)
        name = "images" if record.frame is None else image_name.rpartition("_")[0]
        if record.frame is not None and name.lower() == "images":
            name += "_video"  # not into the file of the images
        if name not in self._files:
            self._files[name] = ComposedFile(self._path / f"{name}.csv", self._entry, _compose_dlc)
        self._files[name].write(record)

    def _entry(self, record: PoseRecord) -> dict[str, Any]:
        result = record.result
        tracks = [None] * len(result) if result.track_id is None else result.track_id.tolist()
        who = [f"person{row + 1}" if track is None else f"track{track}" for row, track in enumerate(tracks)]
        return {
            "row": self._names.of(record) if record.frame is None else record.frame,
            "people": dict(zip(who, _triples(record), strict=True)),
            "keypoints": result.skeleton.keypoint_names,
        }

    def close(self) -> None:
        """See `PoseWriter`."""
        for file in self._files.values():
            file.close()


def _compose_dlc(file: BinaryIO, entries: Callable[[], Iterator[Any]]) -> None:
    people: dict[str, None] = {}
    keypoints: list[str] = []
    for entry in entries():
        people.update(dict.fromkeys(entry["people"]))
        keypoints = entry["keypoints"]
    width = len(keypoints) * len(_DLC_COORDS)
    header = [
        ["scorer", *["distilpose"] * (len(people) * width)],
        ["individuals", *(name for name in people for _ in range(width))],
        ["bodyparts", *[name for name in keypoints for _ in _DLC_COORDS] * len(people)],
        ["coords", *_DLC_COORDS * (len(people) * len(keypoints))],
    ]
    file.write(_lines(header).encode())
    for entry in entries():
        cells = [entry["people"].get(name, [None] * width) for name in people]
        file.write(_lines([[entry["row"], *(value for person in cells for value in person)]]).encode())


def _source(record: PoseRecord) -> list[Any]:
    return [getattr(record, name) for name in _SOURCE]


def _triples(record: PoseRecord) -> list[list[Any]]:
    """x, y and score of each keypoint, person by person; no score where the model has none."""
    result = record.result
    score = np.full(result.xy.shape[:2], None) if result.score is None else result.score
    values = np.concatenate([result.xy.astype(object), score.astype(object)[..., None]], axis=-1)
    return [list(row) for row in values.reshape(len(result), 3 * result.xy.shape[1])]


def _lines(rows: Iterable[Iterable[Any]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()
