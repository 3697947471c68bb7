"""Parquet lists of images, with their ids and people."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distilpose.errors import InputError

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


def read_lists(files: Sequence[Path], columns: ListColumns, root: str | Path | None) -> pyarrow.Table:
    """The rows of all lists, one list after the other.

    Args:
        files: at least one.
        columns: that are read; a column that is named must be there.
        root: folder that relative paths start from; where each list lies when None.

    Returns:
        A table with the fields of `inputs.BulkItem` but ``row``. The type of ``image_id`` is null where no list gives
        an id.

    Raises:
        InputError: a file is unreadable, lacks a column, or its columns hold something else.
    """
    import pyarrow as pa

    table: Any = None
    for file in files:
        more = _read_list(file, columns, root)
        try:
            table = more if table is None else pa.concat_tables([table, more], promote_options="default")
        except pa.ArrowException as error:
            was, found = (one.schema.field("image_id").type for one in (table, more))
            raise InputError(
                f"{file}: column {columns.image_id!r} holds {found}, that of the lists before it {was}: "
                "give ids of one type"
            ) from error
    return table


def _read_list(file: Path, columns: ListColumns, root: str | Path | None) -> pyarrow.Table:
    import pyarrow as pa
    import pyarrow.parquet

    named = [name for name in astuple(columns) if name is not None]
    try:
        known = pyarrow.parquet.read_schema(file).names
        missing = [name for name in named if name not in known]
        if missing:
            raise InputError(f"{file} has no column {missing[0]!r}: expected one of its columns {', '.join(known)}")
        table = pyarrow.parquet.read_table(file, columns=named, partitioning=None)
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{file} cannot be read as Parquet: {error}") from error

    def column(name: str | None, kind: pyarrow.DataType | None = None) -> Any:
        """Of this type; null without a name. Ids (no type): numbers, texts, or nulls without a type if all are null."""
        found = None if name is None else table.column(name)
        if found is None or (kind is None and found.null_count == len(found)):
            return pa.nulls(len(table))
        if kind is None:
            kind = pa.int64() if pa.types.is_integer(found.type) else pa.string()
        if pa.types.is_dictionary(found.type):
            found = found.cast(found.type.value_type)
        try:
            if pa.types.is_string(kind) != (pa.types.is_string(found.type) or pa.types.is_large_string(found.type)):
                raise pa.ArrowInvalid("numbers and texts are not turned into each other")
            return found.cast(kind)
        except pa.ArrowException as error:
            raise InputError(f"{file}: column {name!r} must hold {kind}, got {found.type}") from error

    base = (file.parent if root is None else Path(root)).absolute()
    paths = column(columns.path, pa.string()).to_pylist()
    if None in paths:
        raise InputError(
            f"{file}: column {columns.path!r} must name an image in each row, got null in row {paths.index(None)}"
        )
    numbers = pa.list_(pa.float64())
    return pa.table(
        {
            "source": pa.array(paths, pa.string()),
            "file": pa.array([os.path.join(base, path) for path in paths], pa.string()),
            "offset": pa.nulls(len(table), pa.int64()),
            "size": pa.nulls(len(table), pa.int64()),
            "image_id": column(columns.image_id),
            "boxes": column(columns.boxes, pa.list_(numbers)),
            "box_scores": column(columns.box_scores, numbers),
            "problem": pa.nulls(len(table), pa.string()),
        }
    )
