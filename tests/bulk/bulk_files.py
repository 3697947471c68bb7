"""Files for bulk runs, and what such a run left behind."""

import io
import tarfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq


def write_tar(file: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(file, "w") as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return file


def write_list(file: Path, **columns: Any) -> Path:
    pq.write_table(pa.table(columns), file)
    return file


def table_rows(folder: Path) -> list[dict[str, Any]]:
    """All rows of a table, as any reader of Parquet folders sees them."""
    rows: list[dict[str, Any]] = pq.read_table(folder).to_pylist()
    return rows
