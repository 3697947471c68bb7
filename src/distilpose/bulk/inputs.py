"""What a bulk run reads: a Parquet list, a folder or tar shards, as one table in a fixed order."""

from __future__ import annotations

import glob
import hashlib
import json
import os
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from distilpose.bulk.output_files import IMAGES_NAME, POSES_NAME, shard_name
from distilpose.bulk.tar_files import TAR_SUFFIX, list_members
from distilpose.data.images import IMAGE_SUFFIXES
from distilpose.errors import ConfigError, InputError
from distilpose.files import utf8_text

if TYPE_CHECKING:
    import pyarrow

LIST_SUFFIX = ".parquet"
_PACKED_SUFFIXES = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")
_FORMS = "a folder of images, a list of them (.parquet), tar shards (.tar), or a pattern such as 'shards/*.tar'"
_Columns = dict[str, str | None]  # of a list, by the field of a `BulkItem` that they give


class BulkItem(NamedTuple):
    """One image of the list."""

    row: int  # its place in the list, from 0
    source: str  # what it is called in the results
    file: str  # absolute path of the image, or of the tar file that holds it
    offset: int | None = None  # of its first byte in the tar file; None for a file of its own
    size: int | None = None  # in bytes, in a tar file
    image_id: int | str | None = None  # from the list
    boxes: Sequence[Sequence[float]] | None = None  # (N, 4) from the list, N >= 0; None where a detector is asked
    box_scores: Sequence[float] | None = None  # (N,) of the boxes
    problem: str | None = None  # why it cannot be read, where that was seen while listing


def list_inputs(
    source: str | Path,
    root: str | Path | None = None,  # that relative paths of a list start from; where the list lies when None
    *,
    paths: str = "path",
    ids: str | None = None,  # whole numbers or texts; None: the images have no ids
    boxes: str | None = None,  # a list of (x1, y1, x2, y2) in image pixels each, null is nobody; None: of a detector
    box_scores: str | None = None,  # a list of numbers each; 1 when None
) -> pyarrow.Table:
    """Every image of ``source`` once, as `BulkItem` rows in an order that depends on nothing but ``source``.

    That is a folder, with all folders below it; ``.parquet`` lists; ``.tar`` files, not compressed; or a pattern. A
    folder holds images, ``.tar`` or ``.parquet`` files, of one kind. Columns are those of lists; one that is named must
    be there.

    Raises:
        InputError: there is nothing, a file is unreadable or broken, or kinds are mixed.
        ConfigError: columns or a root are named for what is no list.
    """
    import pyarrow as pa

    files = _find(source)
    kind = files[0].suffix.lower()
    columns: _Columns = {"path": paths, "image_id": ids, "boxes": boxes, "box_scores": box_scores}
    if kind == LIST_SUFFIX:
        table = _read_lists(files, columns, root)
    elif (paths, ids, boxes, box_scores, root) != ("path", None, None, None, None):
        raise ConfigError(f"columns and a root belong to a list ({LIST_SUFFIX}), got {source}: leave them out")
    else:
        rows = [row for file in files for row in (list_members(file) if kind == TAR_SUFFIX else [_own_file(file)])]
        kinds = {"source": pa.string(), "file": pa.string(), "offset": pa.int64(), "size": pa.int64()}
        kinds |= dict.fromkeys(("image_id", "boxes", "box_scores"), pa.null()) | {"problem": pa.string()}
        table = pa.Table.from_pylist(rows, schema=pa.schema(kinds))
    if not len(table):
        raise InputError(f"{source} lists no image: expected {_FORMS}")
    return table.add_column(0, "row", pa.array(range(len(table)), pa.int64()))


def items_of(table: pyarrow.Table) -> list[BulkItem]:
    """The rows of a table of `list_inputs`, or of a slice of it."""
    return [BulkItem(**row) for row in table.to_pylist()]


def fingerprint(table: pyarrow.Table) -> str:
    """A digest of names, places in tar files, ids and boxes; not of what the images show."""
    digest = hashlib.sha256()
    for row in table.drop_columns(["file"]).to_batches(max_chunksize=10_000):
        for values in row.to_pylist():
            digest.update(json.dumps(list(values.values())).encode() + b"\n")
    return digest.hexdigest()


def check_apart(source: str | Path, out: str | Path) -> None:
    """Refuse a folder of results whose files the next run would read as part of ``source``.

    Raises:
        ConfigError: ``out`` lies in the folder ``source``, or its files fit the pattern.
    """
    tables = [Path(os.path.abspath(out), name) for name in (POSES_NAME, IMAGES_NAME)]
    if Path(source).exists():
        place = Path(source).resolve()
        written = [table.resolve() for table in tables]
        is_read = any(place in table.parents or table in (place, *place.parents) for table in written)
    else:
        pattern = Path(os.path.abspath(source)).parts
        is_read = any(_fits((table / shard_name(0)).parts, pattern) for table in tables)
    if is_read:
        raise ConfigError(f"the results in {out} would be read as part of {source}: choose a folder beside it")


def _fits(parts: Sequence[str], pattern: Sequence[str]) -> bool:
    """Whether a path fits a pattern of `glob`, part by part."""
    if not pattern:
        return not parts
    if pattern[0] == "**":
        return any(_fits(parts[skipped:], pattern[1:]) for skipped in range(len(parts) + 1))
    return bool(parts) and fnmatchcase(parts[0], pattern[0]) and _fits(parts[1:], pattern[1:])


def _find(source: str | Path) -> list[Path]:
    """Files of one kind."""
    text, path = str(source), Path(source)
    if path.is_dir():
        found = _in_folder(path)
    elif path.exists():
        found = [path]
    else:
        matches = sorted(set(glob.glob(text, recursive=True))) if glob.has_magic(text) else []
        found = [Path(match) for match in matches if os.path.isfile(match)]
    if not found:
        raise InputError(f"{text} {'holds nothing to read' if path.is_dir() else 'is not there'}: expected {_FORMS}")
    kinds = {_kind(file) for file in found}
    if len(kinds) > 1:
        raise InputError(
            f"{text} has files of several kinds ({', '.join(sorted(kinds))}): give a pattern that fits one kind, such "
            "as 'shards/*.tar'"
        )
    return found


def _kind(file: Path) -> str:
    suffix = file.suffix.lower()
    if suffix in (LIST_SUFFIX, TAR_SUFFIX) and utf8_text(file) != str(file):
        raise InputError(f"the name of {file} is no UTF-8: rename it")
    if file.name.lower().endswith(_PACKED_SUFFIXES):
        raise InputError(f"{file} is compressed, so images in it have no place of their own: unpack it to a .tar file")
    if suffix not in (LIST_SUFFIX, TAR_SUFFIX, *IMAGE_SUFFIXES):
        raise InputError(f"{file} is none of what bulk prediction reads: expected {_FORMS}")
    return "images" if suffix in IMAGE_SUFFIXES else suffix


def _in_folder(folder: Path) -> list[Path]:
    """All files that look like input, however deep; links to folders are followed, every folder is entered once."""
    suffixes = (LIST_SUFFIX, TAR_SUFFIX, *_PACKED_SUFFIXES, *IMAGE_SUFFIXES)
    found, entered = list[Path](), set[tuple[int, int]]()
    for place, folders, names in os.walk(folder, onerror=_refuse, followlinks=True):
        status = os.stat(place)
        if (status.st_dev, status.st_ino) in entered:
            folders.clear()
            continue
        entered.add((status.st_dev, status.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        shown = (name for name in sorted(names) if not name.startswith("."))
        found += [Path(place, name) for name in shown if name.lower().endswith(suffixes)]
    return found


def _refuse(error: OSError) -> NoReturn:
    raise InputError(
        f"the folder {error.filename} cannot be read ({error.strerror}): give the right to read it, or a pattern that "
        "leaves it out"
    ) from error


def _own_file(file: Path) -> dict[str, object]:
    named: dict[str, object] = {"source": utf8_text(file.as_posix()), "file": utf8_text(file.absolute())}
    return named if named["file"] == str(file.absolute()) else {**named, "problem": "its name is no UTF-8: rename it"}


def _read_lists(files: Sequence[Path], columns: _Columns, root: str | Path | None) -> pyarrow.Table:
    """The rows of all lists, one after the other; the type of ``image_id`` is null where no list gives an id."""
    import pyarrow as pa

    table: Any = None
    for file in files:
        more = _read_list(file, columns, root)
        try:
            table = more if table is None else pa.concat_tables([table, more], promote_options="default")
        except pa.ArrowException as error:
            was, found = (one.schema.field("image_id").type for one in (table, more))
            raise InputError(
                f"{file}: column {columns['image_id']!r} holds {found}, that of the lists before it {was}: "
                "give ids of one type"
            ) from error
    return table


def _read_list(file: Path, columns: _Columns, root: str | Path | None) -> pyarrow.Table:
    import pyarrow as pa
    import pyarrow.parquet

    named = [name for name in columns.values() if name is not None]
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
    paths = column(columns["path"], pa.string()).to_pylist()
    if None in paths:
        raise InputError(
            f"{file}: column {columns['path']!r} must name an image in each row, got null in row {paths.index(None)}"
        )
    numbers = pa.list_(pa.float64())
    return pa.table(
        {
            "source": pa.array(paths, pa.string()),
            "file": pa.array([os.path.join(base, path) for path in paths], pa.string()),
            "offset": pa.nulls(len(table), pa.int64()),
            "size": pa.nulls(len(table), pa.int64()),
            "image_id": column(columns["image_id"]),
            "boxes": column(columns["boxes"], pa.list_(numbers)),
            "box_scores": column(columns["box_scores"], numbers),
            "problem": pa.nulls(len(table), pa.string()),
        }
    )
