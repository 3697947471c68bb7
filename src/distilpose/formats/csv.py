"""CSV for statistics: long (a row per keypoint), wide (a row per person), and DeepLabCut's four header rows."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from distilpose.formats.record import ComposedFile, GrowingFile, ImageNames, PoseRecord

_BOX = ("box_x1", "box_y1", "box_x2", "box_y2")
_LONG = (
    "source", "image_id", "frame", "time", "person", "track_id", "keypoint", "x", "y", "score", "raw_score", "sigma_x",
    "sigma_y", *_BOX, "box_score", "pose_score",
)  # fmt: skip
_WIDE = ("source", "image_id", "frame", "time", "person", "track_id", "pose_score", "box_score", *_BOX)
_DLC_COORDS = ("x", "y", "likelihood")


class LongCsv:
    """Writes a row per person and keypoint, with the columns of `PoseResult.to_pandas`; empty cells are unknown."""

    def __init__(self, path: Path) -> None:
        self._file = GrowingFile(path)
        self._file.append(_lines([_LONG]))

    def write(self, record: PoseRecord) -> None:
        """See `PoseWriter`."""
        result = record.result
        nothing = np.full(result.xy.shape, None)
        columns = [result.xy]
        columns += [nothing[..., :1] if v is None else v[..., None] for v in (result.score, result.raw_score)]
        columns.append(nothing if result.sigma is None else result.sigma)
        values = np.concatenate([column.astype(object) for column in columns], axis=-1).tolist()
        rows = []
        for person, numbers in enumerate(values):
            after = [*result.box[person].tolist(), float(result.box_score[person]), float(result.pose_score[person])]
            for name, row in zip(result.skeleton.keypoint_names, numbers, strict=True):
                rows.append([*_ids(record, person), name, *row, *after])
        self._file.append(_lines(rows))

    def close(self) -> None:
        """See `PoseWriter`."""
        self._file.close()


class WideCsv:
    """Writes a row per person; each keypoint has the columns ``NAME_x``, ``NAME_y`` and ``NAME_score``."""

    def __init__(self, path: Path) -> None:
        self._file = GrowingFile(path)
        self._has_header = False

    def write(self, record: PoseRecord) -> None:
        """See `PoseWriter`."""
        result, names = record.result, record.result.skeleton.keypoint_names
        rows: list[list[Any]] = []
        if not self._has_header:
            rows.append([*_WIDE, *(f"{name}_{part}" for name in names for part in ("x", "y", "score"))])
        for person, values in enumerate(_triples(record)):
            scores = [float(result.pose_score[person]), float(result.box_score[person])]
            rows.append([*_ids(record, person), *scores, *result.box[person].tolist(), *values])
        self._file.append(_lines(rows))
        self._has_header = True

    def close(self) -> None:
        """See `PoseWriter`."""
        self._file.close()


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
        if name not in self._files:
            self._files[name] = ComposedFile(self._path / f"{name}.csv", _compose_dlc)
        result = record.result
        who = _individuals(record)
        self._files[name].append(
            {
                "row": image_name if record.frame is None else record.frame,
                "people": dict(zip(who, _triples(record), strict=True)),
                "keypoints": result.skeleton.keypoint_names,
            }
        )

    def close(self) -> None:
        """See `PoseWriter`."""
        for file in self._files.values():
            file.close()


def _individuals(record: PoseRecord) -> list[str]:
    ids = record.result.track_id
    return [f"person{row + 1}" if ids is None else f"track{ids[row]}" for row in range(len(record.result))]


def _compose_dlc(file: BinaryIO, entries: Callable[[], Iterator[Any]]) -> None:
    people: dict[str, None] = {}
    keypoints: list[str] = []
    for entry in entries():
        people.update(dict.fromkeys(entry["people"]))
        keypoints = entry["keypoints"]
    width = len(keypoints) * len(_DLC_COORDS)
    file.write(
        _lines(
            [
                ["scorer", *["distilpose"] * (len(people) * width)],
                ["individuals", *(name for name in people for _ in range(width))],
                ["bodyparts", *[name for name in keypoints for _ in _DLC_COORDS] * len(people)],
                ["coords", *_DLC_COORDS * (len(people) * len(keypoints))],
            ]
        )
    )
    for entry in entries():
        cells = [entry["people"].get(name, [None] * width) for name in people]
        file.write(_lines([[entry["row"], *(value for person in cells for value in person)]]))


def _ids(record: PoseRecord, person: int) -> list[Any]:
    track = None if record.result.track_id is None else int(record.result.track_id[person])
    return [record.source, record.image_id, record.frame, record.time, person, track]


def _triples(record: PoseRecord) -> list[list[Any]]:
    """x, y and score of each keypoint, person by person; no score where the model has none."""
    result = record.result
    score = np.full(result.xy.shape[:2], None) if result.score is None else result.score
    values = np.concatenate([result.xy.astype(object), score.astype(object)[..., None]], axis=-1)
    return [list(row) for row in values.reshape(len(result), 3 * result.xy.shape[1])]


def _lines(rows: Iterable[Iterable[Any]]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode()
