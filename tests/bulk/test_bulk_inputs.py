"""What is listed, in which order, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest
from bulk_files import write_list, write_tar

from distilpose.bulk.inputs import ListColumns, fingerprint, items_of, list_inputs
from distilpose.errors import ConfigError, InputError


def test_a_folder_is_walked_in_one_order(pictures: Path) -> None:
    (pictures / ".hidden").mkdir()
    (pictures / ".hidden" / "x.jpg").touch()
    (pictures / "notes.txt").touch()
    items = items_of(list_inputs(pictures))
    assert [item.row for item in items] == list(range(12))
    assert [Path(item.source).name for item in items] == [f"{number:02}.jpg" for number in range(12)]
    assert all(Path(item.file).is_absolute() and item.offset is None for item in items)
    assert fingerprint(list_inputs(pictures)) == fingerprint(list_inputs(pictures))


def test_a_list_gives_paths_ids_and_boxes(tmp_path: Path) -> None:
    boxes = [[[1, 2, 3, 4], [5, 6, 7, 8.5]], [], None]
    file = write_list(tmp_path / "list.parquet", p=["x/a.jpg", "/b.jpg", "a.jpg"], id=[7, 8, None], boxes=boxes,
                      scores=[[0.5, 0.25], [], None])  # fmt: skip
    columns = ListColumns("p", "id", "boxes", "scores")
    first, second, third = items_of(list_inputs(file, columns))
    assert (first.source, first.file, first.image_id) == ("x/a.jpg", str(tmp_path / "x/a.jpg"), 7)
    assert first.boxes == [[1, 2, 3, 4], [5, 6, 7, 8.5]]
    assert first.box_scores == [0.5, 0.25]
    assert (second.file, second.boxes, third.boxes, third.image_id) == ("/b.jpg", [], None, None)
    assert items_of(list_inputs(file, columns, root="/photos"))[0].file == "/photos/x/a.jpg"


def test_ids_may_be_texts_and_boxes_of_fixed_length(tmp_path: Path) -> None:
    boxes = pa.array([[[1, 2, 3, 4]]], pa.list_(pa.list_(pa.float32(), 4)))
    file = write_list(tmp_path / "list.parquet", path=["a.jpg"], key=["k1"], boxes=boxes)
    item = items_of(list_inputs(file, ListColumns(image_id="key", boxes="boxes")))[0]
    assert (item.image_id, item.boxes) == ("k1", [[1, 2, 3, 4]])


def test_several_lists_count_on_and_a_picture_twice_is_two_rows(tmp_path: Path) -> None:
    write_list(tmp_path / "1.parquet", path=["a.jpg", "b.jpg"])
    write_list(tmp_path / "2.parquet", path=["a.jpg"])
    items = items_of(list_inputs(f"{tmp_path}/*.parquet"))
    assert [(item.row, item.source) for item in items] == [(0, "a.jpg"), (1, "b.jpg"), (2, "a.jpg")]
    assert items == items_of(list_inputs(tmp_path))  # a folder with nothing else in it


def test_pictures_in_tar_files_are_found_by_their_bytes(tmp_path: Path) -> None:
    write_tar(tmp_path / "s1.tar", {"k1.jpg": b"first", "k1.json": b"{}", "k2.png": b"second!"})
    write_tar(tmp_path / "s2.tar", {"k1.jpg": b"third"})
    items = items_of(list_inputs(tmp_path))
    assert [Path(item.source).relative_to(tmp_path).as_posix() for item in items] == [
        "s1.tar/k1.jpg", "s1.tar/k2.png", "s2.tar/k1.jpg",
    ]  # fmt: skip
    for item, content in zip(items, (b"first", b"second!", b"third"), strict=True):
        assert item.offset is not None
        assert item.size is not None
        assert Path(item.file).read_bytes()[item.offset : item.offset + item.size] == content


def test_the_fingerprint_tells_lists_apart_but_not_mount_points(tmp_path: Path) -> None:
    def of(**columns: object) -> str:
        file = write_list(tmp_path / "list.parquet", **columns)
        named = {"boxes": "boxes"} if "boxes" in columns else {}
        return fingerprint(list_inputs(file, ListColumns(**named)))

    digests = {
        of(path=["a", "b"]), of(path=["b", "a"]), of(path=["a", "c"]), of(path=["a"]),
        of(path=["a", "b"], boxes=[[[1.0, 2, 3, 4]], None]), of(path=["a", "b"], boxes=[[[1.0, 2, 3, 5]], None]),
    }  # fmt: skip
    assert len(digests) == 6
    file = write_list(tmp_path / "list.parquet", path=["a"])
    assert fingerprint(list_inputs(file)) == fingerprint(list_inputs(file, root="/elsewhere"))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda d: d / "nowhere", "is not there"),
        (lambda d: f"{d}/*.tar", "is not there"),
        (lambda d: d, "holds nothing to read"),
        (lambda d: write_list(d / "l.parquet", name=["a.jpg"]), "no column 'path': expected one of its columns name"),
        (lambda d: write_list(d / "l.parquet", path=[1.5]), "must hold string, got double"),
        (lambda d: write_list(d / "l.parquet", path=["a", None]), "got null in row 1"),
        (lambda d: write_list(d / "l.parquet", path=pa.array([], pa.string())), "lists no picture"),
        (lambda d: (d / "l.parquet").write_bytes(b"PAR1 no") and d / "l.parquet", "cannot be read as Parquet"),
        (lambda d: (d / "l.tar").write_bytes(b"no tar" * 200) and d / "l.tar", "cannot be read as a tar file"),
        (lambda d: (d / "l.tar.gz").touch() or d / "l.tar.gz", "compressed"),
        (lambda d: (d / "l.txt").touch() or d / "l.txt", "none of what bulk prediction reads"),
        (lambda d: ((d / "a.jpg").touch(), (d / "b.tar").touch()) and d, "pictures and tar shards"),
        (lambda d: ((d / "a.jpg").touch(), (d / "b.tar").touch()) and f"{d}/*", "several kinds"),
    ],
)
def test_what_cannot_be_read_is_refused(make, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        list_inputs(make(tmp_path))


def test_columns_belong_to_lists(pictures: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="belong to a list"):
        list_inputs(pictures, ListColumns(boxes="boxes"))
    with pytest.raises(ConfigError, match="belong to a list"):
        list_inputs(pictures, root="/photos")
    file = write_list(tmp_path / "list.parquet", path=["a"], boxes=[[1.0, 2.0]])
    with pytest.raises(InputError, match="'boxes' must hold"):
        list_inputs(file, ListColumns(boxes="boxes"))
