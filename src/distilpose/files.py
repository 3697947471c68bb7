"""Files that are written whole or not at all."""

from __future__ import annotations

import contextlib
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

from distilpose.errors import InputError

_FULL_BYTES = 1 << 20  # with less room than that, a disk is full


@contextlib.contextmanager
def write_file_atomically(path: str | Path) -> Iterator[Path]:
    """Give a hidden, empty file to write to; it takes its name when all went well and is removed when not.

    The hidden file lies in the same folder and has the same ending. It is new (``O_EXCL``, no link is followed), its
    mode follows the umask, and its content is on the disk before it takes the name.

    Args:
        path: of the file; its folder is made.

    Raises:
        InputError: the file cannot be written, such as on a full disk.

    Example:
        >>> with write_file_atomically("poses.json") as part:  # doctest: +SKIP
        ...     part.write_text("[]")
    """
    path = Path(path)
    part = path.with_name(f".{uuid.uuid4().hex}.part{path.suffix}")
    try:
        with disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
            mode = os.fstat(descriptor).st_mode & 0o777
            os.close(descriptor)
            yield part
            os.chmod(part, mode)  # some writers replace the file by one that only its owner may read
            with part.open("rb+") as file:
                os.fsync(file.fileno())
            os.replace(part, path)
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)


@contextlib.contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn what the operating system says while a file is written into an error that names the file.

    Raises:
        InputError: the file cannot be written.
    """
    try:
        yield
    except OSError as error:
        raise _unwritable(path, error.strerror or str(error)) from error
    except RuntimeError as error:  # C++ libraries say no more than that
        folder = next(parent for parent in path.absolute().parents if parent.exists())
        if shutil.disk_usage(folder).free > _FULL_BYTES:
            raise
        raise _unwritable(path, f"no space left: {error}") from error


def _unwritable(path: Path, reason: str) -> InputError:
    return InputError(f"{path} cannot be written ({reason[:300]}): expected a folder that can be written to, with room")
