"""The images in a tar file, by the places of their bytes; a file that is not whole is refused."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from distilpose.data.images import IMAGE_SUFFIXES
from distilpose.errors import InputError
from distilpose.files import utf8_text

TAR_SUFFIX = ".tar"
MAX_MEMBER_BYTES = 2**30  # of an image, which is read whole
_MAX_HEADER_BYTES = 2**20  # of a long name or of extended headers
_MAX_CHAIN = 16  # headers before one member
_END_BYTES = 2 * tarfile.BLOCKSIZE  # two blocks of zeros close an archive (POSIX pax)
_CHUNK = 2**20
_PAX_HEADERS = (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE)
_EXTENSIONS = (*_PAX_HEADERS, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)


class _BoundedInfo(tarfile.TarInfo):
    """Refuses headers that say nothing but how long they or the headers behind them are."""

    def _proc_member(self, archive: tarfile.TarFile) -> tarfile.TarInfo:
        is_extension = self.type in _EXTENSIONS
        chain = getattr(archive, "chain", 0) + 1 if is_extension else 0
        if chain > _MAX_CHAIN or (is_extension and self.size > _MAX_HEADER_BYTES):
            raise tarfile.ReadError(f"the headers of a member at byte {self.offset} are too long")
        archive.chain = chain  # type: ignore[attr-defined]
        member: tarfile.TarInfo = super()._proc_member(archive)  # type: ignore[misc]  # made to be overridden
        return member


def list_members(file: Path) -> Iterator[dict[str, object]]:
    """Every image of a tar file, in its order; hidden ones (``._name.jpg``) are left out.

    A hard link stands for the bytes of its target. Symbolic links, sparse files and images beyond `MAX_MEMBER_BYTES`
    are listed with the reason, and become failures. The file is not compressed.

    Yields:
        Fields of `BulkItem`, without ``row``.

    Raises:
        InputError: the file is unreadable, cut off, damaged, or several archives in one.
    """
    places: dict[str, tuple[int, int]] = {}  # of the bytes of files, which hard links point to
    try:
        with open(file, "rb") as content, tarfile.open(fileobj=content, mode="r:", tarinfo=_BoundedInfo) as archive:
            for member in archive:
                if member.isfile() and not member.issparse():
                    places[member.name] = member.offset_data, member.size
                if _is_image(member):
                    named = {"source": utf8_text(f"{file.as_posix()}/{member.name}"), "file": str(file.absolute())}
                    yield {**named, **_place(member, places)}
            _check_end(file, content, archive.offset)  # where the last member ends
    except (OSError, tarfile.TarError, ValueError, OverflowError, RecursionError, LookupError) as error:
        reason = str(error)[:200] or type(error).__name__
        raise InputError(f"{file} cannot be read as a tar file: {reason}") from error


def _is_image(member: tarfile.TarInfo) -> bool:
    name = os.path.basename(member.name)
    has_content = member.isfile() or member.islnk() or member.issym()
    return has_content and not name.startswith(".") and os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES


def _place(member: tarfile.TarInfo, places: dict[str, tuple[int, int]]) -> dict[str, object]:
    if member.issparse():
        return {"problem": "it is stored as a sparse file: pack it with a tar that stores it whole"}
    if member.issym():
        target = utf8_text(member.linkname)
        return {"problem": f"it is a symbolic link to {target}: pack the image itself (tar --dereference)"}
    name = member.linkname if member.islnk() else member.name
    if name not in places:
        return {"problem": f"it is a hard link to {utf8_text(name)}, which does not stand before it in the tar file"}
    offset, size = places[name]
    if size > MAX_MEMBER_BYTES:
        return {"problem": f"it has {size} bytes, more than the {MAX_MEMBER_BYTES} that an image may have"}
    return {"offset": offset, "size": size}


def _check_end(file: Path, content: IO[bytes], offset: int) -> None:
    """Whether the closing zeros stand behind the last member, and nothing behind them; `tarfile` would not mind."""
    content.seek(offset)
    zeros = 0
    while chunk := content.read(_CHUNK):
        leading = len(chunk) - len(chunk.lstrip(b"\0"))
        zeros += leading
        if leading == len(chunk):
            continue
        if zeros < _END_BYTES:
            raise InputError(f"{file} is cut off or damaged: there is no header of a member at byte {offset}")
        raise InputError(
            f"{file} goes on behind its end, at byte {offset + zeros}: give joined tar files each by its own, or join "
            "them with tar --concatenate"
        )
    if zeros < _END_BYTES:
        raise InputError(
            f"{file} is cut off: expected {_END_BYTES} closing zero bytes behind its last member at byte {offset}, got "
            f"{zeros}"
        )
