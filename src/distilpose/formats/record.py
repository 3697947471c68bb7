"""What every writer takes and does: one record per image or frame, files that can be read while they grow."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Protocol

from distilpose.errors import InputError
from distilpose.files import open_part, part_path, replacing, short_stem, write_all, write_whole
from distilpose.inference.result import PoseResult

_SNAPSHOT_GROWTH = 1.25  # a composed file is written anew when there are so many times the records


class PoseRecord(NamedTuple):
    """The people of one image or frame."""

    source: str  # the image, video or camera, as written into the files
    result: PoseResult  # its people
    size_hw: tuple[int, int]  # (H, W) of the image in pixels
    image_id: int | None = None  # of an image; None if it has none
    frame: int | None = None  # number of the frame in a video; None for an image
    time: float | None = None  # of the frame in seconds; None for an image


class PoseWriter(Protocol):
    """Takes record after record in constant memory.

    A file has its name when it is closed, and can be read before as ``.NAME.part``; a folder can be read at any time.
    """

    def write(self, record: PoseRecord) -> None:
        """Write the people of an image or frame; an error leaves the records before it readable."""

    def close(self) -> None:
        """Finish; a second call does nothing."""


class GrowingFile:
    """Writes a file that only ever ends with a whole entry: what cannot be written whole is taken back.

    ``entry`` gives the text of a record; it is told whether it is the first that is written. ``head`` always stands
    before the first, ``tail`` behind the last.
    """

    def __init__(self, path: Path, entry: Callable[[PoseRecord, bool], str], head: str = "", tail: str = "") -> None:
        self._path, self._entry, self._tail = path, entry, tail.encode()
        self._file = open_part(path)
        self._end = 0  # of the entries; the tail follows
        self._is_empty = True
        try:
            self._append(head.encode())
        except BaseException:
            self.discard()
            raise

    def write(self, record: PoseRecord) -> None:
        """See `PoseWriter`."""
        if text := self._entry(record, self._is_empty):
            self._append(text.encode())
            self._is_empty = False

    def _append(self, entry: bytes) -> None:
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

    def discard(self) -> None:
        """Remove what was written; a file of that name from before stays."""
        self._file.close()
        part_path(self._path).unlink(missing_ok=True)


class ComposedFile:
    """Writes a file whose beginning depends on what comes later, composed from entries kept beside it on disk.

    It is composed under its own name when it is closed, and before whenever there are a quarter more entries: an
    interrupted run has at least four fifths of them. ``entry`` makes a JSON-ready value of a record; ``compose`` writes
    the file from all of them, which it may read more than once.
    """

    def __init__(
        self,
        path: Path,
        entry: Callable[[PoseRecord], Any],
        compose: Callable[[BinaryIO, Callable[[], Iterator[Any]]], None],
    ) -> None:
        self._path, self._entry, self._compose = path, entry, compose
        self._store = path.with_name(f"{path.name}.entries")
        self._file = open_part(self._store)
        self._count, self._composed = 0, 0

    def write(self, record: PoseRecord) -> None:
        """See `PoseWriter`."""
        write_all(self._file, json.dumps(self._entry(record), allow_nan=False).encode() + b"\n")
        self._count += 1
        if self._count >= _SNAPSHOT_GROWTH * self._composed:
            self._write()

    def _entries(self) -> Iterator[Any]:
        with part_path(self._store).open("rb") as file:
            for line in islice(file, self._count):  # not the half line of a full disk
                yield json.loads(line)

    def _write(self) -> None:
        with replacing(self._path) as part, part.open("wb") as file:
            self._compose(file, self._entries)
        self._composed = self._count

    def close(self) -> None:
        """Compose the file for the last time."""
        if not self._file.closed:
            try:
                self._write()
            finally:
                self.discard()

    def discard(self) -> None:
        """Remove the entries; a file composed before stays."""
        self._file.close()
        part_path(self._store).unlink(missing_ok=True)


class FilePerRecord:
    """Writes a folder; ``files`` gives the content of a record's files by name, told whether it is the first."""

    def __init__(self, path: Path, files: Callable[[PoseRecord, bool], Mapping[str, str]]) -> None:
        path.mkdir(exist_ok=True)
        self._path, self._files, self._is_empty = path, files, True

    def write(self, record: PoseRecord) -> None:
        """See `PoseWriter`."""
        for name, content in self._files(record, self._is_empty).items():
            (self._path / name).parent.mkdir(exist_ok=True)
            write_whole(self._path / name, content.encode())
        self._is_empty = False

    def close(self) -> None:
        """See `PoseWriter`."""


class ImageNames:
    """A name for each image, used as its file name by formats with a file per image or a list of images.

    An image keeps its own name, with a number behind where two folders hold the same; frame 12 of ``a/dance.mp4`` is
    ``dance_000012.jpg``, as ``ffmpeg -i a/dance.mp4 -start_number 0 -fps_mode passthrough dance_%06d.jpg`` writes it.
    Of a name of more than 220 bytes the first are kept.
    """

    def __init__(self) -> None:
        self._names: dict[str, str] = {}
        self._used: set[str] = set()

    def listed(self, record: PoseRecord) -> str:
        """The name of a record's image in a list of images: that of its source, or of the frame."""
        return record.source if record.frame is None else self.of(record)

    def stem(self, record: PoseRecord) -> str:
        """The name of a record's source, without a suffix."""
        return os.path.splitext(self.of(record._replace(frame=None)))[0]

    def of(self, record: PoseRecord) -> str:
        """The name of a record's image, with a suffix."""
        name = self._names.get(record.source)
        if name is None:
            stem, suffix = os.path.splitext(os.path.basename(record.source.replace("\\", "/")) or "image")
            stem = short_stem(stem.replace(":", "_"))  # webcam:0
            number, unique = 1, stem
            while unique.lower() in self._used:
                number += 1
                unique = f"{stem}_{number}"
            self._used.add(unique.lower())
            name = self._names[record.source] = unique + (suffix or ".jpg")
        return name if record.frame is None else f"{os.path.splitext(name)[0]}_{record.frame:06}.jpg"


def image_size(record: PoseRecord, format_name: str) -> tuple[int, int]:
    """(H, W) of the record's image in pixels; an `InputError` where it is not known."""
    if min(record.size_hw) < 1:
        raise InputError(f"{format_name} needs the size of the image of {record.source!r}: pass size_hw=(H, W)")
    return record.size_hw
