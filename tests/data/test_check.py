"""Images are decoded once, what was right is remembered, and a wrong size is told with its likely cause."""

import json
import logging
import os
from pathlib import Path

import pytest
from PIL import Image

from distilpose.data import check
from distilpose.data.check import cache_file, find_bad_images, size_conflict


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def photo(path: Path, size_wh: tuple[int, int] = (30, 20)) -> Path:
    Image.radial_gradient("L").resize(size_wh).convert("RGB").save(path)
    return path


def test_only_new_changed_and_bad_images_are_decoded_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[str] = []
    decode = check.check_decodes
    monkeypatch.setattr(check, "check_decodes", lambda path: (decoded.append(path.name), decode(path))[1])
    sizes = {photo(tmp_path / f"{name}.jpg"): (20, 30) for name in "abc"}
    cut = tmp_path / "c.jpg"
    cut.write_bytes(cut.read_bytes()[:-20])
    assert list(find_bad_images(sizes)) == [cut]
    assert sorted(decoded) == ["a.jpg", "b.jpg", "c.jpg"]
    decoded.clear()
    photo(tmp_path / "b.jpg", (30, 20))
    os.utime(tmp_path / "b.jpg", ns=(1, 1))
    other = {photo(tmp_path / "d.jpg"): (20, 30)}  # a second set in the same folder does not push the first one out
    assert find_bad_images(other) == {}
    assert list(find_bad_images(sizes)) == [cut]
    assert decoded[:1] == ["d.jpg"]
    assert sorted(decoded[1:]) == ["b.jpg", "c.jpg"], "threads decode in any order"
    decoded.clear()
    assert list(find_bad_images(dict.fromkeys(sizes, (20, 31)))) == list(sizes), "the wanted size counts as well"
    cache_file(sizes).write_text("no json")
    assert list(find_bad_images(sizes)) == [cut]
    assert sorted(decoded) == ["a.jpg", "b.jpg", "c.jpg"]


def test_a_folder_whose_name_is_no_utf_8_is_checked_and_remembered(tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"fotos \xe4")  # in Latin-1
    folder.mkdir()
    sizes = {photo(folder / "a.jpg"): (20, 30)}
    assert find_bad_images(sizes) == {}
    assert str(folder / "a.jpg") in json.loads(cache_file(sizes).read_text())


def test_turned_images_are_told_of_each_time_and_no_cache_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    exif = Image.Exif()
    exif[0x0112] = 3
    Image.new("RGB", (30, 20)).save(tmp_path / "a.jpg", exif=exif)
    (tmp_path / "file").write_text("")
    for folder in ("cache", "cache", "file"):  # in which no folder can be made
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / folder))
        with caplog.at_level(logging.WARNING):
            assert find_bad_images({tmp_path / "a.jpg": (20, 30)}) == {}
    assert caplog.text.count("1 images are turned by 180 degrees") == 3


@pytest.mark.parametrize(
    ("size_hw", "cause"),
    [
        ((30, 20), "exchanged, as when an image was labeled without its EXIF orientation"),
        ((10, 15), "resized since"),
        ((40, 61), "resized since"),
        ((20, 31), "resized since"),
        ((25, 30), "another image"),
    ],
)
def test_a_size_that_contradicts_the_annotations_has_a_cause(size_hw: tuple[int, int], cause: str) -> None:
    problem = size_conflict(Path("a.jpg"), size_hw, (20, 30))
    assert problem is not None
    assert f"a.jpg is of height and width {size_hw}, its annotations are of (20, 30): " in problem
    assert cause in problem
    assert size_conflict(Path("a.jpg"), (20, 30), (20, 30)) is None
