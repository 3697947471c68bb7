"""What a user points at."""

import os
from pathlib import Path
from typing import Any

import pytest

from distilpose.errors import InputError
from distilpose.inference.sources import find_sources


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a.jpg", "b.PNG", "c.mp4", "d.MOV", "notes.txt", ".hidden.jpg", "sub/e.jpg", "sub/f.webm"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


def names(paths: list[Path]) -> list[str]:
    return [path.name for path in paths]


def test_a_folder_is_its_images_and_videos(folder: Path) -> None:
    found = find_sources([folder])
    assert names(found.images) == ["a.jpg", "b.PNG", "e.jpg"]
    assert names(found.videos) == ["c.mp4", "d.MOV", "f.webm"]
    assert (found.cameras, found.num_others) == ([], 1)
    assert names(find_sources([folder], exclude=folder / "sub").images) == ["a.jpg", "b.PNG"]


def test_patterns_and_addresses(folder: Path) -> None:
    found = find_sources([f"{folder}/**/*.jpg", (folder / "c.mp4").as_uri(), f"file://localhost{folder}/sub/f.webm"])
    assert names(found.images) == ["a.jpg", "e.jpg"]
    assert names(found.videos) == ["c.mp4", "f.webm"]
    odd = folder / "what [1]? 100%.jpg"
    odd.touch()
    assert find_sources([str(odd), odd.as_uri()]).images == [odd]


def test_cameras(folder: Path) -> None:
    assert find_sources(["webcam:0", "webcam:12", "webcam:0"]) == ([], [], [0, 12], 0)
    assert find_sources(["webcam:1", str(folder / "a.jpg")]) == ([folder / "a.jpg"], [], [1], 0)
    for odd in ("webcam:front", "webcam:99999999999"):
        with pytest.raises(InputError, match="webcam:NUMBER"):
            find_sources([odd])


def test_what_cannot_be_opened_is_told_when_it_is_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "loop.jpg").symlink_to("loop.jpg")
    found = find_sources([folder / "a.jpg", folder / "loop.jpg", f"{folder}/l*.jpg"])
    assert names(found.images) == ["a.jpg", "loop.jpg"]
    scandir = os.scandir

    def refuse(path: str) -> Any:
        if str(path).endswith("sub"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    assert names(find_sources([folder]).images) == ["a.jpg", "b.PNG", "sub"]
    for odd in (5, None):
        with pytest.raises(InputError, match=f"expected paths .*got {odd}"):
            find_sources([odd])  # type: ignore[list-item]


def test_each_source_once_and_missing_files_taken_at_their_word(folder: Path) -> None:
    found = find_sources([folder / "a.jpg", folder, folder / "none.mp4", str(folder / "none.jpg")])
    assert names(found.images) == ["a.jpg", "b.PNG", "e.jpg", "none.jpg"]
    assert names(found.videos) == ["c.mp4", "d.MOV", "f.webm", "none.mp4"]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("https://example.org/a.jpg", "download it"),
        ("rtsp://camera/1", "download it"),
        ("file://elsewhere/a.jpg", "file address"),
        ("*.nothing", "no file fits"),
    ],
)
def test_what_cannot_be_read_is_refused(source: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        find_sources([source])


def test_nothing_to_do(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no image"):
        find_sources([tmp_path])
    with pytest.raises(InputError, match="at least one"):
        find_sources([])
