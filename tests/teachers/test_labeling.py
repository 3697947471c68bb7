"""Pseudo-labels: a teacher that sees colored discs labels images whose discs are known."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from teacher_parts import Source

from distilpose.cli.main import main as cli
from distilpose.data.coco import load_person_samples
from distilpose.data.dataset import PersonDataset, SampleKey
from distilpose.errors import ConfigError, InputError
from distilpose.files import OutputLock
from distilpose.skeletons import Skeleton
from distilpose.teachers import build
from distilpose.teachers.base import CropSpec, SourceSpec
from distilpose.teachers.stored_heatmaps import HeatmapFiles
from distilpose.training.labeling import LabelOptions, label_people

COLORS = ((250, 10, 10), (10, 250, 10), (10, 10, 250), (250, 250, 10))
NAMES = ("tip", "left_wing", "right_wing", "tail")
POINTS = np.array([(60, 40), (45, 80), (90, 75), (70, 120)])  # of each person, from its corner
CORNERS = ((10, 5), (150, 20))


@pytest.fixture(params=["pairs", "no pairs"])
def disc_teacher(request, monkeypatch) -> list[int]:
    """Sees each color where it is, so that in a mirror it takes left for right; keeps how many crops it saw."""
    pairs = ((1, 2),) if request.param == "pairs" else ()
    skeleton = Skeleton("bird", NAMES, pairs, (), (), (), (0.1,) * 4)
    seen: list[int] = []

    def heatmaps(images: torch.Tensor) -> torch.Tensor:
        seen.append(len(images))
        spec = SourceSpec((128, 96), skeleton).normalization
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (spec.mean, spec.std))
        pixels = (images * std + mean) * 255
        maps = [1 - (pixels - torch.tensor(color).view(3, 1, 1)).abs().amax(1) / 60 for color in COLORS]
        return torch.nn.functional.avg_pool2d(
            torch.stack(maps, 1).clamp(0, 1), 5, stride=4, padding=2
        )  # cell c is at pixel 4 c

    monkeypatch.setattr(build, "load_source", lambda config, **_: Source(heatmaps, SourceSpec((128, 96), skeleton)))
    return seen


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    (folder / "deep").mkdir(parents=True)
    boxes = []
    for number in range(2):
        image = np.full((160, 300, 3), 128, np.uint8)
        for corner in CORNERS:
            for (x, y), color in zip(POINTS + corner + number, COLORS, strict=True):
                cv2.circle(image, (int(x), int(y)), 5, color[::-1], -1)
            boxes.append({"image": f"{number}.png", "bbox": [corner[0] + 20, corner[1] + 10, 100, 130], "score": 0.9})
        cv2.imwrite(str(folder / f"{number}.png"), image)
    (tmp_path / "boxes.json").write_text(json.dumps(boxes))
    return folder


def options(photos: Path, **changes: object) -> LabelOptions:
    place = photos.parent
    values = {"sources": [str(photos)], "teacher": "bird.safetensors", "boxes": str(place / "boxes.json")}
    return LabelOptions(**values | {"out": str(place / "out"), "heatmaps": str(place / "maps")} | changes)


def test_labels_lie_on_the_discs_and_sides_that_the_mirror_contradicts_are_unknown(
    disc_teacher, photos, request
) -> None:
    report = label_people(options(photos))
    assert (report.num_images, report.num_people, report.failures) == (2, 4, ())
    document = json.loads(report.file.read_text())
    trusted = [0, 3] if "[pairs]" in request.node.name else [0, 1, 2, 3]
    assert report.trusted == len(trusted) / 4
    for number, annotation in enumerate(document["annotations"]):
        points = np.reshape(annotation["keypoints"], (4, 3))
        assert np.flatnonzero(points[:, 2] == 2).tolist() == trusted
        expected = POINTS + CORNERS[number % 2] + number // 2
        assert np.abs(points[trusted, :2] - expected[trusted]).max() < 2
        assert not points[points[:, 2] == 0].any()
        assert len(annotation["keypoint_scores"]) == 4
        assert annotation["num_keypoints"] == len(trusted)
    skeleton = Skeleton("bird", NAMES, (), (), (), (), (0.1,) * 4)
    samples = load_person_samples(report.file, report.images, skeleton=skeleton, zero_means_unknown=True).samples
    assert len(samples) == 4
    crops = CropSpec((64, 48), skeleton)
    teacher = HeatmapFiles([photos.parent / "maps"], crops, samples)
    dataset = PersonDataset(samples, (64, 48), skeleton=skeleton)
    batch = dataset.collate([dataset[SampleKey(index, 0, index)] for index in range(4)])
    peak = teacher(batch).heatmaps.flatten(2).argmax(-1)
    xy_norm = torch.stack([peak % 24, peak // 24], dim=-1) / torch.tensor([24, 32])
    off = (xy_norm - batch.xy_norm)[batch.target_weight > 0].abs().max()
    assert off < 0.06  # a cell and a half


def test_heatmaps_of_another_run_are_not_overwritten(disc_teacher, photos) -> None:
    label_people(options(photos))
    before = {path: path.read_bytes() for path in (photos.parent / "maps").iterdir()}
    with pytest.raises(ConfigError, match=r"expected a new folder, got .* holds heatmaps of an earlier run"):
        label_people(options(photos, out=str(photos.parent / "other")))
    assert {path: path.read_bytes() for path in (photos.parent / "maps").iterdir()} == before


def test_an_interrupted_run_goes_on(disc_teacher, photos, monkeypatch) -> None:
    (photos / "0.png").rename(photos / "kept")
    (photos / "0.png").write_text("no image")
    report = label_people(options(photos))
    assert len(report.failures) == 1
    assert "0.png" in report.failures[0]
    assert (report.num_images, report.num_people) == (1, 2)
    part = photos.parent / "out" / "labels.part.jsonl"
    with OutputLock(part.parent, "another"), pytest.raises(InputError, match="in use by another"):
        label_people(options(photos))
    labeled = part.read_text()
    part.write_text(f"{labeled}damaged\n")
    with pytest.raises(ConfigError, match="is damaged"):
        label_people(options(photos))
    part.write_text(labeled + '{"image": {"id"')  # cut off in the middle of a line
    (photos / "kept").replace(photos / "0.png")
    with pytest.raises(ConfigError, match="labels of a run with other options"):
        label_people(options(photos, min_score=0.5))
    seen = len(disc_teacher)
    report = label_people(options(photos))
    assert len(disc_teacher) - seen == 1 + 2  # the try-out of the teacher, one image and its mirror image
    again = {"out": str(photos.parent / "again"), "heatmaps": str(photos.parent / "other maps")}
    whole = label_people(options(photos, **again))
    assert json.loads(report.file.read_text()) == json.loads(whole.file.read_text())
    assert not part.exists()


def test_labels_of_an_interrupted_run_stay_with_their_images_when_the_list_changes(disc_teacher, photos) -> None:
    broken, maps = photos / "0.png", photos.parent / "maps"
    shutil.copy(broken, photos / "2.png")
    broken.write_text("no image")
    changed = {"boxes": None, "detector": "whole-image"}
    assert label_people(options(photos, **changed)).num_images == 2  # numbers 2 and 3 of the list
    before = {path.name: path.read_bytes() for path in maps.glob("*.npy")}
    broken.unlink()
    shutil.copy(photos / "2.png", photos / "3.png")
    seen = len(disc_teacher)
    report = label_people(options(photos, **changed))
    assert len(disc_teacher) - seen == 1 + 2  # the try-out of the teacher, the new image and its mirror image
    document = json.loads(report.file.read_text())
    assert [image["file_name"] for image in document["images"]] == ["1.png", "2.png", "3.png"]
    ids = [image["id"] for image in document["images"]]
    assert ids[:2] == [2, 3]
    assert len({*ids}) == 3
    assert [annotation["image_id"] for annotation in document["annotations"]] == ids
    same, again = (annotation["keypoints"] for annotation in document["annotations"][1:])
    assert same == again
    assert {name: (maps / name).read_bytes() for name in before} == before


def test_an_interrupted_run_does_not_go_on_with_another_teacher_or_other_boxes(
    disc_teacher, photos, monkeypatch
) -> None:
    (photos / "0.png").write_text("no image")
    label_people(options(photos))
    part = photos.parent / "out" / "labels.part.jsonl"
    boxes = json.loads((photos.parent / "boxes.json").read_text())
    boxes[-1]["bbox"][0] += 5
    (photos.parent / "boxes.json").write_text(json.dumps(boxes))
    (annotation,) = json.loads(label_people(options(photos)).file.read_text())["annotations"][1:]
    assert annotation["bbox"] == boxes[-1]["bbox"]
    load = build.load_source

    def retrained(*args, **kwargs):
        source = load(*args, **kwargs)
        source.spec = replace(source.spec, description={"weights": "others"})
        return source

    monkeypatch.setattr(build, "load_source", retrained)
    with pytest.raises(ConfigError, match="labels of a run with another teacher"):
        label_people(options(photos))
    first, rest = part.read_text().split("\n", 1)
    earlier = {"options": json.loads(first)["options"]}  # which noted no teacher
    part.write_text(f"{json.dumps(earlier)}\n{rest}")
    label_people(options(photos))


def test_people_of_an_annotation_file_are_labeled_anew(disc_teacher, photos) -> None:
    images = [{"id": 7, "file_name": "0.png", "height": 160, "width": 300}]
    box = [30, 15, 100, 130]
    people = [{"id": 70, "image_id": 7, "category_id": 1, "bbox": box}]
    file = photos.parent / "people.json"
    file.write_text(json.dumps({"images": images, "annotations": people}))
    report = label_people(options(photos, sources=[str(file)], images=str(photos), boxes=None))
    (annotation,) = json.loads(report.file.read_text())["annotations"]
    assert (annotation["id"], annotation["image_id"], annotation["bbox"]) == (70, 7, box)
    assert annotation["keypoints"][:3] == pytest.approx([70, 45, 2], abs=2)
    images += [{**images[0], "id": 8}, {**images[0], "id": 9, "file_name": "missing.png"}]  # two of one name
    people += [{**people[0], "id": 80, "image_id": 8}, {**people[0], "id": 90, "image_id": 9}]
    file.write_text(json.dumps({"images": images, "annotations": people}))
    again = options(photos, sources=[str(file)], images=str(photos), boxes=None, heatmaps=None)
    assert label_people(again).num_images == 2
    part = photos.parent / "out" / "labels.part.jsonl"
    before = part.read_text()
    assert label_people(again).num_images == 2
    assert part.read_text() == before


def test_the_command(disc_teacher, photos, capsys) -> None:
    place = photos.parent
    command = ["label", str(photos), "--teacher", "bird.pth", "--boxes", str(place / "boxes.json"), "--out", str(place)]
    assert cli(command) == 0
    told = capsys.readouterr()
    assert "2 images, 4 people" in told.out
    assert "few keypoints are trusted" not in told.err
    assert cli([*command[:-1], str(place / "strict"), "--min-score", "1"]) == 0
    assert "peaks may be lower than --min-score 1;" in capsys.readouterr().err
    assert cli(["label", str(photos)]) == 1
    assert "pass --teacher FILE" in capsys.readouterr().err
    assert cli(["label", "people.json", "--teacher", "bird.pth"]) == 1
    assert "pass the folder of its images as --images" in capsys.readouterr().err
