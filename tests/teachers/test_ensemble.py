"""Teachers made of teachers, and heatmaps on disk."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from teacher_parts import K, Source, batch_of

from distilpose.data.augment import AugmentOptions
from distilpose.data.coco import PersonSample, load_person_samples
from distilpose.data.dataset import Batch, PersonDataset, SampleKey
from distilpose.errors import ConfigError, InputError
from distilpose.geometry import CropTransform
from distilpose.losses import render_gaussian_heatmaps
from distilpose.skeletons import COCO_17, Skeleton
from distilpose.teachers.adapter import Ensemble, FlipAverage, SourceTeacher
from distilpose.teachers.base import CropSpec, SourceSpec
from distilpose.teachers.build import open_teacher
from distilpose.teachers.stored_heatmaps import HeatmapFiles, read_manifest

DOCS = Path(__file__).parents[2] / "docs" / "teachers.md"
CROPS = CropSpec((64, 48), COCO_17)


def constant(value: float, names: tuple[str, ...], size_hw: tuple[int, int] = (16, 12)) -> SourceTeacher:
    """The same number everywhere, for the named keypoints."""
    skeleton = Skeleton("some", names, (), (), (), (), (1.0,) * len(names))
    source = Source(
        lambda images: torch.full((len(images), len(names), *size_hw), value), SourceSpec((64, 48), skeleton)
    )
    return SourceTeacher(source, CROPS)


def test_an_ensemble_averages_over_those_who_know() -> None:
    names = COCO_17.keypoint_names
    ensemble = Ensemble([constant(1.0, names[:10]), constant(4.0, names[5:15], (32, 24))], [1.0, 2.0])
    heatmaps = ensemble(batch_of(torch.zeros(2, 3, 64, 48))).heatmaps
    assert heatmaps.shape == (2, K, 16, 12)
    expected = torch.tensor([1.0] * 5 + [3.0] * 5 + [4.0] * 5 + [0.0] * 2)
    torch.testing.assert_close(heatmaps, expected.view(1, K, 1, 1).expand(2, K, 16, 12))
    assert ensemble.keypoint_mask == (True,) * 15 + (False,) * 2
    assert ensemble.tokens is None


def test_the_mirrored_answer_counts_only_where_it_is_taught() -> None:
    """left_eye is known, right_eye is not: its mirror image says nothing."""
    teacher = FlipAverage(constant(2.0, ("nose", "left_eye")), COCO_17.flip_index)
    heatmaps = teacher(batch_of(torch.zeros(1, 3, 64, 48))).heatmaps
    assert heatmaps[0, :3].amax((-2, -1)).tolist() == pytest.approx([2.0, 2.0, 0.0])
    assert teacher.description["flip"] is True


@pytest.fixture(scope="module")
def people(drawn_data: Path) -> tuple[PersonSample, ...]:
    return load_person_samples(drawn_data / "person_keypoints.json", drawn_data / "images").samples


def plain_crops(people: tuple[PersonSample, ...], size_hw: tuple[int, int]) -> Batch:
    dataset = PersonDataset(people, size_hw)
    return dataset.collate([dataset[SampleKey(index, 0, index)] for index in range(len(people))])


def write_heatmaps(folder: Path, people: tuple[PersonSample, ...], form: str) -> None:
    """Blobs on the labels, in the frame of each person's box, of a box of its own, or counted by the other rule."""
    folder.mkdir()
    manifest: dict[str, object] = {"format": 1, "keypoints": "coco_17", "udp": form == "udp"}
    size_hw = (96, 72)
    boxes = {}
    for person in people:
        crop = CropTransform.from_box(person.box_xyxy, size_hw)
        xy_norm = crop.to_norm(person.xy_img)
        if form == "boxes":
            x1, y1 = person.box_xyxy[:2] - 30
            x2, y2 = person.box_xyxy[2:] + 20
            boxes[str(person.annotation_id)] = [x1, y1, x2, y2]
            xy_norm = (person.xy_img - [x1, y1]) / [x2 - x1, y2 - y1]
        if form == "udp":
            xy_norm = xy_norm * [71 / 72, 95 / 96]
        drawn = render_gaussian_heatmaps(torch.from_numpy(xy_norm)[None], torch.full((1, K, 2), 5.0), size_hw, 0.0)
        np.save(folder / f"{person.annotation_id}.npy", drawn[0].numpy().astype(np.float16))
    (folder / "heatmaps.json").write_text(json.dumps(manifest | ({"boxes": boxes} if boxes else {})))


@pytest.mark.parametrize("form", ["npy", "boxes", "udp"])
def test_heatmaps_on_disk_follow_each_crop(form: str, people, tmp_path: Path) -> None:
    """Turned, scaled and mirrored crops: the peaks lie on the labels of the crop."""
    write_heatmaps(tmp_path / "maps", people, form)
    crops = CropSpec((128, 96), COCO_17)
    teacher = open_teacher({"kind": "heatmaps", "folder": str(tmp_path / "maps")}, crops, people)
    augment = AugmentOptions(half_body_prob=0, rotation_prob=1, scale_std=0.2)
    dataset = PersonDataset(people, (128, 96), augment=augment, seed=3)
    batch = dataset.collate([dataset[SampleKey(index, 0, index)] for index in range(len(people))])
    mirrored = torch.linalg.det(batch.image_to_crop[..., :2]) < 0
    assert mirrored.any()
    assert not mirrored.all()
    heatmaps = teacher(batch).heatmaps
    assert heatmaps.shape == (len(people), K, 96, 72)
    assert not teacher.reads_images
    peak = heatmaps.flatten(2).argmax(-1)
    xy_crop = torch.stack([peak % 72, peak // 72], dim=-1) * (4 / 3)
    inside = (batch.target_weight > 0) & (batch.xy_norm > 0.04).all(-1) & (batch.xy_norm < 0.94).all(-1)
    assert inside.sum() > 100
    off = (xy_crop - batch.xy_norm * torch.tensor([96.0, 128.0])).abs().amax(-1)
    assert off[inside].max() < 1.5
    assert heatmaps.amax((-2, -1))[inside].min() > 0.9


def test_sets_with_the_same_annotation_ids_have_a_folder_each(people, tmp_path: Path) -> None:
    first, second = people[:4], people[4:7]
    second = tuple(replace(person, annotation_id=first[at].annotation_id) for at, person in enumerate(second))
    write_heatmaps(tmp_path / "first", first, "boxes")
    write_heatmaps(tmp_path / "second", second, "boxes")
    both, folders = (*first, *second), [str(tmp_path / "first"), str(tmp_path / "second")]
    dataset = PersonDataset(both, (128, 96))
    batch = dataset.collate([dataset[SampleKey(index, 0, index)] for index in range(len(both))])
    crops = CropSpec((128, 96), COCO_17)
    teacher = open_teacher({"kind": "heatmaps", "folder": folders}, crops, both, set_sizes=(4, 3))
    apart = [
        open_teacher({"kind": "heatmaps", "folder": folders[0]}, crops, first),
        open_teacher({"kind": "heatmaps", "folder": folders[1]}, crops, second),
    ]
    expected = []
    for one, rows, start in zip(apart, (range(4), range(4, 7)), (0, 4), strict=True):
        part = dataset.collate([dataset[SampleKey(index, 0, index)] for index in rows])
        expected.append(one(part._replace(sample_index=part.sample_index - start)).heatmaps)
    assert torch.equal(teacher(batch).heatmaps, torch.cat(expected))
    with pytest.raises(ConfigError, match=r"one for each of the 3 sets of data\.train, got 2"):
        open_teacher({"kind": "heatmaps", "folder": folders}, crops, both, set_sizes=(4, 2, 1))
    with pytest.raises(ConfigError, match="give each training set a folder of its own"):
        open_teacher({"kind": "heatmaps", "folder": folders[0]}, crops, both, set_sizes=(4, 3))
    (tmp_path / "second" / "heatmaps.json").write_text(json.dumps({"format": 1, "keypoints": ["nose"] * K}))
    with pytest.raises(ConfigError, match="the same keypoints in one order"):
        open_teacher({"kind": "heatmaps", "folder": folders}, crops, both, set_sizes=(4, 3))


def test_folders_that_do_not_fit(people, tmp_path: Path) -> None:
    folder = tmp_path / "maps"

    def refused(kind: type[Exception], message: str, people: tuple[PersonSample, ...] = people) -> None:
        with pytest.raises(kind, match=message):
            HeatmapFiles([folder], CROPS, people)

    refused(InputError, r"heatmaps\.json: expected .*format")
    write_heatmaps(folder, people, "npy")
    stranger = replace(people[0], annotation_id=987654)
    refused(InputError, "lacks the heatmaps of 1 of 26 training people, such as annotation 987654", (*people, stranger))
    refused(ConfigError, "stands for two people", (*people, people[0]))
    np.save(folder / f"{people[0].annotation_id}.npy", np.zeros((3, 8, 6), np.float16))
    refused(InputError, r"must be \(17, h, w\) float16 or float32, got float16 \(3, 8, 6\)")
    refused(ConfigError, "belong to training people, got none", ())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"udp": "false"}, "got udp 'false'"),
        ({"udp": 1}, "got udp 1"),
        ({"box": {}}, "got the unknown box"),
        ({"format": 2}, "got format 2"),
        ({"keypoints": [1, 2]}, r"got keypoints \[1, 2\]"),
        ({"boxes": [1]}, r"got boxes \[1\]"),
        ({"boxes": {"1": [5, 5, 5, 9]}}, r"got box \[5, 5, 5, 9\] of 1"),
        ({"boxes": {"1": [0, 0, 5, "9"]}}, r"got box \[0, 0, 5, '9'\] of 1"),
        ({"boxes": {"1": [0, 0, 5, 10**400]}}, "got box"),
        ({"boxes": {"1": [0, 0, 5, float("nan")]}}, "got box"),
    ],
)
def test_manifests_that_say_something_else_are_refused(changes, message: str, tmp_path: Path) -> None:
    (tmp_path / "heatmaps.json").write_text(json.dumps({"format": 1, "keypoints": "coco_17"} | changes))
    with pytest.raises(InputError, match=rf"heatmaps\.json must hold.*{message}"):
        read_manifest(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (np.zeros((17, 0, 12), np.float16), r"got float16 \(17, 0, 12\)"),
        (np.zeros((17, 8, 6), np.float64), "got float64"),
        (b"", "cannot be read"),
        (b"PK\x03\x04 an archive", "cannot be read"),
        (None, "cannot be read"),  # the last byte is missing
    ],
)
@pytest.mark.parametrize("place", [0, -1])
def test_broken_arrays_are_found_before_training(content, message: str, place: int, people, tmp_path: Path) -> None:
    write_heatmaps(tmp_path / "maps", people, "npy")
    name = people[place].annotation_id
    file = tmp_path / "maps" / f"{name}.npy"
    if content is None or isinstance(content, bytes):
        file.write_bytes(file.read_bytes()[:-1] if content is None else content)
    else:
        np.save(file, content)
    with pytest.raises(InputError, match=rf"{name}\.npy: the heatmaps of annotation {name} .*{message}"):
        HeatmapFiles([tmp_path / "maps"], CROPS, people)


@pytest.mark.parametrize("number", [np.nan, np.inf])
def test_heatmaps_that_are_not_finite_are_refused(number: float, people, tmp_path: Path) -> None:
    (tmp_path / "heatmaps.json").write_text('{"format": 1, "keypoints": "coco_17"}')
    for person in people:
        np.save(tmp_path / f"{person.annotation_id}.npy", np.full((K, 8, 6), number, np.float16))
    teacher = HeatmapFiles([tmp_path], CROPS, people)
    with pytest.raises(InputError, match=rf"annotation {people[0].annotation_id} must be finite"):
        teacher(plain_crops(people, (64, 48)))


@pytest.mark.parametrize("crop_hw", [(256, 192), (64, 48)])
def test_heatmaps_on_disk_keep_their_cells(crop_hw: tuple[int, int], people, tmp_path: Path) -> None:
    """A plain crop is answered with the very array, whatever the student's size."""
    write_heatmaps(tmp_path / "maps", people, "npy")
    heatmaps = HeatmapFiles([tmp_path / "maps"], CropSpec(crop_hw, COCO_17), people)(plain_crops(people, crop_hw))
    written = [np.load(tmp_path / "maps" / f"{person.annotation_id}.npy") for person in people]
    # The batch's transforms are float32: a thousandth of a cell.
    torch.testing.assert_close(heatmaps.heatmaps, torch.from_numpy(np.stack(written)).float(), atol=1e-3, rtol=0)


def test_crops_of_another_aspect_have_cells_of_about_the_files_size(people, tmp_path: Path) -> None:
    write_heatmaps(tmp_path / "maps", people, "npy")
    heatmaps = HeatmapFiles([tmp_path / "maps"], CropSpec((128, 64), COCO_17), people)(plain_crops(people, (128, 64)))
    assert heatmaps.heatmaps.shape == (len(people), K, 96, 48)


def test_of_a_pair_both_sides_are_taught_or_none(people, tmp_path: Path, caplog) -> None:
    """In a mirrored crop the left hip's heatmap would be the right hip's, which is not known."""
    write_heatmaps(tmp_path / "maps", people, "npy")
    teacher = HeatmapFiles([tmp_path / "maps"], CROPS, people, {"right_hip": ""})
    hips = [COCO_17.keypoint_names.index(name) for name in ("left_hip", "right_hip")]
    assert [at for at, keypoint_mask in enumerate(teacher.keypoint_mask) if not keypoint_mask] == hips
    assert "does not know right_hip" in caplog.text
    assert "knows left_hip, but not the other side" in caplog.text
    heatmaps = teacher(plain_crops(people, (64, 48))).heatmaps
    assert heatmaps[:, hips].abs().max() == 0
    assert heatmaps.sum((0, 2, 3)).count_nonzero() == K - 2
    nothing = {name: "" for name in COCO_17.keypoint_names if name != "left_hip"}
    with pytest.raises(ConfigError, match="knows only one side of left_hip"):
        HeatmapFiles([tmp_path / "maps"], CROPS, people, nothing)


def test_the_example_of_the_docs(people, drawn_data: Path, tmp_path: Path, monkeypatch) -> None:
    """It cuts the crops that the student sees: a "network" that hands pixels through is heard in the same place."""
    section = DOCS.read_text(encoding="utf-8").split("## Heatmaps on disk\n")[1].split("\n## ")[0]
    (code,) = re.findall(r"```python\n(.*?)```", section, flags=re.DOTALL)
    monkeypatch.chdir(tmp_path)
    Path("person_keypoints_train2017.json").symlink_to(drawn_data / "person_keypoints.json")
    Path("train2017").symlink_to(drawn_data / "images")
    exec(compile(code, DOCS, "exec"), {"network": lambda crop: np.stack([crop[::4, ::4, 0] / 255] * K)})  # noqa: S102
    teacher = open_teacher({"kind": "heatmaps", "folder": "heatmaps"}, CropSpec((256, 192), COCO_17), people)
    dataset = PersonDataset(people, (256, 192))
    red = np.stack([dataset[SampleKey(at, 0, at)].crop[::4, ::4, 0] / 255 for at in range(len(people))])
    heard = teacher(plain_crops(people, (256, 192))).heatmaps[:, 0]
    torch.testing.assert_close(heard, torch.from_numpy(red).float(), atol=2e-3, rtol=0)


def test_heatmaps_on_disk_are_not_mirrored(people, tmp_path: Path) -> None:
    write_heatmaps(tmp_path / "maps", people, "npy")
    values = {"kind": "heatmaps", "folder": str(tmp_path / "maps")}
    with pytest.raises(ConfigError, match="leave the flip out"):
        open_teacher(values, CROPS, people, flip=True)


def test_a_folder_without_a_manifest_says_what_belongs_there(tmp_path) -> None:
    with pytest.raises(InputError) as error:
        read_manifest(tmp_path)
    assert str(error.value).count("{") == str(error.value).count("}") == 2
