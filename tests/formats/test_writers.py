"""Result files are whole at any time: while they grow, on a full disk, after a kill."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from distilpose.formats import parquet
from distilpose.formats.coco import coco_results, json_lines
from distilpose.formats.parquet import ParquetFolder
from distilpose.formats.record import PoseRecord
from distilpose.inference.result import PoseResult


def people(count: int, seed: int = 0, tracks: bool = True) -> PoseResult:
    rng = np.random.default_rng(seed)
    return PoseResult(
        xy=rng.uniform(0, 100, (count, 17, 2)),
        box=np.tile([0.0, 0, 50, 90], (count, 1)),
        box_score=rng.uniform(0, 1, count),
        pose_score=rng.uniform(0, 1, count),
        raw_score=rng.uniform(0, 1, (count, 17)),
        sigma=rng.uniform(0, 5, (count, 17, 2)),
        track_id=np.arange(count) + 1 if tracks else None,
    )


def frame(number: int, count: int = 2) -> PoseRecord:
    return PoseRecord("video.mp4", people(count, number), (90, 100), frame=number, time=number / 10)


def test_json_list_is_valid_after_every_frame(tmp_path: Path) -> None:
    writer = coco_results(tmp_path / "predictions.json")
    part = tmp_path / ".predictions.json.part"
    assert json.loads(part.read_text()) == []
    rows = 0
    for number, count in enumerate((2, 0, 1, 3)):
        writer.write(frame(number, count))
        rows += count
        assert len(json.loads(part.read_text())) == rows
    writer.close()
    writer.close()
    assert [path.name for path in tmp_path.iterdir()] == ["predictions.json"]
    first = json.loads((tmp_path / "predictions.json").read_text())[0]
    assert first["image"] == "video.mp4"
    assert (first["frame"], first["time"], first["track_id"], first["image_id"]) == (0, 0.0, 1, None)
    text = (tmp_path / "predictions.json").read_text().splitlines()
    assert len(text) == rows + 2  # one person a line


def test_an_image_has_neither_frame_nor_track(tmp_path: Path) -> None:
    writer = coco_results(tmp_path / "p.json")
    writer.write(PoseRecord("a.jpg", people(1, tracks=False), (90, 100), image_id=7))
    writer.close()
    (row,) = json.loads((tmp_path / "p.json").read_text())
    assert row["image_id"] == 7
    assert not row.keys() & {"frame", "time", "track_id"}


def test_json_lines_have_every_frame(tmp_path: Path) -> None:
    writer = json_lines(tmp_path / "poses.jsonl")
    for number, count in enumerate((2, 0, 1)):
        writer.write(frame(number, count))
    writer.close()
    lines = [json.loads(line) for line in (tmp_path / "poses.jsonl").read_text().splitlines()]
    assert [(line["frame"], len(line["people"])) for line in lines] == [(0, 2), (1, 0), (2, 1)]
    assert lines[0]["size_hw"] == [90, 100]
    assert lines[0]["people"][1]["track_id"] == 2
    assert np.array(lines[0]["people"][0]["keypoints"]).shape == (51,)


def test_parquet_is_read_by_pandas_in_parts(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(parquet, "PARQUET_ROWS", 5)
    folder = tmp_path / "poses.parquet"
    writer = ParquetFolder(folder)
    for number in range(5):
        writer.write(frame(number))
    assert len(pd.read_parquet(folder)) == 6  # three frames are enough for a part
    writer.close()
    table = pd.read_parquet(folder)
    assert list(table.frame) == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    np.testing.assert_allclose(
        np.stack(table.x), np.concatenate([people(2, n).xy[..., 0] for n in range(5)]), rtol=1e-6
    )
    ParquetFolder(folder).close()  # a new run with nobody in it
    assert len(pd.read_parquet(folder)) == 0


def test_a_full_disk_keeps_every_file_whole(tmp_path: Path) -> None:
    """In a process of its own, whose files may not grow further than a limit."""
    code = f"""
import resource, sys
from pathlib import Path
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_writers import frame
from distilpose.formats.coco import coco_results, json_lines
resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000))
for kind, name in ((coco_results, "a.json"), (json_lines, "b.jsonl")):
    writer = kind(Path({str(tmp_path)!r}) / name)
    done = 0
    try:
        for number in range(1000):
            writer.write(frame(number))
            done += 1
    except OSError:
        print(done)
    writer.close()
"""
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert len(json.loads((tmp_path / "a.json").read_text())) == 2 * int(told[0]) > 0
    lines = (tmp_path / "b.jsonl").read_text().splitlines()
    assert len([json.loads(line) for line in lines]) == int(told[1]) > 0


def test_a_disk_that_is_full_from_the_beginning_is_left_empty(tmp_path: Path) -> None:
    code = f"""
import resource
from pathlib import Path
from distilpose.files import OutputLock
from distilpose.formats.coco import coco_results
resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
with OutputLock({str(tmp_path)!r}, "a test"):
    try:
        coco_results(Path({str(tmp_path)!r}) / "a.json")
    except OSError:
        print("full")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, list(tmp_path.iterdir())) == ("full\n", [])
