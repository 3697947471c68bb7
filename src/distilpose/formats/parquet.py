"""Parquet: a folder of files with a row per person, as pandas, Polars, DuckDB and Spark read them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distilpose.errors import require_package
from distilpose.files import replacing
from distilpose.formats.record import PoseRecord

if TYPE_CHECKING:
    import pyarrow

PARQUET_ROWS = 10_000  # people in a file of the folder, and most that a crash can cost


class ParquetFolder:
    """Writes ``part-NNNNN.parquet`` files: a Parquet file can be read only when it is whole."""

    def __init__(self, path: Path) -> None:
        _pyarrow()
        self._path = path
        path.mkdir(exist_ok=True)
        self._rows: list[dict[str, Any]] = []
        self._names: tuple[str, ...] = ()
        self._written = 0

    def write(self, record: PoseRecord) -> None:
        """See `PoseWriter`."""
        self._rows += parquet_rows(record)
        self._names = record.result.skeleton.keypoint_names
        if len(self._rows) >= PARQUET_ROWS:
            self._flush()

    def close(self) -> None:
        """See `PoseWriter`."""
        if self._rows or self._written == 0:
            self._flush()

    def _flush(self) -> None:
        if self._written == 0:
            for old in self._path.glob("part-*.parquet"):  # of an earlier run
                old.unlink()
        write_parquet(self._path / f"part-{self._written:05}.parquet", self._rows, self._names)
        self._rows = []
        self._written += 1


def write_parquet(path: Path, rows: list[dict[str, Any]], keypoint_names: tuple[str, ...]) -> None:
    """Write one Parquet file from `parquet_rows`; the keypoints' names stand in its metadata."""
    pa = _pyarrow()
    schema = parquet_schema().with_metadata({"keypoint_names": json.dumps(keypoint_names)})
    with replacing(path) as part:
        pa.parquet.write_table(pa.Table.from_pylist(rows, schema=schema), part)


def parquet_rows(record: PoseRecord) -> list[dict[str, Any]]:
    """The people of one image or frame as rows of `parquet_schema`."""
    result = record.result
    source = {name: getattr(record, name) for name in ("source", "image_id", "frame", "time")}
    columns = {
        "track_id": result.track_id,
        "pose_score": result.pose_score,
        "box_score": result.box_score,
        "box_xyxy": result.box,
        "x": result.xy[..., 0],
        "y": result.xy[..., 1],
        "raw_score": result.raw_score,
        "sigma_x": None if result.sigma is None else result.sigma[..., 0],
        "sigma_y": None if result.sigma is None else result.sigma[..., 1],
    }
    return [
        {**source, **{name: None if values is None else values[person].tolist() for name, values in columns.items()}}
        for person in range(len(result))
    ]


def parquet_schema() -> pyarrow.Schema:
    """Columns of ``poses.parquet``: a row per person, keypoints as lists of K numbers."""
    pa = _pyarrow()
    numbers, whole = pa.list_(pa.float32()), pa.int64()
    columns = {"source": pa.string(), "image_id": whole, "frame": whole, "time": pa.float64(), "track_id": whole}
    columns |= {"pose_score": pa.float64(), "box_score": pa.float64()}
    columns |= dict.fromkeys(("box_xyxy", "x", "y", "raw_score", "sigma_x", "sigma_y"), numbers)
    schema: pyarrow.Schema = pa.schema(list(columns.items()))
    return schema


def _pyarrow() -> Any:
    require_package("pyarrow", "Parquet")
    import pyarrow.parquet

    return pyarrow
