"""What a bulk run writes: two Parquet tables in files per shard, and a manifest that says which run they are of."""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from distilpose.errors import InputError
from distilpose.files import disk_errors, write_file_atomically
from distilpose.formats.writers import PoseRecord, parquet_rows, parquet_schema
from distilpose.inference.result import PoseResult

if TYPE_CHECKING:
    import pyarrow

MANIFEST_NAME = "manifest.json"
MODEL_NAME = "model"  # folder of the exported checkpoint
POSES_NAME, IMAGES_NAME = "poses", "images"  # folders of the two tables
FORMAT = 2  # of the tables and notes
_NOTE_SUFFIX = ".attempts"
_BEGIN, _ROW, _WRITE = "begin", "row", "write"  # words of a note


class BulkImage(NamedTuple):
    """What became of one image."""

    row: int  # its place in the list
    source: str  # what it is called
    image_id: int | str | None  # from the list
    size_hw: tuple[int, int] | None  # (H, W) in pixels; None if it could not be read
    result: PoseResult | None  # its people; None if it failed
    error: str | None  # why; None if it did not
    suspect: bool = False  # the error may not be its own: there is no such file, or the program failed. Not written.


class Attempts(NamedTuple):
    """Workers that took up a shard and died of it; ``of_row``: those that were alone with the image of a row."""

    deaths: int
    of_row: Counter[int]


class ShardSummary(NamedTuple):
    """What a finished shard holds: its images (failed ones counted), the people in them, and the failed images."""

    images: int
    people: int
    failed: int


class RunFolder:
    """The folder of a run. A shard is finished when its files in ``poses/`` and ``images/`` are there, in that order.

    A file gets its name when it is whole, so that a killed worker leaves none that is half; who writes it again
    replaces it by the same. Every method raises `OSError` or `InputError` for a full disk and the like.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).absolute()

    def start(self, manifest: Mapping[str, Any]) -> None:
        """Make the folder, or find the same run in it.

        ``manifest`` is what the results depend on, JSON values; the shipped version of the package may differ.

        Raises:
            InputError: it holds another run, or something else, or cannot be written.
        """
        values = json.loads(json.dumps({"format": FORMAT, **manifest}))
        file = self.path / MANIFEST_NAME
        with disk_errors(self.path):
            if file.exists():
                self._compare(values, file)
            elif any((self.path / name).exists() for name in (POSES_NAME, IMAGES_NAME)):
                raise InputError(
                    f"{self.path} holds {POSES_NAME}/ or {IMAGES_NAME}/ of something else: choose another folder"
                )
            for name in (POSES_NAME, IMAGES_NAME):
                (self.path / name).mkdir(parents=True, exist_ok=True)
        with write_file_atomically(file) as part:
            part.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")

    def abandon(self) -> None:
        """Forget a run that has written nothing: another one, with other arguments, may take its folder."""
        tables = [self.path / name for name in (POSES_NAME, IMAGES_NAME)]
        if not any(any(table.iterdir()) for table in tables):
            for table in tables:
                table.rmdir()
            shutil.rmtree(self.path / MODEL_NAME, ignore_errors=True)
            (self.path / MANIFEST_NAME).unlink(missing_ok=True)

    def _compare(self, values: Mapping[str, Any], file: Path) -> None:
        try:
            before = json.loads(file.read_text(encoding="utf-8"))
            keys = sorted({*before, *values} - {"distilpose"})
            changed = [key for key in keys if before.get(key) != values.get(key)]
        except (ValueError, TypeError, AttributeError, RecursionError) as error:
            raise InputError(f"{file} is broken ({error}): choose another folder, or delete this one") from error
        if changed:
            was, now = ({key: source.get(key) for key in changed} for source in (before, values))
            raise InputError(
                f"{self.path} holds another run, which differs in {', '.join(changed)} (there {was}, here {now}): "
                "choose another folder, or repeat that run's arguments to go on with it"
            )

    def finished(self, num_shards: int, *, retry_failed: bool = False) -> set[int]:
        """Numbers of the finished shards, when a run starts: what killed workers of an earlier one left is deleted.

        With ``retry_failed`` shards with failed images are made unfinished.

        Raises:
            InputError: a file of a finished shard is broken.
        """
        folders = [self.path / name for name in (IMAGES_NAME, POSES_NAME)]
        for folder in folders:
            for left in (*folder.glob(f".*{_NOTE_SUFFIX}"), *folder.glob(".*.part*")):
                left.unlink(missing_ok=True)
        names = set.intersection(*({entry.name for entry in os.scandir(folder)} for folder in folders))
        done = {shard for shard in range(num_shards) if shard_name(shard) in names}
        for shard in {shard for shard in done if retry_failed and self.summary(shard).failed}:
            (self.path / IMAGES_NAME / shard_name(shard)).unlink(missing_ok=True)
            done.remove(shard)
        return done

    def is_finished(self, shard: int) -> bool:
        """Whether both files of a shard are there."""
        return all((self.path / name / shard_name(shard)).exists() for name in (IMAGES_NAME, POSES_NAME))

    def begin_shard(self, shard: int) -> Attempts:
        """Note that a worker takes up a shard; what became of those before it since the run was started.

        The note outlives a killed worker, so that a shard or image that kills every worker is known.
        """
        note = self._note(shard)
        text = note.read_text(encoding="ascii") if note.exists() else ""
        # Each attempt that died left its last word standing.
        attempts = [lines.split("\n") for lines in text.split(f"{_BEGIN}\n")[1:]]
        last_words = [(lines[:-1] or [""])[-1] for lines in attempts]
        rows = [word.removeprefix(f"{_ROW} ") for word in last_words]
        self._append(shard, _BEGIN)
        return Attempts(len(attempts), Counter(int(row) for row in rows if row.isdecimal()))

    def note_row(self, shard: int, row: int) -> None:
        """Note which image a worker is alone with."""
        self._append(shard, f"{_ROW} {row}")

    def _append(self, shard: int, text: str) -> None:
        with self._note(shard).open("ab") as file:
            file.write(f"{text}\n".encode("ascii"))

    def _note(self, shard: int) -> Path:
        return self.path / IMAGES_NAME / f".{shard_name(shard)}{_NOTE_SUFFIX}"

    def write_shard(self, shard: int, images: Sequence[BulkImage], keypoint_names: Sequence[str], id_type: str) -> None:
        """Write the two files of a shard; ``id_type`` of ``image_id`` is "int64" or "string"."""
        import pyarrow as pa

        rows, people = [], []
        for image in images:
            place = {"row": image.row, "image_id": image.image_id}
            height, width = image.size_hw or (None, None)
            found = None
            if image.result is not None:
                assert image.size_hw is not None
                found = len(image.result)
                record = PoseRecord(image.source, image.result, image.size_hw)
                people += [{**person, **place} for person in parquet_rows(record)]
            values = {"source": image.source, "height": height, "width": width, "people": found, "error": image.error}
            rows.append({**place, **values})
        counts = {"people": str(len(people)), "failed": str(sum(image.result is None for image in images))}
        names = {"keypoint_names": json.dumps(list(keypoint_names))}
        kinds = {"row": pa.int64(), "source": pa.string(), "image_id": id_type}
        kinds |= dict.fromkeys(("height", "width", "people"), pa.int32()) | {"error": pa.string()}
        self._append(shard, _WRITE)
        for name, entries, schema in (
            (POSES_NAME, people, poses_schema(id_type).with_metadata(names)),
            (IMAGES_NAME, rows, pa.schema(kinds).with_metadata(counts)),
        ):
            self._write(name, shard, pa.Table.from_pylist(entries, schema=schema))
        self._note(shard).unlink(missing_ok=True)

    def _write(self, folder: str, shard: int, table: pyarrow.Table) -> None:
        import pyarrow.parquet

        with write_file_atomically(self.path / folder / shard_name(shard)) as part:
            pyarrow.parquet.write_table(table, part)

    def summary(self, shard: int) -> ShardSummary:
        """What a finished shard holds, by the end of its file alone.

        Raises:
            InputError: the file is broken, or not of this program.
        """
        import pyarrow as pa
        import pyarrow.parquet

        file = self.path / IMAGES_NAME / shard_name(shard)
        try:
            found = pyarrow.parquet.read_metadata(file)
            return ShardSummary(found.num_rows, int(found.metadata[b"people"]), int(found.metadata[b"failed"]))
        except (OSError, pa.ArrowException, KeyError, TypeError, ValueError) as error:
            raise InputError(f"{file} is broken ({error}): delete it, and the same command does it again") from error

    def read_failures(self, shard: int) -> list[dict[str, Any]]:
        """The rows of a finished shard's failed images."""
        import pyarrow.parquet

        table = pyarrow.parquet.read_table(self.path / IMAGES_NAME / shard_name(shard))
        rows: list[dict[str, Any]] = table.filter(table.column("error").is_valid()).to_pylist()
        return rows


def shard_name(shard: int) -> str:
    """File name of a shard."""
    return f"shard-{shard:06}.parquet"


def poses_schema(id_type: str) -> pyarrow.Schema:
    """A row per person: the columns of `parquet_schema`, with the list's kind of id, behind the image's place."""
    import pyarrow as pa

    columns = parquet_schema()
    ids = columns.get_field_index("image_id")
    return columns.set(ids, pa.field("image_id", id_type)).insert(0, pa.field("row", pa.int64()))
