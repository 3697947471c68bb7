"""What a bulk run reads: a Parquet list, a folder or tar shards, as one table in a fixed order."""

from __future__ import annotations

import glob
import hashlib
import json
import os
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from distilpose.errors import ConfigError, InputError
from distilpose.images import IMAGE_SUFFIXES

if TYPE_CHECKING:
    import pyarrow

LIST_SUFFIX, TAR_SUFFIX = ".parquet", ".tar"
_PACKED_SUFFIXES = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")
_FORMS = "a folder of pictures, a list of them (.parquet), tar shards (.tar), or a pattern such as 'shards/*.tar'"


@dataclass(frozen=True)
class ListColumns:
    """The columns of a Parquet list.

    Attributes:
        path: of each picture.
        image_id: whole numbers or texts; None: the pictures have no ids.
        boxes: the people of each picture as a list of (x1, y1, x2, y2) in image pixels; null is nobody. None: a
            detector finds them.
        box_scores: of the boxes, a list of numbers; 1 each when None.
    """

    path: str = "path"
    image_id: str | None = None
    boxes: str | None = None
    box_scores: str | None = None


class BulkItem(NamedTuple):
    """One picture of the list.

    Attributes:
        row: its place in the list, from 0.
        source: what it is called in the results.
        file: absolute path of the picture, or of the tar file that holds it.
        offset: of its first byte in the tar file; None for a file of its own.
        size: in bytes, in a tar file.
        image_id: from the list.
        boxes: (N, 4) from the list, N >= 0; None where a detector is asked.
        box_scores: (N,) of the boxes.
    """

    row: int
    source: str
    file: str
    offset: int | None = None
    size: int | None = None
    image_id: int | str | None = None
    boxes: Sequence[Sequence[float]] | None = None
    box_scores: Sequence[float] | None = None


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


def list_inputs(
    source: str | Path, columns: ListColumns | None = None, root: str | Path | None = None
) -> pyarrow.Table:
    """Every picture of ``source`` once, in an order that depends on nothing but ``source``.

    Args:
        source: a folder, with all folders below it; ``.parquet`` files; ``.tar`` files, not compressed; or a pattern.
            Of a folder without pictures its ``.tar`` or ``.parquet`` files are taken.
        columns: of Parquet lists; a column that is named must be there, and only lists have any.
        root: folder that relative paths of a list start from; where the list lies when None.

    Returns:
        A table of `BulkItem` rows.

    Raises:
        InputError: there is nothing, a file is unreadable or broken, or kinds are mixed.
        ConfigError: columns or a root are named for what is no list.
    """
    pa = import_pyarrow()
    files = _find(source)
    is_list = files[0].suffix.lower() == LIST_SUFFIX
    if not is_list and (columns not in (None, ListColumns()) or root is not None):
        raise ConfigError(f"columns and a root belong to a list ({LIST_SUFFIX}), got {source}: leave them out")
    if is_list:
        table = pa.concat_tables([_read_list(file, columns or ListColumns(), root) for file in files])
    else:
        in_tar = files[0].suffix.lower() == TAR_SUFFIX
        rows = [row for file in files for row in _members(file)] if in_tar else [_own_file(file) for file in files]
        table = pa.Table.from_pylist(rows, schema=_schema(pa.null(), pa.null(), pa.null()))
    if not len(table):
        raise InputError(f"{source} lists no picture: expected {_FORMS}")
    return table.add_column(0, "row", pa.array(range(len(table)), pa.int64()))


def items_of(table: pyarrow.Table) -> list[BulkItem]:
    """The rows of a table of `list_inputs`, or of a slice of it."""
    return [BulkItem(**row) for row in table.to_pylist()]


def fingerprint(table: pyarrow.Table) -> str:
    """A digest of names, places in tar files, ids and boxes; not of what the pictures show."""
    digest = hashlib.sha256()
    for row in table.drop_columns(["file"]).to_batches(max_chunksize=10_000):
        for values in row.to_pylist():
            digest.update(json.dumps(list(values.values())).encode() + b"\n")
    return digest.hexdigest()


def _find(source: str | Path) -> list[Path]:
    """Files of one kind."""
    text, path = str(source), Path(source)
    if path.is_dir():
        return _in_folder(path)
    if path.exists():
        found = [path]
    else:
        found = sorted(Path(match) for match in glob.glob(text, recursive=True)) if glob.has_magic(text) else []
        found = [file for file in found if file.is_file()]
    if not found:
        raise InputError(f"{text} is not there: expected {_FORMS}")
    kinds = {_kind(file) for file in found}
    if len(kinds) > 1:
        raise InputError(f"{text} fits files of several kinds ({', '.join(sorted(kinds))}): give one kind only")
    return found


def _kind(file: Path) -> str:
    name = file.name.lower()
    if name.endswith(_PACKED_SUFFIXES):
        raise InputError(
            f"{file} is compressed, so pictures in it have no place of their own: unpack it to a .tar file"
        )
    if file.suffix.lower() in (LIST_SUFFIX, TAR_SUFFIX):
        return file.suffix.lower()
    if file.suffix.lower() in IMAGE_SUFFIXES:
        return "pictures"
    raise InputError(f"{file} is none of what bulk prediction reads: expected {_FORMS}")


def _in_folder(folder: Path) -> list[Path]:
    by_kind: dict[str, list[Path]] = {"pictures": [], TAR_SUFFIX: [], LIST_SUFFIX: []}
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            suffix = os.path.splitext(name)[1].lower()
            kind = "pictures" if suffix in IMAGE_SUFFIXES else suffix
            if kind in by_kind and not name.startswith("."):
                by_kind[kind].append(Path(place, name))
    if by_kind["pictures"] and by_kind[TAR_SUFFIX]:
        raise InputError(f"{folder} holds pictures and tar shards: give a pattern, such as '{folder}/*.tar'")
    found = next((files for files in by_kind.values() if files), None)
    if found is None:
        raise InputError(f"{folder} holds nothing to read: expected {_FORMS}")
    return found


def _schema(image_id: pyarrow.DataType, boxes: pyarrow.DataType, scores: pyarrow.DataType) -> pyarrow.Schema:
    import pyarrow as pa

    fields = {"source": pa.string(), "file": pa.string(), "offset": pa.int64(), "size": pa.int64()}
    return pa.schema([*fields.items(), ("image_id", image_id), ("boxes", boxes), ("box_scores", scores)])


def _own_file(file: Path) -> dict[str, object]:
    return {"source": file.as_posix(), "file": str(file.absolute())}


def _members(file: Path) -> Iterator[Mapping[str, object]]:
    """The pictures of a tar file, by the places of their bytes."""
    try:
        with tarfile.open(file, "r:") as archive:
            for member in archive:
                if member.isfile() and os.path.splitext(member.name)[1].lower() in IMAGE_SUFFIXES:
                    place = {"offset": member.offset_data, "size": member.size}
                    yield {"source": f"{file.as_posix()}/{member.name}", "file": str(file.absolute()), **place}
    except (OSError, tarfile.TarError) as error:
        raise InputError(f"{file} cannot be read as a tar file: {error}") from error


def _read_list(file: Path, columns: ListColumns, root: str | Path | None) -> pyarrow.Table:
    import pyarrow as pa
    import pyarrow.parquet

    named = [name for name in (columns.path, columns.image_id, columns.boxes, columns.box_scores) if name is not None]
    try:
        known = pyarrow.parquet.read_schema(file).names
        missing = [name for name in named if name not in known]
        if missing:
            raise InputError(f"{file} has no column {missing[0]!r}: expected one of its columns {', '.join(known)}")
        table = pyarrow.parquet.read_table(file, columns=named, partitioning=None)
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{file} cannot be read as Parquet: {error}") from error
    base = (file.parent if root is None else Path(root)).absolute()
    paths = _column(file, table, columns.path, pa.string()).to_pylist()
    if None in paths:
        raise InputError(
            f"{file}: column {columns.path!r} must name a picture in each row, got null in row {paths.index(None)}"
        )
    nothing, numbers = pa.nulls(len(table)), pa.list_(pa.float64())
    boxes = scores = ids = nothing
    if columns.image_id is not None:
        whole = pa.types.is_integer(table.schema.field(columns.image_id).type)
        ids = _column(file, table, columns.image_id, pa.int64() if whole else pa.string())
    if columns.boxes is not None:
        boxes = _column(file, table, columns.boxes, pa.list_(numbers))
    if columns.box_scores is not None:
        scores = _column(file, table, columns.box_scores, numbers)
    files, places = pa.array([os.path.join(base, path) for path in paths]), pa.nulls(len(table), pa.int64())
    arrays = [pa.array(paths, pa.string()), files, places, places, ids, boxes, scores]
    return pa.Table.from_arrays(arrays, schema=_schema(ids.type, boxes.type, scores.type))


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
