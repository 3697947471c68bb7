"""One worker without an engine: every image a row, whole files or none, and no torch."""

import errno
import json
import platform
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from bulk_files import table_rows, write_list, write_tar
from PIL import Image

from distilpose.backends.loading import as_backend
from distilpose.bulk.inputs import BulkItem, items_of, list_inputs
from distilpose.bulk.options import BulkOptions
from distilpose.bulk.output_files import RunFolder, poses_schema, shard_name
from distilpose.bulk.worker import ALIKE, ATTEMPTS, ATTEMPTS_ALONE, ShardWorker
from distilpose.data.images import read_image
from distilpose.errors import InputError
from distilpose.formats.parquet import ParquetFolder
from distilpose.formats.record import PoseRecord
from distilpose.inference.people import open_detector
from distilpose.inference.predictor import PosePredictor
from distilpose.inference.result import PoseResult


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    made = RunFolder(tmp_path / "out")
    made.start({"model": "m"})
    return made


@pytest.fixture
def job(folder: RunFolder, images: Path, model_file: Path) -> BulkOptions:
    return BulkOptions(images, folder.path, model=model_file, detector="whole-image")


def test_every_image_is_a_row_and_a_broken_one_says_why(job, folder, images, model_file) -> None:
    report = ShardWorker(job).work(3, items_of(list_inputs(images)))
    assert report == (3, 12, None, None)
    rows, poses = table_rows(folder.path / "images"), table_rows(folder.path / "poses")
    assert [row["row"] for row in rows] == list(range(12))
    assert [(row["height"], row["width"]) for row in rows if row["row"] != 4] == [
        (60 + number, 80) for number in range(12) if number != 4
    ]
    broken = rows[4]
    assert (broken["people"], broken["height"]) == (None, None)
    assert "04.jpg cannot be read as an image" in broken["error"]
    assert [row["row"] for row in poses] == [number for number in range(12) if number != 4]
    image = read_image(rows[7]["source"])
    predictor = PosePredictor(as_backend(model_file, threads=1))
    (people,) = open_detector("whole-image", predictor)([image])  # as predict looks
    alone = predictor(image, people.boxes_xyxy)
    row = next(row for row in poses if row["row"] == 7)
    np.testing.assert_allclose(row["x"], alone.xy[0, :, 0], rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(row["sigma_y"], alone.sigma[0, :, 1], rtol=1e-4)
    names = pq.read_schema(folder.path / "poses" / shard_name(3)).metadata[b"keypoint_names"]
    assert json.loads(names)[0] == "nose"


def test_boxes_of_the_list_and_images_without_people(job, folder, images, tmp_path) -> None:
    names = [f"a/deep/{number:02}.jpg" for number in range(7)]
    names += ["b/07.jpg", "b/08.jpg", "b/09.jpg"]
    boxes = [[[0, 0, 40, 60], [10, 10, 50, 60], [20, 0, 30, 60]], [], None, [[0, 0, 0, 9]], [[0, 0, 9, 9]], [[0, 0, 9]],
             [[1, 1, 9, 9]], [[1, 1, None, 9]], [None], [[1, 1, 9, 9]]]  # fmt: skip
    scores = [[0.2, 0.9, 0.5], [], None, [1.0], [1.0], [1.0], [1.0, 0.5], [1.0], [1.0], [None]]
    file = write_list(tmp_path / "list.parquet", path=names, n=list(range(10)), boxes=boxes, scores=scores)
    items = items_of(list_inputs(file, images, ids="n", boxes="boxes", box_scores="scores"))
    ShardWorker(replace(job, detector=None, max_people=2, detection_threshold=0.3)).work(0, items)
    rows, poses = table_rows(folder.path / "images"), table_rows(folder.path / "poses")
    assert [row["people"] for row in rows] == [2, 0, 0, *[None] * 7]
    assert [row["image_id"] for row in rows] == list(range(10))
    reasons = ["x1 < x2", "cannot be read as an image", "x1, y1, x2, y2", "expected 1 box scores", "x1, y1, x2, y2",
               "x1, y1, x2, y2", "scores must be finite"]  # fmt: skip
    assert all(reason in row["error"] for row, reason in zip(rows[3:], reasons, strict=True))
    assert [(row["row"], row["image_id"], round(row["box_score"], 3)) for row in poses] == [(0, 0, 0.9), (0, 0, 0.5)]


def test_images_in_tar_files_equal_those_in_files(job, folder, images, tmp_path) -> None:
    files = sorted(images.rglob("*.jpg"))
    write_tar(tmp_path / "s.tar", {file.name: file.read_bytes() for file in files})
    worker = ShardWorker(job)
    loose = list(worker.predict(items_of(list_inputs(images))))
    packed = list(worker.predict(items_of(list_inputs(tmp_path / "s.tar"))))
    for a, b in zip(loose, packed, strict=True):
        assert (a.row, a.size_hw, a.error is None) == (b.row, b.size_hw, b.error is None)
        assert a.result is None or np.array_equal(a.result.xy, b.result.xy)
    assert "s.tar/04.jpg cannot be read as an image" in packed[4].error
    (tmp_path / "s.tar").unlink()
    lost = next(worker.predict([BulkItem(0, "s.tar/00.jpg", str(tmp_path / "s.tar"), 512, 9)]))
    assert "No such file" in lost.error


def test_columns_are_those_of_predict_behind_the_row(tmp_path: Path) -> None:
    writer = ParquetFolder(tmp_path / "poses.parquet")
    writer.write(PoseRecord("a.jpg", PoseResult.empty(), (1, 1)))
    writer.close()
    assert (
        poses_schema("int64").remove(0)
        == pq.read_schema(tmp_path / "poses.parquet" / "part-00000.parquet").remove_metadata()
    )


def work_elsewhere(job, images, before: str, work: str) -> subprocess.CompletedProcess[str]:
    """In a process of its own: some lines, then a worker, its items, and what to do with them."""
    code = f"""
import os, resource, signal, sys
{before}
from distilpose.bulk.inputs import items_of, list_inputs
from distilpose.bulk.options import BulkOptions
from distilpose.bulk.worker import ShardWorker
options = BulkOptions(*sys.argv[1:3], model=sys.argv[3], detector="whole-image")
worker, items = ShardWorker(options), items_of(list_inputs(sys.argv[1]))
{work}
"""
    command = [sys.executable, "-c", code, str(images), str(job.out), str(job.model)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_a_full_disk_is_told_and_leaves_nothing_half(job, images) -> None:
    limit = "resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))\n"
    done = work_elsewhere(job, images, "", limit + "print(worker.work(0, items).disk_error)")
    assert "File too large" in done.stdout, done.stderr
    assert not [file for file in job.out.rglob("*.parquet*") if not file.name.endswith(".attempts")]


def fail_at(monkeypatch, error: Exception, *numbers: int) -> None:
    """Opening these images fails so, as decoding an image or reading from a mount does."""
    read = Image.open

    def fails(path: str, **options: object) -> object:
        if Path(path).stem in {f"{number:02}" for number in numbers}:
            raise error
        return read(path, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Image, "open", fails)


def test_a_fault_of_the_program_is_a_row_and_the_others_are_predicted(job, folder, images, monkeypatch) -> None:
    worker = ShardWorker(job)
    prepare = worker._predictor.prepare
    monkeypatch.setattr(
        worker._predictor, "prepare", lambda image, *boxes: 1 / (len(image) - 66) and prepare(image, *boxes)
    )
    assert worker.work(5, items_of(list_inputs(images))).error is None
    errors = {row["row"]: row["error"] for row in table_rows(folder.path / "images") if row["error"] is not None}
    assert sorted(errors) == [4, 6]
    assert errors[6] == "failed with ZeroDivisionError: division by zero"


def test_a_fault_of_the_program_in_all_images_is_told_with_its_shard(job, folder, images, monkeypatch) -> None:
    worker = ShardWorker(job)
    monkeypatch.setattr(worker._predictor, "prepare", lambda *_: 1 / 0)
    items = [item for item in items_of(list_inputs(images)) if item.row != 4]
    assert "all 11 images failed, the first one so: failed with ZeroDivisionError" in worker.work(5, items).error
    assert not folder.is_finished(5)


@pytest.mark.parametrize("trouble", [OSError(errno.ESTALE, "Stale file handle"), MemoryError()])
def test_trouble_of_storage_or_memory_leaves_the_shard_to_the_next_run(
    trouble, job, folder, images, monkeypatch
) -> None:
    items = items_of(list_inputs(images))
    with monkeypatch.context() as broken:
        fail_at(broken, trouble, 7)
        report = ShardWorker(job).work(0, items)
        assert "07.jpg cannot be read as an image" in str(report.error)
        assert platform.node() in str(report.error)
        assert report.disk_error is None
        assert not folder.is_finished(0)
        assert ShardWorker(replace(job, accept_failures=True)).work(1, items).error is None
    assert [row["row"] for row in table_rows(folder.path / "images") if row["error"] is not None] == [4, 7]
    assert ShardWorker(job).work(0, items).error is None


def test_a_shard_of_missing_images_looks_like_a_missing_mount(job, folder, images) -> None:
    items = [item._replace(file=f"/nowhere/{item.row}.jpg") for item in items_of(list_inputs(images))]
    assert "all 12 images failed, the first one so: /nowhere/0.jpg" in str(ShardWorker(job).work(0, items).error)
    assert folder.finished(1) == set()
    assert ShardWorker(job).work(1, items[: ALIKE - 1]).error is None  # too few to be sure
    assert ShardWorker(replace(job, accept_failures=True)).work(0, items).error is None
    assert folder.summary(0) == (12, 0, 12)


@pytest.mark.slow
def test_an_image_that_kills_its_worker_is_a_row_and_the_others_are_predicted(job, folder, images) -> None:
    poisoned = """
from distilpose.bulk import worker as reading
read = reading.read_image
def poisoned(path):
    if str(path).endswith("06.jpg"):
        os.kill(os.getpid(), signal.SIGKILL)
    return read(path)
reading.read_image = poisoned
while os.fork():  # the next worker
    if os.waitstatus_to_exitcode(os.wait()[1]) == 0:
        sys.exit()
    print("killed", flush=True)
"""
    done = work_elsewhere(job, images, poisoned, "print(worker.work(0, items), flush=True)")
    assert done.stdout.count("killed") == ATTEMPTS + ATTEMPTS_ALONE, done.stderr
    assert "error=None" in done.stdout
    errors = {row["row"]: row["error"] for row in table_rows(folder.path / "images") if row["error"] is not None}
    assert sorted(errors) == [4, 6]
    assert "its worker died of it 2 times" in errors[6]
    assert len(table_rows(folder.path / "poses")) == 10


def test_a_note_tells_of_which_images_workers_died(folder) -> None:
    folder.begin_shard(0)
    folder.begin_shard(0)
    for row in (3, 4):
        folder.note_row(0, row)
    assert folder.begin_shard(0) == (2, {4: 1})
    folder.note_row(0, 4)
    assert folder.begin_shard(0) == (3, {4: 2})
    assert folder.finished(1) == set()
    assert folder.begin_shard(0) == (0, {})  # another run


def test_a_finished_shard_is_not_done_again(job, folder, images) -> None:
    worker, items = ShardWorker(job), items_of(list_inputs(images))
    worker.work(0, items)
    before = (folder.path / "images" / shard_name(0)).stat().st_mtime_ns
    assert worker.work(0, items) == (0, 12, None, None)
    assert (folder.path / "images" / shard_name(0)).stat().st_mtime_ns == before


class Killed(BaseException):
    """As a kill, it is caught nowhere."""


def test_a_worker_killed_between_its_two_files_doubles_nobody(job, folder, images, monkeypatch) -> None:
    worker, items, write = ShardWorker(job), items_of(list_inputs(images)), RunFolder._write

    def killed(self: RunFolder, name: str, *rest: Any) -> None:
        if name == "images":
            raise Killed
        write(self, name, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "_write", killed)
        with pytest.raises(Killed):
            worker.work(0, items)
    assert len(table_rows(folder.path / "poses")) == 11
    assert folder.finished(1) == set()
    assert worker.work(0, items).error is None
    assert [row["row"] for row in table_rows(folder.path / "poses")] == [row for row in range(12) if row != 4]


def test_half_files_of_killed_workers_go(folder) -> None:
    half = folder.path / "poses" / ".0a1b.part.parquet"
    half.touch()
    folder.finished(1)
    assert not half.exists()


def test_a_folder_is_of_one_run(folder, tmp_path) -> None:
    folder.start({"model": "m", "distilpose": "another version"})
    with pytest.raises(InputError, match=r"another run, which differs in list, model .*another folder"):
        folder.start({"model": "n", "list": "x"})
    for broken in ("{", "[" * 100_000, '["distilpose"]'):
        (folder.path / "manifest.json").write_text(broken)
        with pytest.raises(InputError, match=r"manifest.json is broken"):
            folder.start({"model": "m"})
    (folder.path / "manifest.json").unlink()
    with pytest.raises(InputError, match="of something else"):
        folder.start({"model": "m"})
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot be written"):
        RunFolder(tmp_path / "file" / "out").start({"model": "m"})
