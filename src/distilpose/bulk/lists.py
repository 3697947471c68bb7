"""Parquet lists of images, with their ids and people."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distilpose.errors import ConfigError, InputError

if TYPE_CHECKING:
    import pyarrow

LIST_SUFFIX = ".parquet"


@dataclass(frozen=True)
class ListColumns:
    """The columns of a Parquet list.

    Attributes:
        path: of each image.
        image_id: whole numbers or texts; None: the images have no ids.
        boxes: the people of each image as a list of (x1, y1, x2, y2) in image pixels; null is nobody. None: a
            detector finds them.
        box_scores: of the boxes, a list of numbers; 1 each when None.
    """

    path: str = "path"
    image_id: str | None = None
    boxes: str | None = None
    box_scores: str | None = None


def import_pyarrow() -> Any:
    """The package that Parquet needs.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise ConfigError('bulk prediction needs pyarrow: pip install "distilpose[bulk]"') from error
    return pyarrow


def read_lists(files: Sequence[Path], columns: ListColumns, root: str | Path | None) -> pyarrow.Table:
    """The rows of all lists, one list after the other.

    Args:
        files: at least one.
        columns: that are read; a column that is named must be there.
        root: folder that relative paths start from; where each list lies when None.

    Returns:
        A table of `inputs.schema`. The type of ``image_id`` is null where no list gives an id.

    Raises:
        InputError: a file is unreadable, lacks a column, or its columns hold something else.
    """
    import pyarrow as pa

    tables = [_read_list(file, columns, root) for file in files]
    ids: pyarrow.DataType = pa.null()
    for file, table in zip(files, tables, strict=True):
        found = table.schema.field("image_id").type
        if not pa.types.is_null(found) and found != ids:
            if not pa.types.is_null(ids):
                raise InputError(
                    f"{file}: column {columns.image_id!r} holds {found}, that of the lists before it {ids}: "
                    "give ids of one type"
                )
            ids = found
    return pa.concat_tables([table.set_column(4, "image_id", table.column("image_id").cast(ids)) for table in tables])


def schema(image_id: pyarrow.DataType, boxes: pyarrow.DataType, scores: pyarrow.DataType) -> pyarrow.Schema:
    """The columns of a table of images, without their numbers: the fields of `inputs.BulkItem` but ``row``."""
    import pyarrow as pa

    fields = {"source": pa.string(), "file": pa.string(), "offset": pa.int64(), "size": pa.int64()}
    more = {"image_id": image_id, "boxes": boxes, "box_scores": scores, "problem": pa.string()}
    return pa.schema([*fields.items(), *more.items()])


def _read_list(file: Path, columns: ListColumns, root: str | Path | None) -> pyarrow.Table:
    import pyarrow as pa

    table = _read_columns(file, columns)
    base = (file.parent if root is None else Path(root)).absolute()
    paths = _column(file, table, columns.path, pa.string()).to_pylist()
    if None in paths:
        raise InputError(
            f"{file}: column {columns.path!r} must name an image in each row, got null in row {paths.index(None)}"
        )
    nothing, numbers = pa.nulls(len(table)), pa.list_(pa.float64())
    boxes = scores = nothing
    ids = nothing if columns.image_id is None else _ids(file, table, columns.image_id)
    if columns.boxes is not None:
        boxes = _column(file, table, columns.boxes, pa.list_(numbers))
    if columns.box_scores is not None:
        scores = _column(file, table, columns.box_scores, numbers)
    files, places = pa.array([os.path.join(base, path) for path in paths]), pa.nulls(len(table), pa.int64())
    problems = pa.nulls(len(table), pa.string())
    arrays = [pa.array(paths, pa.string()), files, places, places, ids, boxes, scores, problems]
    return pa.Table.from_arrays(arrays, schema=schema(ids.type, boxes.type, scores.type))


def _read_columns(file: Path, columns: ListColumns) -> pyarrow.Table:
    import pyarrow as pa
    import pyarrow.parquet

    named = [name for name in (columns.path, columns.image_id, columns.boxes, columns.box_scores) if name is not None]
    try:
        known = pyarrow.parquet.read_schema(file).names
        missing = [name for name in named if name not in known]
        if missing:
            raise InputError(f"{file} has no column {missing[0]!r}: expected one of its columns {', '.join(known)}")
        return pyarrow.parquet.read_table(file, columns=named, partitioning=None)
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{file} cannot be read as Parquet: {error}") from error


def _ids(file: Path, table: pyarrow.Table, name: str) -> Any:
    """Whole numbers, texts, or nulls without a type: what a list without any id holds, whatever its column's type."""
    import pyarrow as pa

    column = table.column(name)
    if column.null_count == len(column):
        return pa.chunked_array([pa.nulls(len(column))])
    return _column(file, table, name, pa.int64() if pa.types.is_integer(column.type) else pa.string())


def _column(file: Path, table: pyarrow.Table, name: str, kind: pyarrow.DataType) -> Any:
    import pyarrow as pa

    column = table.column(name)
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    try:
        if pa.types.is_string(kind) != (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
            raise pa.ArrowInvalid("numbers and texts are not turned into each other")
        return column.cast(kind)
    except pa.ArrowException as error:
        raise InputError(f"{file}: column {name!r} must hold {kind}, got {column.type}") from error
