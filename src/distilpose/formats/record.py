"""What every writer takes and does: one record per image or frame, files that can be read while they grow."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Protocol

from distilpose.errors import InputError
from distilpose.files import open_part, part_path, replacing, write_all
from distilpose.inference.result import PoseResult

_SNAPSHOT_GROWTH = 1.25  # a composed file is written anew when there are so many times the records


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
    """Takes record after record in constant memory.

    A file has its name when it is closed, and can be read before as ``.NAME.part``; a folder can be read at any time.
    """

    def write(self, record: PoseRecord) -> None:
        """Write the people of an image or frame; an error leaves the records before it readable."""
        ...

    def close(self) -> None:
        """Finish; a second call does nothing."""
        ...


class GrowingFile:
    """A file that only ever ends with a whole entry: what cannot be written whole is taken back.

    Args:
        path: the name it gets when it is closed.
        tail: bytes that always stand behind the last entry.
    """

    def __init__(self, path: Path, tail: bytes = b"") -> None:
        self._path, self._tail = path, tail
        self._file = open_part(path)
        self._end = 0  # of the entries; the tail follows

    def append(self, entry: bytes) -> None:
        """Write an entry.

        Raises:
            OSError: the disk is full; the file is as before.
        """
        try:
            self._write(entry + self._tail)
        except BaseException:
            self._file.truncate(self._end)  # a full disk has room for the tail that stood there before
            self._write(self._tail)
            raise
        self._end += len(entry)

    def _write(self, data: bytes) -> None:
        self._file.seek(self._end)
        write_all(self._file, data)

    def close(self) -> None:
        """Give the file its name."""
        if not self._file.closed:
            self._file.close()
            part_path(self._path).replace(self._path)


class ComposedFile:
    """A file whose beginning depends on what comes later, composed from the entries kept beside it on disk.

    It is composed under its own name when it is closed, and before whenever there are a quarter more entries: an
    interrupted run has at least four fifths of them.

    Args:
        path: of the file.
        compose: writes the file from all entries, which it may read more than once.
    """

    def __init__(self, path: Path, compose: Callable[[BinaryIO, Callable[[], Iterator[Any]]], None]) -> None:
        self._path, self._compose = path, compose
        self._store = path.with_name(f"{path.name}.entries")
        self._file = open_part(self._store)
        self._count, self._composed, self._is_open = 0, 0, True

    def append(self, entry: Any) -> None:
        """Keep a JSON-ready entry."""
        write_all(self._file, json.dumps(entry, allow_nan=False).encode() + b"\n")
        self._count += 1
        if self._count >= _SNAPSHOT_GROWTH * self._composed:
            self._write()

    def _entries(self) -> Iterator[Any]:
        with part_path(self._store).open("rb") as file:
            for line, _ in zip(file, range(self._count), strict=False):  # not the half line of a full disk
                yield json.loads(line)

    def _write(self) -> None:
        with replacing(self._path) as part, part.open("wb") as file:
            self._compose(file, self._entries)
        self._composed = self._count

    def close(self) -> None:
        """Compose the file for the last time."""
        if self._is_open:
            self._is_open = False
            try:
                self._write()
            finally:
                self._file.close()
                part_path(self._store).unlink(missing_ok=True)


class ImageNames:
    """A name for each image, used as its file name by formats with a file per image or a list of images.

    An image keeps its own name, with a number behind where two folders hold the same; frame 12 of ``a/dance.mp4`` is
    ``dance_000012.jpg``, as ``ffmpeg -i a/dance.mp4 -start_number 0 -fps_mode passthrough dance_%06d.jpg`` writes it.
    """

    def __init__(self) -> None:
        self._names: dict[str, str] = {}
        self._used: set[str] = set()

    def of(self, record: PoseRecord) -> str:
        """The name of a record's image, with a suffix."""
        name = self._names.get(record.source)
        if name is None:
            stem, suffix = os.path.splitext(os.path.basename(record.source.replace("\\", "/")) or "image")
            number, unique = 1, stem.replace(":", "_")  # webcam:0
            while unique.lower() in self._used:
                number += 1
                unique = f"{stem}_{number}"
            self._used.add(unique.lower())
            name = self._names[record.source] = unique + (suffix or ".jpg")
        return name if record.frame is None else f"{os.path.splitext(name)[0]}_{record.frame:06}.jpg"


def image_size(record: PoseRecord, format_name: str) -> tuple[int, int]:
    """(H, W) of the record's image in pixels.

    Raises:
        InputError: it is not known.
    """
    if min(record.size_hw) < 1:
        raise InputError(f"{format_name} needs the size of the image of {record.source!r}: pass size_hw=(H, W)")
    return record.size_hw
