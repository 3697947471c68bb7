"""Where poses are written: predictions.json, JSON lines, Parquet. Each is readable at any time, whatever happens."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from distilpose.errors import ConfigError
from distilpose.inference.result import PoseResult

if TYPE_CHECKING:
    import pyarrow

PREDICTIONS_NAME = "predictions.json"
JSON_LINES_NAME = "poses.jsonl"
PARQUET_NAME = "poses.parquet"
PARQUET_ROWS = 10_000  # people in a file of the Parquet folder, and most that a crash can cost


_OF_COCO = ("image_id", "category_id")  # said once for all people of a line, or not at all


class PoseRecord(NamedTuple):
    """The people of one image or frame.

    Attributes:
        source: the image, video or camera, as written into the files.
        result: its people.
        size_hw: (H, W) of the image in pixels.
        image_id: of an image; None if it has none.
        frame: number of the frame in a video; None for an image.
        time: of the frame in seconds; None for an image.
    """

    source: str
    result: PoseResult
    size_hw: tuple[int, int]
    image_id: int | None = None
    frame: int | None = None
    time: float | None = None


class PoseWriter(Protocol):
    """Takes frame after frame. Its file has its name when it is closed, and can be read before as ``.NAME.part``."""

    def add(self, found: PoseRecord) -> None:
        """Write the people of a frame; an error leaves the frames before it readable."""
        ...

    def close(self) -> None:
        """Finish; a second call does nothing."""
        ...


def prediction_rows(found: PoseRecord) -> list[dict[str, Any]]:
    """The people of one image as entries of ``predictions.json``."""
    frame_id: dict[str, Any] = {"image": found.source}
    if found.frame is not None:
        frame_id |= {"frame": found.frame, "time": found.time}
    return [{**frame_id, **person} for person in _people(found)]


def _people(found: PoseRecord) -> list[dict[str, Any]]:
    result = found.result
    people = []
    for person, entry in enumerate(result.to_coco(found.image_id)):
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


class _GrowingFile:
    """A file that only ever ends with a whole entry: what cannot be written whole is taken back."""

    def __init__(self, path: Path, tail: bytes) -> None:
        self._path, self._part = path, path.with_name(f".{path.name}.part")
        self._file = self._part.open("wb", buffering=0)
        self._tail = tail
        self._end = 0  # of the entries; the tail follows

    def append(self, entry: bytes) -> None:
        try:
            self._write(entry + self._tail)
        except BaseException:
            self._file.truncate(self._end)  # a full disk has room for the tail that stood there before
            self._write(self._tail)
            raise
        self._end += len(entry)

    def _write(self, data: bytes) -> None:
        self._file.seek(self._end)
        left = memoryview(data)
        while left:
            left = left[self._file.write(left) :]

    def close(self) -> None:
        if not self._file.closed:
            self._file.close()
            self._part.replace(self._path)


class JsonList:
    """``predictions.json``: a COCO results list, one person per line."""

    def __init__(self, path: Path) -> None:
        self._file = _GrowingFile(path, b"\n]\n")
        self._file.append(b"[")
        self._first = True

    def add(self, found: PoseRecord) -> None:
        """See `Sink`."""
        self.extend(prediction_rows(found))

    def extend(self, rows: Sequence[dict[str, Any]]) -> None:
        """Write entries that are ready."""
        if rows:
            lines = ",\n".join(json.dumps(row, allow_nan=False) for row in rows)
            self._file.append((("\n" if self._first else ",\n") + lines).encode())
            self._first = False

    def close(self) -> None:
        """See `Sink`."""
        self._file.close()


class JsonLines:
    """``poses.jsonl``: one line per image or frame, those without people as well."""

    def __init__(self, path: Path) -> None:
        self._file = _GrowingFile(path, b"")

    def add(self, found: PoseRecord) -> None:
        """See `Sink`."""
        line = {
            "source": found.source,
            "image_id": found.image_id,
            "frame": found.frame,
            "time": found.time,
            "size_hw": found.size_hw,
            "people": [{name: row[name] for name in row if name not in _OF_COCO} for row in _people(found)],
        }
        self._file.append(json.dumps(line, allow_nan=False).encode() + b"\n")

    def close(self) -> None:
        """See `Sink`."""
        self._file.close()


class ParquetFolder:
    """``poses.parquet``: a folder of Parquet files, as pandas, Polars, DuckDB and Spark read them; a row per person.

    A Parquet file can be read only when it is whole, so a long video goes into several.
    """

    def __init__(self, path: Path) -> None:
        try:
            import pyarrow  # noqa: F401
        except ImportError as error:
            raise ConfigError('Parquet needs pyarrow: pip install "distilpose[interop]"') from error
        self._path = path
        path.mkdir(exist_ok=True)
        self._rows: list[dict[str, Any]] = []
        self._names: tuple[str, ...] = ()
        self._written = 0
        self._closed = False

    def add(self, found: PoseRecord) -> None:
        """See `Sink`."""
        self._rows += parquet_rows(found)
        self._names = found.result.skeleton.keypoint_names
        if len(self._rows) >= PARQUET_ROWS:
            self._flush()

    def close(self) -> None:
        """See `Sink`."""
        if not self._closed:
            self._closed = True
            if self._rows or self._written == 0:
                self._flush()

    def _flush(self) -> None:
        import pyarrow.parquet

        if self._written == 0:
            for old in self._path.glob("part-*.parquet"):  # of an earlier run
                old.unlink()
        schema = parquet_schema().with_metadata({"keypoint_names": json.dumps(self._names)})
        table = pyarrow.Table.from_pylist(self._rows, schema=schema)
        final = self._path / f"part-{self._written:05}.parquet"
        part = final.with_name(f".{final.name}.part")
        try:
            pyarrow.parquet.write_table(table, part)
            os.replace(part, final)
        finally:
            part.unlink(missing_ok=True)
        self._rows = []
        self._written += 1


def parquet_rows(found: PoseRecord) -> list[dict[str, Any]]:
    """The people of one image or frame as rows of `parquet_schema`."""
    result = found.result
    rows = []
    for person in range(len(result)):
        sigma = None if result.sigma is None else result.sigma[person]
        rows.append(
            {
                "source": found.source,
                "image_id": found.image_id,
                "frame": found.frame,
                "time": found.time,
                "track_id": None if result.track_id is None else int(result.track_id[person]),
                "pose_score": float(result.pose_score[person]),
                "box_score": float(result.box_score[person]),
                "box_xyxy": result.box[person].tolist(),
                "x": result.xy[person, :, 0].tolist(),
                "y": result.xy[person, :, 1].tolist(),
                "raw_score": None if result.raw_score is None else result.raw_score[person].tolist(),
                "sigma_x": None if sigma is None else sigma[:, 0].tolist(),
                "sigma_y": None if sigma is None else sigma[:, 1].tolist(),
            }
        )
    return rows


def parquet_schema() -> pyarrow.Schema:
    """Columns of ``poses.parquet``: a row per person, keypoints as lists of K numbers."""
    import pyarrow as pa

    numbers = pa.list_(pa.float32())
    return pa.schema(
        [
            ("source", pa.string()),
            ("image_id", pa.int64()),
            ("frame", pa.int64()),
            ("time", pa.float64()),
            ("track_id", pa.int64()),
            ("pose_score", pa.float64()),
            ("box_score", pa.float64()),
            ("box_xyxy", numbers),
            ("x", numbers),
            ("y", numbers),
            ("raw_score", numbers),
            ("sigma_x", numbers),
            ("sigma_y", numbers),
        ]
    )


def write_predictions(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write entries as a json list, one person per line."""
    writer = JsonList(path)
    try:
        writer.extend(rows)
    finally:
        writer.close()
