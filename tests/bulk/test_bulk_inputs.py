"""What is listed, in which order, and what is refused."""

import errno
import io
import os
import tarfile
from pathlib import Path

import pyarrow as pa
import pytest
from bulk_files import write_list, write_tar

from distilpose.bulk import tar_files
from distilpose.bulk.inputs import check_apart, fingerprint, items_of, list_inputs
from distilpose.errors import ConfigError, InputError


def test_a_folder_is_walked_in_one_order(images: Path) -> None:
    (images / ".hidden").mkdir()
    (images / ".hidden" / "x.jpg").touch()
    (images / "notes.txt").touch()
    items = items_of(list_inputs(images))
    assert [item.row for item in items] == list(range(12))
    assert [Path(item.source).name for item in items] == [f"{number:02}.jpg" for number in range(12)]
    assert all(Path(item.file).is_absolute() and item.offset is None for item in items)
    assert fingerprint(list_inputs(images)) == fingerprint(list_inputs(images))


def test_names_that_are_no_utf_8_are_failures_of_their_own(tmp_path: Path) -> None:
    write_tar(tmp_path / "s.tar", {"k\udcff.jpg": b"first"})
    assert items_of(list_inputs(tmp_path / "s.tar"))[0].source == f"{tmp_path}/s.tar/k\\udcff.jpg"
    with pytest.raises(InputError, match="no UTF-8: rename it"):
        list_inputs((tmp_path / "s.tar").rename(tmp_path / "s\udcff.tar"))
    (tmp_path / "a").mkdir()
    for name in ("a\udcff.jpg", "b.jpg"):
        (tmp_path / "a" / name).touch()
    odd, good = items_of(list_inputs(tmp_path / "a"))
    assert (odd.source, odd.problem) == (f"{tmp_path}/a/a\\udcff.jpg", "its name is no UTF-8: rename it")
    assert good.problem is None


def test_a_list_gives_paths_ids_and_boxes(tmp_path: Path) -> None:
    boxes = [[[1, 2, 3, 4], [5, 6, 7, 8.5]], [], None]
    file = write_list(tmp_path / "list.parquet", p=["x/a.jpg", "/b.jpg", "a.jpg"], id=[7, 8, None], boxes=boxes,
                      scores=[[0.5, 0.25], [], None])  # fmt: skip
    columns = {"paths": "p", "ids": "id", "boxes": "boxes", "box_scores": "scores"}
    first, second, third = items_of(list_inputs(file, **columns))
    assert (first.source, first.file, first.image_id) == ("x/a.jpg", str(tmp_path / "x/a.jpg"), 7)
    assert first.boxes == [[1, 2, 3, 4], [5, 6, 7, 8.5]]
    assert first.box_scores == [0.5, 0.25]
    assert (second.file, second.boxes, third.boxes, third.image_id) == ("/b.jpg", [], None, None)
    assert items_of(list_inputs(file, "/photos", **columns))[0].file == "/photos/x/a.jpg"


def test_ids_may_be_texts_and_boxes_of_fixed_length(tmp_path: Path) -> None:
    boxes = pa.array([[[1, 2, 3, 4]]], pa.list_(pa.list_(pa.float32(), 4)))
    file = write_list(tmp_path / "list.parquet", path=["a.jpg"], key=["k1"], boxes=boxes)
    item = items_of(list_inputs(file, ids="key", boxes="boxes"))[0]
    assert (item.image_id, item.boxes) == ("k1", [[1, 2, 3, 4]])


def test_several_lists_count_on_and_an_image_twice_is_two_rows(tmp_path: Path) -> None:
    write_list(tmp_path / "1.parquet", path=["a.jpg", "b.jpg"])
    write_list(tmp_path / "2.parquet", path=["a.jpg"])
    items = items_of(list_inputs(f"{tmp_path}/*.parquet"))
    assert [(item.row, item.source) for item in items] == [(0, "a.jpg"), (1, "b.jpg"), (2, "a.jpg")]
    assert items == items_of(list_inputs(tmp_path))  # a folder with nothing else in it


def test_images_in_tar_files_are_found_by_their_bytes(tmp_path: Path) -> None:
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


@pytest.fixture
def whole_tar(tmp_path: Path) -> Path:
    return write_tar(tmp_path / "s.tar", {f"{number}.jpg": bytes([65 + number]) * 700 for number in range(4)})


MEMBER = 512 + 1024  # header, and 700 bytes filled up to whole blocks
TAR_DAMAGES = {
    "at the border of a member": (lambda data: data[: 2 * MEMBER], "is cut off: expected 1024 closing zero bytes .* 0"),
    "in a header": (lambda data: data[: 2 * MEMBER + 100], "is cut off or damaged: there is no header .* byte 3072"),
    "in the closing zeros": (lambda data: data[: 4 * MEMBER + 512], "is cut off: .* got 512"),
    "in an image": (lambda data: data[: 4 * MEMBER - 400], "unexpected end of data"),
    "a header": (lambda data: data[:MEMBER] + b"?" * 512 + data[MEMBER + 512 :], "no header .* byte 1536"),
    "joined with cat": (lambda data: data + data, "goes on behind its end, at byte 10240"),
}  # fmt: skip


@pytest.mark.parametrize("damage", TAR_DAMAGES)
def test_a_tar_file_that_is_not_whole_is_refused(damage: str, whole_tar: Path) -> None:
    assert len(list_inputs(whole_tar)) == 4
    change, message = TAR_DAMAGES[damage]
    whole_tar.write_bytes(change(whole_tar.read_bytes()))
    with pytest.raises(InputError, match=f"s.tar.*{message}"):
        list_inputs(whole_tar)


def header(name: str, kind: bytes, size: int) -> bytes:
    member = tarfile.TarInfo(name)
    member.type, member.size = kind, size
    return member.tobuf(tarfile.GNU_FORMAT)


def block(text: bytes) -> bytes:
    return text.ljust(-(-len(text) // 512) * 512, b"\0")


GOOD = header("a.jpg", tarfile.REGTYPE, 5) + block(b"bytes")
PAX_LOOP = header("x", tarfile.XHDTYPE, 13) + block(b"13 path=abcd\n")
TAR_BOMBS = {
    "extended headers without end": PAX_LOOP * 3000,
    "global headers without end": PAX_LOOP.replace(b"x" + bytes(99), b"g" + bytes(99)) * 3000,
    "long names without end": (header("x", tarfile.GNUTYPE_LONGNAME, 5) + block(b"abcd\0")) * 3000,
    "a long name of 4 GB": header("x", tarfile.GNUTYPE_LONGNAME, 2**32) + block(b"a"),
    "a member of 2**63 bytes": header("b.jpg", tarfile.REGTYPE, 2**63) + block(b"a"),
    "an extended size of 9**40": header("x", tarfile.XHDTYPE, 49) + block(b"49 size=" + b"9" * 40 + b"\n") + GOOD,
    "an extended size that is none": header("x", tarfile.XHDTYPE, 12) + block(b"12 size=1e9\n") + GOOD,
    "an extended header of no length": header("x", tarfile.XHDTYPE, 12) + block(b"0 path=abcd\n") + GOOD,
    "a sparse map that is none": header("x", tarfile.XHDTYPE, 46)
    + block(b"46 GNU.sparse.map=1,b,,9" + b"," * 21 + b"\n") + GOOD,
}  # fmt: skip


@pytest.mark.parametrize("bomb", TAR_BOMBS)
def test_a_tar_file_that_was_made_to_break_readers_is_refused(bomb: str, tmp_path: Path) -> None:
    (tmp_path / "s.tar").write_bytes(GOOD + TAR_BOMBS[bomb] + GOOD + bytes(10240))
    with pytest.raises(InputError, match=r"s\.tar (cannot be read|is cut off)"):
        list_inputs(tmp_path / "s.tar")


def test_an_image_of_a_gigabyte_is_a_failure_and_not_read(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(tar_files, "MAX_MEMBER_BYTES", 4)
    (tmp_path / "s.tar").write_bytes(GOOD + bytes(10240))
    (item,) = items_of(list_inputs(tmp_path / "s.tar"))
    assert item.offset is None
    assert "more than the 4" in str(item.problem)


def test_links_and_hidden_and_sparse_members_of_tar_files(tmp_path: Path) -> None:
    def link(name: str, target: str, kind: bytes) -> tarfile.TarInfo:
        member = tarfile.TarInfo(name)
        member.linkname, member.type = target, kind
        return member

    with tarfile.open(tmp_path / "s.tar", "w") as archive:
        for name in ("k.jpg", "._k.jpg", "no_image.bin"):
            member = tarfile.TarInfo(name)
            member.size = 5
            archive.addfile(member, io.BytesIO(b"bytes"))
        archive.addfile(link("hard.jpg", "k.jpg", tarfile.LNKTYPE))
        archive.addfile(link("other.jpg", "no_image.bin", tarfile.LNKTYPE))
        archive.addfile(link("lost.jpg", "nowhere.jpg", tarfile.LNKTYPE))
        archive.addfile(link("soft.jpg", "k.jpg", tarfile.SYMTYPE))
        sparse = tarfile.TarInfo("sparse.jpg")
        sparse.pax_headers = {"GNU.sparse.major": "0", "GNU.sparse.minor": "1", "GNU.sparse.map": "0,5",
                              "GNU.sparse.size": "900"}  # fmt: skip
        sparse.size = 5
        archive.addfile(sparse, io.BytesIO(b"bytes"))
    items = {Path(item.source).name: item for item in items_of(list_inputs(tmp_path / "s.tar"))}
    assert list(items) == ["k.jpg", "hard.jpg", "other.jpg", "lost.jpg", "soft.jpg", "sparse.jpg"]
    assert (items["hard.jpg"].offset, items["hard.jpg"].size) == (items["k.jpg"].offset, 5) != (None, 5)
    assert items["other.jpg"].offset == items["k.jpg"].offset + 2 * 1024  # type: ignore[operator]
    for name, reason in (
        ("lost.jpg", "hard link to nowhere.jpg"),
        ("soft.jpg", "symbolic link"),
        ("sparse.jpg", "sparse"),
    ):
        assert items[name].offset is None
        assert reason in str(items[name].problem)


def test_ids_of_several_lists_are_of_one_type_and_may_be_missing(tmp_path: Path) -> None:
    write_list(tmp_path / "1.parquet", path=["a"], id=pa.nulls(1))
    write_list(tmp_path / "2.parquet", path=["b"], id=pa.array([None], pa.float64()))  # as pandas writes such a column
    assert [item.image_id for item in items_of(list_inputs(tmp_path, ids="id"))] == [None, None]
    write_list(tmp_path / "3.parquet", path=["c"], id=["k"])
    assert [item.image_id for item in items_of(list_inputs(tmp_path, ids="id"))] == [None, None, "k"]
    write_list(tmp_path / "4.parquet", path=["d"], id=[4])
    with pytest.raises(InputError, match=r"4\.parquet: column 'id' holds int64, that of the lists before it string"):
        list_inputs(tmp_path, ids="id")


def test_the_fingerprint_tells_lists_apart_but_not_mount_points(tmp_path: Path) -> None:
    def of(**columns: object) -> str:
        file = write_list(tmp_path / "list.parquet", **columns)
        return fingerprint(list_inputs(file, boxes="boxes" if "boxes" in columns else None))

    digests = {
        of(path=["a", "b"]), of(path=["b", "a"]), of(path=["a", "c"]), of(path=["a"]),
        of(path=["a", "b"], boxes=[[[1.0, 2, 3, 4]], None]), of(path=["a", "b"], boxes=[[[1.0, 2, 3, 5]], None]),
    }  # fmt: skip
    assert len(digests) == 6
    file = write_list(tmp_path / "list.parquet", path=["a"])
    assert fingerprint(list_inputs(file)) == fingerprint(list_inputs(file, root="/elsewhere"))


def touch(*files: Path) -> bool:
    for file in files:
        file.touch()
    return True


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda d: d / "nowhere", "is not there"),
        (lambda d: f"{d}/*.tar", "is not there"),
        (lambda d: d, "holds nothing to read"),
        (lambda d: write_list(d / "l.parquet", name=["a.jpg"]), "no column 'path': expected one of its columns name"),
        (lambda d: write_list(d / "l.parquet", path=[1.5]), "must hold string, got double"),
        (lambda d: write_list(d / "l.parquet", path=["a", None]), "got null in row 1"),
        (lambda d: write_list(d / "l.parquet", path=pa.array([], pa.string())), "lists no image"),
        (lambda d: (d / "l.parquet").write_bytes(b"PAR1 no") and d / "l.parquet", "cannot be read as Parquet"),
        (lambda d: (d / "l.tar").write_bytes(b"no tar" * 200) and d / "l.tar", "cannot be read as a tar file"),
        (lambda d: (d / "l.tar.gz").touch() or d / "l.tar.gz", "compressed"),
        (lambda d: (d / "l.txt").touch() or d / "l.txt", "none of what bulk prediction reads"),
        (lambda d: touch(d / "a.jpg", d / "b.tar") and d, r"several kinds \(.tar, images\)"),
        (lambda d: touch(d / "a.jpg", d / "b.parquet") and d, r"several kinds \(.parquet, images\)"),
        (lambda d: touch(d / "a.jpg", d / "b.tar") and f"{d}/*", "several kinds"),
        (lambda d: touch(d / "b.tar", d / "c.tgz") and d, r"c\.tgz is compressed"),
        (lambda d: touch(d / "b.tar", d / "c.tar.gz") and f"{d}/*", r"c\.tar\.gz is compressed"),
    ],
)
def test_what_cannot_be_read_is_refused(make, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        list_inputs(make(tmp_path))


def test_linked_folders_are_entered_once_and_loops_end(tmp_path: Path) -> None:
    for name in ("photos/a", "elsewhere"):
        (tmp_path / name).mkdir(parents=True)
    touch(tmp_path / "photos/a/1.jpg", tmp_path / "elsewhere/2.jpg")
    (tmp_path / "photos/b").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "photos/c").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "photos/a/loop").symlink_to(tmp_path / "photos")
    sources = [item.source for item in items_of(list_inputs(tmp_path / "photos"))]
    assert sources == [f"{tmp_path}/photos/a/1.jpg", f"{tmp_path}/photos/b/2.jpg"]


def test_a_folder_that_cannot_be_read_is_not_passed_over(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "locked").mkdir()
    touch(tmp_path / "a.jpg")
    scan = os.scandir

    def fails(place: str) -> object:
        if str(place).endswith("locked"):
            raise PermissionError(errno.EACCES, "Permission denied", str(place))
        return scan(place)

    monkeypatch.setattr("os.scandir", fails)
    with pytest.raises(InputError, match=r"locked cannot be read \(Permission denied\)"):
        list_inputs(tmp_path)


def test_a_pattern_that_fits_twice_lists_once(tmp_path: Path) -> None:
    (tmp_path / "x" / "y").mkdir(parents=True)
    touch(tmp_path / "x" / "y" / "1.jpg")
    assert len(list_inputs(f"{tmp_path}/**/**/*.jpg")) == 1


@pytest.mark.parametrize(
    ("source", "out"),
    [
        ("photos", "photos/out"), ("photos", "photos"), ("out/images", "out"), ("**/*.parquet", "out"),
        ("*/poses/*.parquet", "out"), ("out/**", "out"),
    ],
)  # fmt: skip
def test_results_are_not_read_as_source(source: str, out: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("photos", "out/images"):
        (tmp_path / name).mkdir(parents=True)
    for given in (source, f"{tmp_path}/{source}"):
        with pytest.raises(ConfigError, match=f"the results in {out} would be read as part of"):
            check_apart(given, out)


@pytest.mark.parametrize(
    ("source", "out"), [("photos", "out"), ("photos", "."), ("*.parquet", "out"), ("out/*.parquet", "out")]
)
def test_results_beside_the_source_are_fine(source: str, out: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    check_apart(source, out)


def test_columns_belong_to_lists(images: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="belong to a list"):
        list_inputs(images, boxes="boxes")
    with pytest.raises(ConfigError, match="belong to a list"):
        list_inputs(images, root="/photos")
    file = write_list(tmp_path / "list.parquet", path=["a"], boxes=[[1.0, 2.0]])
    with pytest.raises(InputError, match="'boxes' must hold"):
        list_inputs(file, boxes="boxes")
