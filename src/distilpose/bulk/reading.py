"""One image from a file or a tar file, and whose fault it is if that fails."""

from __future__ import annotations

import errno
from pathlib import Path

from distilpose.bulk.inputs import BulkItem
from distilpose.data.images import NamedBytes, read_image
from distilpose.errors import DistilPoseError, InputError
from distilpose.inference.people import Frame, FrameId
from distilpose.types import ImageArray

_ABSENT = frozenset({errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.EPERM})
_OF_THE_IMAGE = _ABSENT | {errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP, errno.EINVAL}


class TransientError(Exception):
    """An image could not be read for a reason outside of it, such as storage or memory: later it may go well."""


def read_item(item: BulkItem, *, accept_failures: bool = False) -> Frame:
    """The image, or why there is none.

    Args:
        item: where it lies.
        accept_failures: take every error for one of the image.

    Raises:
        TransientError: storage or memory failed.
    """
    frame_id = FrameId(Path(item.source))
    try:
        image = _read(item)
    except InputError as error:
        if not accept_failures and _is_transient(error.__cause__):
            raise TransientError(str(error)) from error
        return frame_id, error
    return frame_id._replace(size_hw=(image.shape[0], image.shape[1])), image


def is_absent(error: DistilPoseError | None) -> bool:
    """Whether an image was not there or not to be opened, as all of them are when a folder is not mounted."""
    cause = None if error is None else error.__cause__
    return isinstance(cause, OSError) and cause.errno in _ABSENT


def _is_transient(cause: BaseException | None) -> bool:
    if isinstance(cause, OSError):  # decoders raise some without a number
        return cause.errno is not None and cause.errno not in _OF_THE_IMAGE
    return isinstance(cause, MemoryError)


def _read(item: BulkItem) -> ImageArray:
    if item.problem is not None:
        raise InputError(f"{item.source}: {item.problem}")
    if item.offset is None:
        return read_image(item.file)
    try:
        with open(item.file, "rb") as archive:
            archive.seek(item.offset)
            content = archive.read(item.size)
    except OSError as error:
        raise InputError(f"{item.source}: {item.file} cannot be read: {error.strerror or error}") from error
    if len(content) != item.size:
        raise InputError(f"{item.source}: {item.file} was cut off after it was listed")
    return read_image(NamedBytes(content, item.source))
