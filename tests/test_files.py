"""Files are written whole or not at all, and optional packages name their install command."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from distilpose.errors import ConfigError, InputError, require_package
from distilpose.files import (
    OutputLock,
    disk_errors,
    open_part,
    part_path,
    write_all,
    write_file_atomically,
    write_whole,
)


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
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(ConfigError, match=r'training needs tensorboard, .*: pip install "distilpose\[train\]"'):
        require_package("tensorboard", "training")
    with pytest.raises(ConfigError, match=r"pip install no_such_package$"):
        require_package("no_such_package", "this")


def test_a_folder_is_locked_for_one_process(tmp_path: Path) -> None:
    code = f"""
from distilpose.files import OutputLock
with OutputLock({str(tmp_path)!r}, "distilpose predict"):
    print("in", flush=True)
    input()
"""
    other = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert other.stdin is not None
    assert other.stdout is not None
    assert other.stdout.readline() == "in\n"
    with pytest.raises(InputError, match=rf"in use by distilpose predict \(process {other.pid} on "):
        OutputLock(tmp_path, "distilpose train").__enter__()
    other.kill()  # a killed process holds no lock, and leaves its file
    other.wait()
    with OutputLock(tmp_path, "distilpose train"), pytest.raises(InputError, match="in use by distilpose train"):
        OutputLock(tmp_path, "distilpose train").__enter__()
    assert not list(tmp_path.iterdir())


def test_a_part_that_grows_is_new(tmp_path: Path) -> None:
    path, victim = tmp_path / "a.json", tmp_path / "victim"
    victim.write_text("precious")
    part_path(path).symlink_to(victim)
    with open_part(path) as file:
        write_all(file, b"mine")
    assert (victim.read_text(), part_path(path).read_bytes()) == ("precious", b"mine")
    open_part(path).close()
    assert part_path(path).read_bytes() == b""


def test_a_whole_file_replaces_a_link_not_what_it_points_to(tmp_path: Path) -> None:
    path, victim = tmp_path / "a.json", tmp_path / "victim"
    victim.write_text("precious")
    path.symlink_to(victim)
    write_whole(path, b"whole")
    assert (path.read_bytes(), victim.read_text()) == (b"whole", "precious")
    with pytest.raises(FileNotFoundError):
        write_whole(tmp_path / "missing" / "a.json", b"whole")
    assert sorted(tmp_path.iterdir()) == [path, victim]
