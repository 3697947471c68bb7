"""Files are written whole or not at all, and optional packages name their install command."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from distilpose.errors import ConfigError, InputError, require_package
from distilpose.files import disk_errors, write_file_atomically


def test_a_file_takes_its_name_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "poses.json"
    before = os.umask(0o027)
    try:
        with write_file_atomically(path) as part:
            assert part.suffix == ".json"
            assert part.name.startswith(".")
            part.unlink()  # some writers replace the file
            part.touch(mode=0o600)
            part.write_text("[]")
            assert not path.exists()
    finally:
        os.umask(before)
    assert path.read_text() == "[]"
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert list(path.parent.iterdir()) == [path]


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "poses.json"
    path.write_text("old")
    message = r"^$|poses.json cannot be written \(No space left\)"
    for error, seen in ((ZeroDivisionError(), ZeroDivisionError), (OSError(errno.ENOSPC, "No space left"), InputError)):
        with pytest.raises(seen, match=message), write_file_atomically(path):
            raise error
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_is_named_whatever_the_writer_raises() -> None:
    if not Path("/dev/full").exists():
        pytest.skip("there is no /dev/full here")
    with pytest.raises(InputError, match="No space left"), disk_errors(Path("/dev/full")):
        Path("/dev/full").write_bytes(b"x" * 100)
    with pytest.raises(InputError, match="too long"), write_file_atomically(Path("x" * 300) / "y"):
        pass


def test_a_missing_package_names_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    require_package("numpy", "this")
    monkeypatch.setitem(__import__("sys").modules, "lightning", None)
    with pytest.raises(ConfigError, match=r'training needs lightning, .*: pip install "distilpose\[train\]"'):
        require_package("lightning", "training")
    with pytest.raises(ConfigError, match=r"pip install no_such_package$"):
        require_package("no_such_package", "this")
