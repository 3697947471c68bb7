"""Files that are written whole or not at all, YAML read safely, and a lock for a folder of results."""

from __future__ import annotations

import contextlib
import errno
import math
import os
import shutil
import socket
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, BinaryIO, Self

from distilpose.errors import ConfigError, DistilPoseError, InputError

# What the operating system says of a disk, a folder or a name.
DISK_ERRORS = frozenset(
    {
        *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS, errno.EACCES, errno.EPERM),
        *(errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.EEXIST),
    }
)
LOCK_NAME = ".distilpose.lock"
_FULL_BYTES = 1 << 20  # with less room than that, a disk is full
_STEM_BYTES = 220  # of at most 255 of a file name: numbers, track and suffix stand behind the stem
_MAX_YAML_BYTES, _MAX_YAML_VALUES, _MAX_YAML_DEPTH = 1 << 20, 100_000, 50


@contextlib.contextmanager
def replacing(path: Path, *, sync: bool = False) -> Iterator[Path]:
    """Give a hidden, empty file in the folder of ``path``, which takes that name when the block ends without an error.

    It is new (``O_EXCL``, no link is followed), has the ending of ``path``, and its mode follows the umask.

    Args:
        path: of the file; its folder exists. A file that is there is replaced.
        sync: ask the disk to keep the content before the rename, for files that took long to make.

    Raises:
        OSError: the disk is full or not writable; nothing is left behind.
    """
    part = path.with_name(f".{uuid.uuid4().hex}.part{path.suffix}")
    try:
        with part.open("xb") as file:
            mode = os.fstat(file.fileno()).st_mode & 0o777
        yield part
        os.chmod(part, mode)  # some writers replace the file by one that only its owner may read
        if sync:
            with part.open("rb+") as file:
                os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)


def write_whole(path: Path, data: bytes | memoryview) -> None:
    """Write a file by `replacing`; raises what that raises."""
    with replacing(path) as part:
        part.write_bytes(data)


@contextlib.contextmanager
def write_file_atomically(path: str | Path) -> Iterator[Path]:
    """`replacing` for files that took long to make: the folder is made, the content is synced, errors name the file.

    Raises:
        InputError: the file cannot be written, such as on a full disk.
    """
    path = Path(path)
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path, sync=True) as part:
            yield part


def make_folder(folder: str | Path) -> Path:
    """Make a folder for results, where it is not there yet; errors as of `disk_errors`."""
    with disk_errors(Path(folder)):
        Path(folder).mkdir(parents=True, exist_ok=True)
    return Path(folder)


@contextlib.contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn what the operating system says while a file is written into an `InputError` that names the file."""
    try:
        yield
    except (OSError, RuntimeError) as error:  # C++ libraries raise the latter and say no more than that
        reason = f"no space left: {error}"
        if isinstance(error, OSError):
            reason = error.strerror or str(error)
        elif shutil.disk_usage(next(p for p in path.absolute().parents if p.exists())).free > _FULL_BYTES:
            raise
        raise InputError(
            f"{path} cannot be written ({reason[:300]}): expected a folder that can be written to, with room"
        ) from error


def resolved(path: str | Path) -> Path:
    """The absolute path without links; those that lead in a circle stay, reading the file tells of them."""
    return Path(os.path.realpath(path))


def utf8_text(name: object) -> str:
    """A name as text that every file can hold: bytes that are no UTF-8 are written as escapes, as in a terminal."""
    return str(name).encode(errors="backslashreplace").decode()


def short_stem(stem: str) -> str:
    """A stem that a file name has room for with what is put behind it: what is beyond 220 bytes is cut off."""
    data = stem.encode(errors="surrogatepass")
    return stem if len(data) <= _STEM_BYTES else data[:_STEM_BYTES].decode(errors="ignore")


def part_path(path: Path) -> Path:
    """The hidden name of a file that can be read while it grows."""
    return path.with_name(f".{path.name}.part")


def open_part(path: Path) -> BinaryIO:
    """Create the hidden part of ``path``, unbuffered, for reading and writing.

    A part that an earlier run has left is removed; a symbolic link in its place is never followed.

    Raises:
        OSError: the disk is full or not writable, or another process made the part at the same moment.
    """
    part = part_path(path)
    part.unlink(missing_ok=True)
    return part.open("x+b", buffering=0)


def write_all(file: IO[bytes], data: bytes | memoryview) -> None:
    """Write all bytes of ``data`` to an unbuffered file, whose ``write`` may take fewer.

    Raises:
        OSError: the disk is full.
    """
    left = memoryview(data)
    while left:
        left = left[file.write(left) :]


def read_yaml(path: str | Path, expected: str, error: type[DistilPoseError] = ConfigError) -> Any:
    """Plain values of a YAML file in UTF-8; ``expected`` says what it should be, for the error.

    Raises:
        DistilPoseError: of class ``error``: the file cannot be read, or `load_yaml` refuses its text.
    """
    try:
        with Path(path).open("rb") as file:
            return load_yaml(file.read(_MAX_YAML_BYTES + 1).decode("utf-8-sig"))
    except OSError as problem:
        raise error(f"{path} cannot be read ({problem.strerror}): expected {expected}, check the path") from problem
    except UnicodeDecodeError as problem:
        raise error(f"{path} cannot be read ({problem}): expected {expected}, save it as UTF-8") from problem
    except ValueError as problem:
        raise error(f"{path} cannot be read as YAML ({problem}): expected {expected}") from problem


def load_yaml(text: str) -> Any:
    """Plain values of YAML of any origin. Its aliases are counted before they are unfolded.

    Raises:
        ValueError: it is no YAML, is nested too deeply, is longer than 1 MB, or holds more than 100,000 values.
    """
    import yaml

    if len(text) > _MAX_YAML_BYTES:
        raise ValueError(f"it is longer than {_MAX_YAML_BYTES:,} characters")
    try:
        loader = yaml.SafeLoader(text)
        try:
            node = loader.get_single_node()
            if _unfolded_values(node, {}) > _MAX_YAML_VALUES:
                raise ValueError(f"it holds more than {_MAX_YAML_VALUES:,} values, aliases unfolded")
            return None if node is None else loader.construct_document(node)
        finally:
            loader.dispose()
    except RecursionError as error:
        raise ValueError("its values are nested too deeply") from error
    except Exception as error:  # for tags such as !!int of what is none, PyYAML raises errors of many types
        raise ValueError(str(error)[:500] or type(error).__name__) from error


def _unfolded_values(node: Any, counted: dict[int, float], depth: int = 0) -> float:
    """Values of a YAML node, with each alias as often as it is used; infinite where one contains itself."""
    if depth > _MAX_YAML_DEPTH:
        raise RecursionError
    if not isinstance(getattr(node, "value", None), list):
        return 1
    if id(node) not in counted:
        counted[id(node)] = math.inf
        parts = (part for entry in node.value for part in (entry if isinstance(entry, tuple) else (entry,)))
        counted[id(node)] = 1 + sum(_unfolded_values(part, counted, depth + 1) for part in parts)
    return counted[id(node)]


class OutputLock:
    """Keeps a second process out of a folder of results; released when the block or the process ends.

    Args:
        folder: it is made if needed.
        work: what this process does there, as the other one is told.

    Raises:
        InputError: on entry, another process holds the folder, as the text says, or it cannot be made or written to.
    """

    def __init__(self, folder: str | Path, work: str) -> None:
        self._path, self._work = Path(folder) / LOCK_NAME, work
        self._file: int | None = None

    def __enter__(self) -> Self:
        make_folder(self._path.parent)
        if sys.platform == "win32":  # without flock; two processes there are not told apart
            return self
        import fcntl

        while self._file is None:
            with disk_errors(self._path):
                file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.stat(self._path).st_ino == os.fstat(file).st_ino:  # not one that its holder has just removed
                    self._file = file
            except FileNotFoundError:
                pass
            except BlockingIOError as error:
                holder = os.pread(file, 1000, 0).decode("utf-8", "replace").strip() or "another process"
                raise InputError(
                    f"{self._path.parent} is in use by {holder}: wait for it, or choose another folder"
                ) from error
            except OSError:  # a file system without locks
                self._file = file
            finally:
                if self._file is None:
                    os.close(file)
        with contextlib.suppress(OSError):  # on a full disk it locks all the same
            os.ftruncate(self._file, 0)
            os.pwrite(self._file, f"{self._work} (process {os.getpid()} on {socket.gethostname()})\n".encode(), 0)
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._path.unlink(missing_ok=True)
            os.close(self._file)
            self._file = None
