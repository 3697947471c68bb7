"""Teacher outputs on disk: asked once, read ever after."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from distilpose.data.coco import load_person_samples
from distilpose.data.dataset import Batch
from distilpose.errors import ConfigError
from distilpose.models.outputs import HeatmapOutput
from distilpose.training.config import DatasetConfig
from distilpose.training.teacher_cache import TeacherCache, hash_people
from distilpose.training.train import train

CONTENT = {"teacher": "abc"}


def batch(indices: list[int], variants: list[int]) -> Batch:
    """Images that hold ten times their sample's index plus their variant."""
    index, variant = torch.tensor(indices), torch.tensor(variants)
    images = (10.0 * index + variant)[:, None, None, None].expand(-1, 3, 4, 4)
    nothing = torch.zeros(len(indices), 2)
    return Batch(images, nothing[..., None].expand(-1, 2, 2), nothing, nothing > 0, index, variant)


class Teacher:
    """Counts what it is shown; its outputs name the crop."""

    def __init__(self, with_tokens: bool = True) -> None:
        self.seen = 0
        self.with_tokens = with_tokens

    def __call__(self, batch: Batch) -> HeatmapOutput[Tensor]:
        images = batch.images
        self.seen += len(images)
        value = images[:, 0, 0, 0]
        tokens = value[:, None, None].expand(-1, 2, 5) if self.with_tokens else None
        return HeatmapOutput(value[:, None, None, None].expand(-1, 2, 3, 3) / 100, tokens, tokens)


def test_each_crop_is_shown_once_and_read_back(tmp_path: Path) -> None:
    teacher, store = Teacher(), TeacherCache(tmp_path, CONTENT, num_samples=4, variants=2)
    store.ask(batch([0, 3], [0, 1]), teacher)
    output = store.ask(batch([3, 3, 2], [1, 0, 1]), teacher)
    assert teacher.seen == 4
    assert store._known.sum() == 4
    assert output.heatmaps[:, 1, 2, 2].tolist() == pytest.approx([0.31, 0.30, 0.21], rel=1e-3)
    assert output.keypoint_tokens.dtype == torch.float32
    assert output.keypoint_tokens[:, 0, 0].tolist() == [31, 30, 21]


def test_another_run_finds_the_outputs(tmp_path: Path) -> None:
    TeacherCache(tmp_path, CONTENT, 4, 2).ask(batch([1], [1]), Teacher())
    teacher = Teacher()
    output = TeacherCache(tmp_path, CONTENT, 4, 2).ask(batch([1], [1]), teacher)
    assert teacher.seen == 0
    assert output.visual_tokens[0, 0, 0] == 11


def test_a_teacher_without_tokens(tmp_path: Path) -> None:
    output = TeacherCache(tmp_path, CONTENT, 4, 1).ask(batch([1], [0]), Teacher(with_tokens=False))
    assert output.keypoint_tokens is None
    assert output.visual_tokens is None


def test_a_teacher_in_bfloat16(tmp_path: Path) -> None:
    def half(batch: Batch) -> HeatmapOutput[Tensor]:
        return HeatmapOutput(*(value.bfloat16() for value in Teacher()(batch)))

    output = TeacherCache(tmp_path, CONTENT, 4, 1).ask(batch([1], [0]), half)
    assert output.keypoint_tokens[0, 0, 0] == 10


def test_another_teacher_is_refused(tmp_path: Path) -> None:
    TeacherCache(tmp_path, CONTENT, 4, 2)
    with pytest.raises(ConfigError, match="teacher changed"):
        TeacherCache(tmp_path, {"teacher": "other"}, 4, 2)
    with pytest.raises(ConfigError, match="variants changed"):
        TeacherCache(tmp_path, CONTENT, 4, 3)


def test_a_disk_without_room_and_a_broken_file_are_told_before(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"teacher_cache needs 1000000000.0 GB in "):
        TeacherCache(tmp_path / "large", CONTENT, 10**18, 1)
    TeacherCache(tmp_path, CONTENT, 4, 2)
    next(tmp_path.rglob("content.json")).write_text("")
    with pytest.raises(ConfigError, match=r"content.json: expected .*the file is empty"):
        TeacherCache(tmp_path, CONTENT, 4, 2)


def test_a_run_with_a_full_store_equals_the_run_that_filled_it(
    make_config, trained_teacher: str, tmp_path: Path
) -> None:
    weights = []
    for name in ("first", "second"):
        config = make_config(name, teacher=trained_teacher, teacher_cache=str(tmp_path / "store"))
        config.data.variants = 1
        last = train(config).last
        weights.append(last.read_bytes()[-4000:])
    assert weights[0] == weights[1]
    known = np.load(tmp_path / "store" / "known.npy")
    assert known.all()


def test_a_store_knows_when_the_same_file_holds_other_people(
    make_config, trained_teacher: str, drawn_data: Path, tmp_path: Path
) -> None:
    people = json.loads((drawn_data / "person_keypoints.json").read_text())
    file = tmp_path / "people.json"

    def run(name: str) -> None:
        file.write_text(json.dumps(people))
        config = make_config(name, teacher=trained_teacher, teacher_cache=str(tmp_path / "store"), epochs=1)
        config.data.train = [DatasetConfig(str(file), "images")]
        config.data.variants = 1
        train(config)

    run("first")
    run("same")
    people["annotations"][3]["bbox"][0] += 1
    with pytest.raises(ConfigError, match=r"of other crops \(people changed\)"):
        run("moved")


def test_a_digest_of_people_follows_their_boxes_labels_and_images_below_the_root(drawn_data: Path) -> None:
    people = load_person_samples(drawn_data / "person_keypoints.json", drawn_data / "images").samples
    first = people[0]
    elsewhere = [replace(person, image_path=Path("/other", "images", person.image_path.name)) for person in people]
    plain = hash_people(people, drawn_data)
    assert hash_people(elsewhere, Path("/other")) == plain
    for changed in (
        replace(first, box_xyxy=first.box_xyxy + 1),
        replace(first, xy_img=first.xy_img + 1),
        replace(first, visibility=1 + first.visibility),
        replace(first, annotated=~first.annotated),
        replace(first, annotation_id=-1),
        replace(first, image_path=Path("x.jpg")),
    ):
        assert hash_people([changed, *people[1:]], drawn_data) != plain
    assert hash_people(people[1:], drawn_data) != hash_people(people[:-1], drawn_data)


def test_a_store_needs_a_pool(make_config, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"data\.variants"):
        train(make_config("x", teacher="t.safetensors", teacher_cache=str(tmp_path / "store")))
