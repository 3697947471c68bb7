"""Every format, opened again by pycocotools, pandas, or a parser written from its public description."""

import csv
import gc
import json
import os
import subprocess
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
import yaml
from pycocotools.coco import COCO

from distilpose.errors import ConfigError, InputError
from distilpose.formats.record import PoseRecord
from distilpose.formats.writers import WRITERS, open_writers, save_result
from distilpose.inference.result import PoseResult
from distilpose.skeletons import COCO_17, HALPE_26

NAMES = COCO_17.keypoint_names
SIZE_HW = (300, 400)


def people(ids: list[int], seed: int, tracks: bool = True, skeleton: Any = COCO_17) -> PoseResult:
    rng, count = np.random.default_rng(seed), skeleton.num_keypoints
    return PoseResult(
        xy=rng.uniform(20, 280, (len(ids), count, 2)),
        box=np.tile([10.0, 5, 390, 290], (len(ids), 1)),
        box_score=rng.uniform(0, 1, len(ids)),
        pose_score=rng.uniform(0, 1, len(ids)),
        raw_score=rng.uniform(0, 1.2, (len(ids), count)),
        sigma=rng.uniform(0, 5, (len(ids), count, 2)),
        track_id=np.array(ids) if tracks else None,
        skeleton=skeleton,
    )


IN_SIGHT = [[1, 2], [2], [], [1, 2, 7]]
VIDEO = [PoseRecord("a/dance.mp4", people(ids, n), SIZE_HW, None, n, n / 25) for n, ids in enumerate(IN_SIGHT)]
IMAGES = [
    PoseRecord("a/x.jpg", people([0, 1], 10, tracks=False), SIZE_HW, 7),
    PoseRecord("b/x.jpg", people([], 11, tracks=False), SIZE_HW, None),
]


def written(folder: Path, name: str, records: list[PoseRecord]) -> Path:
    for writer in open_writers(folder, [name]):
        for record in records:
            writer.write(record)
        writer.close()
        writer.close()
    assert not list(folder.rglob(".*")), "hidden files are left"
    return folder / WRITERS[name].name


def score(record: PoseRecord) -> np.ndarray:
    assert record.result.score is not None
    return record.result.score


def test_coco_dataset_is_read_by_pycocotools(tmp_path: Path) -> None:
    coco = COCO(str(written(tmp_path, "coco-dataset", [*IMAGES, *VIDEO])))
    assert {image["id"]: image["file_name"] for image in coco.loadImgs(coco.getImgIds())} == {
        7: "a/x.jpg", 1: "b/x.jpg", 2: "dance_000000.jpg", 3: "dance_000001.jpg", 4: "dance_000002.jpg",
        5: "dance_000003.jpg",
    }  # fmt: skip
    category = coco.loadCats(1)[0]
    assert (category["name"], category["keypoints"]) == ("person", list(NAMES))
    assert category["skeleton"][0] == [end + 1 for end in COCO_17.edges[0]]
    for image_id, record in zip((7, 1, 2, 3, 4, 5), [*IMAGES, *VIDEO], strict=True):
        annotations = coco.loadAnns(coco.getAnnIds(imgIds=image_id))
        assert len(annotations) == len(record.result)
        for person, annotation in enumerate(annotations):
            keypoints, sure = np.reshape(annotation["keypoints"], (17, 3)), score(record)[person] >= 0.2
            np.testing.assert_array_equal(keypoints[sure, :2], record.result.xy[person, sure])
            np.testing.assert_array_equal(keypoints[:, 2], np.where(sure, 2, 0))
            assert not keypoints[~sure].any()
            assert (annotation["bbox"], annotation["area"]) == ([10, 5, 380, 285], 380 * 285)
            assert annotation["num_keypoints"] == sure.sum()


def test_long_csv_is_the_table_of_pandas(tmp_path: Path) -> None:
    table = pd.read_csv(written(tmp_path, "csv", [*VIDEO, IMAGES[0]]))
    for record in VIDEO:
        rows = table[(table.source == record.source) & (table.frame == record.frame)]
        expected = record.result.to_pandas()
        assert len(rows) == len(expected)
        if len(rows):
            pd.testing.assert_frame_equal(rows[expected.columns].reset_index(drop=True), expected, check_dtype=False)
    image = table[table.source == "a/x.jpg"]
    assert len(image) == 34
    assert image.track_id.isna().all()
    assert (image.image_id == 7).all()


def test_wide_csv_has_a_row_per_person(tmp_path: Path) -> None:
    table = pd.read_csv(written(tmp_path, "csv-wide", VIDEO))
    assert list(zip(table.frame, table.track_id, strict=True)) == [(0, 1), (0, 2), (1, 2), (3, 1), (3, 2), (3, 7)]
    xy = np.concatenate([record.result.xy for record in VIDEO])
    np.testing.assert_allclose(table[[f"{name}_x" for name in NAMES]], xy[..., 0])
    np.testing.assert_allclose(table["left_wrist_y"], xy[:, NAMES.index("left_wrist"), 1])
    np.testing.assert_allclose(table["nose_score"], np.concatenate([score(record)[:, 0] for record in VIDEO]))


def test_deeplabcut_csv_has_four_header_rows(tmp_path: Path) -> None:
    folder = written(tmp_path, "csv-dlc", [*VIDEO, IMAGES[0]])
    assert sorted(path.name for path in folder.iterdir()) == ["dance.csv", "images.csv"]
    table = pd.read_csv(folder / "dance.csv", header=[0, 1, 2, 3], index_col=0)
    assert table.columns.names == ["scorer", "individuals", "bodyparts", "coords"]
    assert list(table.index) == [0, 1, 2, 3]
    for frame, ids in enumerate(IN_SIGHT):
        for track in (1, 2, 7):
            cells = table.loc[frame, ("distilpose", f"track{track}")].to_numpy().reshape(17, 3)
            if track not in ids:
                assert np.isnan(cells).all()
                continue
            record, row = VIDEO[frame], ids.index(track)
            np.testing.assert_allclose(cells[:, :2], record.result.xy[row], rtol=1e-12)
            np.testing.assert_allclose(cells[:, 2], score(record)[row], rtol=1e-12)


def test_a_video_named_images_has_a_file_of_its_own(tmp_path: Path) -> None:
    records = [record._replace(source="images.mp4") for record in VIDEO]
    folder = written(tmp_path, "csv-dlc", [IMAGES[0], *records])
    assert sorted(path.name for path in folder.iterdir()) == ["images.csv", "images_video.csv"]
    assert len(pd.read_csv(folder / "images.csv", header=[0, 1, 2, 3], index_col=0)) == 1


BODY_25 = [
    "Nose", "Neck", "RShoulder", "RElbow", "RWrist", "LShoulder", "LElbow", "LWrist", "MidHip", "RHip", "RKnee",
    "RAnkle", "LHip", "LKnee", "LAnkle", "REye", "LEye", "REar", "LEar", "LBigToe", "LSmallToe", "LHeel", "RBigToe",
    "RSmallToe", "RHeel",
]  # fmt: skip
COCO_18 = [part for part in BODY_25[:19] if part != "MidHip"]
OURS = {"BigToe": "big_toe", "SmallToe": "small_toe", "Nose": "nose"}


@pytest.mark.parametrize(("name", "order"), [("openpose", BODY_25), ("openpose-coco", COCO_18)])
@pytest.mark.parametrize("skeleton", [COCO_17, HALPE_26])
def test_openpose_json(tmp_path: Path, name: str, order: list[str], skeleton: Any) -> None:
    record = PoseRecord("dance.mp4", people([4], 3, skeleton=skeleton), SIZE_HW, None, 12, 0.5)
    folder = written(tmp_path, name, [record])
    document = json.loads((folder / "dance_000000000012_keypoints.json").read_text())
    (person,) = document["people"]
    assert (document["version"], person["person_id"]) == (1.3, [4])
    ours = skeleton.keypoint_names
    xy, scores = record.result.xy[0], score(record)[0]
    for part, (x, y, confidence) in zip(order, np.reshape(person["pose_keypoints_2d"], (-1, 3)), strict=True):
        if part in ("Neck", "MidHip"):
            middle = "neck" if part == "Neck" else "hip"
            ends = [ours.index(f"{side}_{part.replace('Neck', 'shoulder').replace('MidHip', 'hip')}") for side in SIDES]
            index = [ours.index(middle)] if middle in ours else ends
            expected = [*xy[index].mean(0), scores[index].min()]
        else:
            side = {"R": "right_", "L": "left_"}.get(part[0], "") if part != "Nose" else ""
            named = side + OURS.get(part[len(side) > 0 :], part[len(side) > 0 :].lower())
            expected = [*xy[ours.index(named)], scores[ours.index(named)]] if named in ours else [0, 0, 0]
        np.testing.assert_allclose([x, y, confidence], expected, err_msg=part)
    assert [path.name for path in written(tmp_path, name, IMAGES[:1]).glob("x*")] == ["x_keypoints.json"]


SIDES = ("left", "right")


def test_yolo_labels_and_data_yaml(tmp_path: Path) -> None:
    outside = VIDEO[0].result.xy.copy()
    outside[0, 3] = -5, 50
    record = VIDEO[0]._replace(result=PoseResult(**{**vars(VIDEO[0].result), "xy": outside}))
    folder = written(tmp_path, "yolo", [record, VIDEO[2], *IMAGES])
    labels = {path.name: path.read_text() for path in (folder / "labels").iterdir()}
    assert labels.keys() == {"dance_000000.txt", "dance_000002.txt", "x.txt", "x_2.txt"}
    assert labels["dance_000002.txt"] == ""
    rows = [[float(value) for value in line.split()] for line in labels["dance_000000.txt"].splitlines()]
    for person, (kind, *numbers) in enumerate(rows):
        assert kind == 0
        assert min(numbers) >= 0
        assert max(numbers[:4]) <= 1
        points = np.reshape(numbers[4:], (17, 3))
        sure = score(record)[person] >= 0.2
        sure[3] &= person != 0
        np.testing.assert_array_equal(points[:, 2], np.where(sure, 2, 0))
        np.testing.assert_allclose(points[sure, :2] * [400, 300], outside[person, sure], atol=1e-3)
        # the box, clipped as ours are: x2 = min(W - 1, x + w - 1)
        np.testing.assert_allclose(np.array(numbers[:4]) * [400, 300, 400, 300], [199.5, 147, 379, 284], atol=1e-3)
    data = yaml.safe_load((folder / "data.yaml").read_text())
    assert (data["kpt_shape"], data["names"]) == ([17, 3], {0: "person"})
    swapped = [NAMES[index] for index in data["flip_idx"]]
    turn = {"left": "right", "right": "left"}
    assert swapped == ["_".join(turn.get(word, word) for word in name.split("_")) for name in NAMES]


def test_label_studio_tasks_fit_their_labeling_configuration(tmp_path: Path) -> None:
    file = written(tmp_path, "labelstudio", [*IMAGES, VIDEO[0]])
    tasks = json.loads(file.read_text())
    assert [task["data"]["image"].rpartition("?d=")[2] for task in tasks] == ["a/x.jpg", "b/x.jpg", "dance_000000.jpg"]
    (tmp_path / "odd").mkdir()
    (odd,) = json.loads(
        written(tmp_path / "odd", "labelstudio", [IMAGES[0]._replace(source="a/5% #+.jpg")]).read_text()
    )
    assert odd["data"]["image"] == "/data/local-files/?d=a/5%25%20%23%2B.jpg"
    view = ElementTree.parse(file.with_suffix(".xml")).getroot()  # noqa: S314
    labels = {tag.get("name"): {label.get("value") for label in tag} for tag in view if tag.get("toName")}
    image_tag = view.find("Image")
    assert image_tag is not None
    for task, record in zip(tasks, [*IMAGES, VIDEO[0]], strict=True):
        found = np.full((len(record.result), 17, 2), np.nan)
        for part in task["predictions"][0]["result"]:
            assert part["to_name"] == image_tag.get("name")
            assert set(part["value"][part["type"]]) <= labels[part["from_name"]]
            assert (part["original_width"], part["original_height"]) == (400, 300)
            if part["type"] == "keypointlabels":
                person = int(part["parentID"].removeprefix("person")) - 1
                keypoint = NAMES.index(part["value"]["keypointlabels"][0])
                found[person, keypoint] = part["value"]["x"] * 4, part["value"]["y"] * 3
        expected = np.where(score(record)[..., None] >= 0.2, record.result.xy, np.nan)
        np.testing.assert_allclose(found, expected)


def read_trc(path: Path) -> tuple[dict[str, str], list[str], np.ndarray]:
    """Header, markers and (frames, 2 + 3 markers) numbers, as OpenSim's documentation describes the file."""
    lines = path.read_text().split("\n")
    assert lines[0].split("\t")[:3] == ["PathFileType", "4", "(X/Y/Z)"]
    header = dict(zip(lines[1].split("\t"), lines[2].split("\t"), strict=True))
    markers = lines[3].split("\t")[2::3]
    assert lines[4].split("\t")[2:5] == ["X1", "Y1", "Z1"]
    assert lines[5] == ""
    rows = [[float(cell) if cell else np.nan for cell in line.split("\t")] for line in lines[6:] if line]
    return header, markers, np.array(rows)


def test_trc_is_read_as_opensim_describes_it(tmp_path: Path) -> None:
    folder = written(tmp_path, "trc", [*VIDEO, IMAGES[0]])
    assert {path.name for path in folder.iterdir()} == {
        "dance_track1.trc", "dance_track2.trc", "dance_track7.trc", "x_person1.trc", "x_person2.trc",
    }  # fmt: skip
    header, markers, rows = read_trc(folder / "dance_track1.trc")
    assert markers == list(NAMES)
    assert (int(header["NumFrames"]), int(header["NumMarkers"]), header["Units"]) == (4, 17, "mm")
    assert float(header["DataRate"]) == pytest.approx(25, abs=1e-3)
    np.testing.assert_allclose(rows[:, :2], [[n + 1, n / 25] for n in range(4)], atol=1e-6)
    assert np.isnan(rows[1:3, 2:]).all()  # frames without this person
    for row, person in ((0, VIDEO[0]), (3, VIDEO[3])):
        points = rows[row, 2:].reshape(17, 3)
        sure = score(person)[0] >= 0.2
        np.testing.assert_allclose(points[sure, 0], person.result.xy[0, sure, 0], atol=1e-3)
        np.testing.assert_allclose(points[sure, 1], 300 - person.result.xy[0, sure, 1], atol=1e-3)
        assert np.isnan(points[~sure]).all()


# Every format


READERS: dict[str, Callable[[Path], int]] = {
    "coco": lambda path: len(json.loads(path.read_text())),
    "coco-dataset": lambda path: len(json.loads(path.read_text())["annotations"]),
    "jsonl": lambda path: sum(len(json.loads(line)["people"]) for line in path.read_text().splitlines()),
    "parquet": lambda path: len(pd.read_parquet(path)),
    "csv": lambda path: len(list(csv.DictReader(path.open()))) // 17,
    "csv-wide": lambda path: len(list(csv.DictReader(path.open()))),
    "csv-dlc": lambda path: sum(len(line.split(",")) - line.count(",,") > 2 for line in lines_of(path)[4:]),
    "openpose": lambda path: sum(len(json.loads(file.read_text())["people"]) for file in path.glob("*.json")),
    "openpose-coco": lambda path: sum(len(json.loads(file.read_text())["people"]) for file in path.glob("*.json")),
    "yolo": lambda path: sum(len(file.read_text().splitlines()) for file in (path / "labels").iterdir()),
    "labelstudio": lambda path: len(json.loads(path.read_text())),
    "trc": lambda path: sum(len(read_trc(file)[2]) for file in path.iterdir()),
}


def lines_of(folder: Path) -> list[str]:
    (file,) = [path for path in folder.iterdir() if path.suffix == ".csv"]
    return file.read_text().splitlines()


def frames(count: int) -> Iterator[PoseRecord]:
    """One person a frame."""
    for number in range(count):
        yield PoseRecord("walk.mp4", people([1], number), SIZE_HW, None, number, number / 30)


@pytest.fixture(scope="module")
def of_a_killed_process(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one process left in a folder for each format."""
    folder = tmp_path_factory.mktemp("killed")
    code = f"""
import os, sys
from pathlib import Path
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_other_tools import WRITERS, frames, open_writers
opened = []
for name in WRITERS:
    Path({str(folder)!r}, name).mkdir()
    opened += open_writers(Path({str(folder)!r}, name), [name])
for record in frames(40):
    for writer in opened:
        writer.write(record)
os._exit(9)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 9
    return folder


@pytest.mark.parametrize("name", WRITERS)
def test_a_killed_process_leaves_readable_files(name: str, of_a_killed_process: Path) -> None:
    tmp_path = of_a_killed_process / name
    for part in [*tmp_path.glob(".*.part"), *tmp_path.glob("*/.*.part")]:
        if not part.name.endswith(".entries.part"):
            part.rename(part.with_name(part.name.removeprefix(".").removesuffix(".part")))
        else:
            part.unlink()
    found = READERS[name](tmp_path / WRITERS[name].name) if name != "parquet" else 40  # it may lose PARQUET_ROWS
    assert (40 if name in ("coco", "jsonl") else 32) <= found <= 40  # these two lose nothing at all


@pytest.mark.parametrize("name", [name for name in WRITERS if name != "parquet"])  # which holds PARQUET_ROWS
def test_memory_does_not_grow_with_the_video(name: str, tmp_path: Path) -> None:
    (writer,) = open_writers(tmp_path, [name])
    sizes = []
    gc.collect()
    gc.freeze()  # what other tests left is not looked at again
    tracemalloc.start()
    for record in frames(200):
        writer.write(record)
        if record.frame in (50, 199):
            gc.collect()  # what waits to be collected is not held
            sizes.append(tracemalloc.get_traced_memory()[0])
    tracemalloc.stop()
    gc.unfreeze()
    writer.close()
    assert READERS[name](tmp_path / WRITERS[name].name) == 200
    assert sizes[1] - sizes[0] < 75_000  # 150 frames hold 150 kB of numbers, and ten times that as rows


@pytest.mark.parametrize("name", WRITERS)
def test_nobody_and_nothing(name: str, tmp_path: Path) -> None:
    for writer in open_writers(tmp_path, [name]):
        writer.close()
    path = written(tmp_path, name, [VIDEO[2]])
    assert path.exists()
    assert READERS[name](path) in (0, name == "labelstudio")


def test_a_result_is_saved_by_the_suffix_of_its_file(tmp_path: Path) -> None:
    result = people([0, 1], 5, tracks=False)
    for suffix, name in ((".json", "coco"), (".jsonl", "jsonl"), (".csv", "csv"), (".parquet", "parquet")):
        save_result(result, tmp_path / f"poses{suffix}", source="a.jpg")
        assert READERS[name](tmp_path / f"poses{suffix}") == 2
    save_result(result, tmp_path / "task.json", "labelstudio", source="a.jpg", size_hw=SIZE_HW)
    assert READERS["labelstudio"](tmp_path / "task.json") == 1
    with pytest.raises(ConfigError, match=r"poses.xml: expected a suffix of .json, .*coco-dataset"):
        save_result(result, tmp_path / "poses.xml")
    with pytest.raises(ConfigError, match=r"format must be one of coco, .*, got 'word'"):
        save_result(result, tmp_path / "poses.json", "word")
    with pytest.raises(InputError, match=r"yolo needs the size of the image of 'a.jpg'"):
        save_result(result, tmp_path / "yolo", "yolo", source="a.jpg")


def test_a_planted_link_is_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    os.symlink(victim, tmp_path / ".predictions.json.part")
    written(tmp_path, "coco", VIDEO)
    assert victim.read_text() == "precious"
    assert not (tmp_path / "predictions.json").is_symlink()
