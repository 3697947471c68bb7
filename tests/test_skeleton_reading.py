"""Skeletons from files and categories, names as people spell them, and labels mapped from one set to another."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distilpose.data.coco import load_person_samples, skeleton_of_file
from distilpose.errors import ConfigError, DatasetError
from distilpose.skeleton import (
    COCO_17,
    CROWDPOSE_14,
    DEFAULT_OKS_SIGMA,
    LSP_14,
    MPII_16,
    SKELETONS,
    Skeleton,
    find_skeleton,
    map_keypoints,
    name_key,
)

LAMP = {"name": "lamp", "keypoints": ["base", "elbow", "left_screw", "right_screw"], "skeleton": [[1, 2], [2, 3]]}


@pytest.mark.parametrize("skeleton", SKELETONS.values(), ids=SKELETONS)
def test_what_is_written_is_read_again(skeleton: Skeleton, tmp_path: Path, caplog) -> None:
    file = tmp_path / "skeleton.yaml"
    file.write_text(skeleton.to_yaml())
    with caplog.at_level(logging.WARNING):
        assert find_skeleton("skeleton.yaml", tmp_path) == skeleton
    assert not caplog.records
    assert find_skeleton(skeleton.name) is skeleton


def test_a_list_of_names_is_enough_and_assumptions_are_said_once(tmp_path: Path, caplog) -> None:
    file = tmp_path / "lamp.json"
    file.write_text(json.dumps({"keypoints": LAMP["keypoints"]}))
    with caplog.at_level(logging.WARNING):
        lamp, again = Skeleton.from_yaml(file), Skeleton.from_yaml(file)
    assert lamp == again
    assert lamp.name == "lamp"
    assert lamp.flip_pairs == ((2, 3),)
    assert lamp.edges == lamp.upper_body == lamp.lower_body == ()
    assert lamp.oks_sigmas == (DEFAULT_OKS_SIGMA,) * 4
    (record,) = caplog.records
    for said in ("left_screw - right_screw", "edges: none", "oks_sigmas of base", "upper_body", "data.skeleton"):
        assert said in record.getMessage()


def test_constants_by_number_by_list_and_by_name(tmp_path: Path) -> None:
    file = tmp_path / "x.yaml"
    cases = {"0.05": (0.05, 0.05), "[0.01, 0.02]": (0.01, 0.02), "{tip: 0.03}": (0.025, 0.03)}
    for text, expected in cases.items():
        file.write_text(f"keypoints: [left_eye, tip]\noks_sigmas: {text}\n")
        assert Skeleton.from_yaml(file).oks_sigmas == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("keypoints: nose", "at least keypoints, a list"),
        ("[1, 2", "cannot be read as a skeleton"),
        ("keypoints: [a, b]\nlimbs: []", "unknown limbs: the fields of a skeleton are"),
        ("keypoints: [a, b]\nedges: [[a, c]]", "edges must name keypoints of a, b; got 'c'"),
        ("keypoints: [a, b]\nedges: [a, b]", "edges must be a list of pairs"),
        ("keypoints: [a, b]\nupper_body: a", "upper_body must be a list"),
        ("keypoints: [a, b]\noks_sigmas: [0.1]", "2 numbers"),
        ("keypoints: [a, b]\noks_sigmas: {a: much}", "oks_sigmas must be numbers"),
        ("keypoints: [a, a]", "must be unique"),
        ("keypoints: [a, b]\noks_sigmas: -1", "positive"),
    ],
)
def test_broken_files_are_refused_by_name(text: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "broken.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=message) as caught:
        Skeleton.from_yaml(file)
    assert "broken.yaml" in str(caught.value)


def test_an_unknown_name_tells_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"coco_17.*\.yaml.*got 'coco'"):
        find_skeleton("coco")
    with pytest.raises(ConfigError, match="cannot be read"):
        find_skeleton("nowhere.yaml", tmp_path)


def test_a_category_gives_its_keypoints_and_limbs() -> None:
    lamp = Skeleton.from_coco_category(LAMP)
    assert (lamp.name, lamp.keypoint_names) == ("lamp", tuple(LAMP["keypoints"]))
    assert lamp.edges == ((0, 1), (1, 2))
    given = Skeleton.from_coco_category({**LAMP, "oks_sigmas": 0.1, "flip_pairs": [], "upper_body": ["elbow"]})
    assert (given.oks_sigmas, given.flip_pairs, given.upper_body) == ((0.1,) * 4, (), (1,))


def test_a_category_of_a_built_in_skeleton_gives_it_however_it_is_spelled() -> None:
    for spelled in (str, str.title, lambda name: name.replace("_", " ")):
        names = [spelled(name) for name in COCO_17.keypoint_names]
        assert Skeleton.from_coco_category({"name": "person", "keypoints": names}) is COCO_17


@pytest.mark.parametrize("change", [{"keypoints": "nose"}, {"skeleton": [[0, 1]]}, {"skeleton": [[1, 9]]}])
def test_broken_categories(change: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        Skeleton.from_coco_category({**LAMP, **change})


def test_names_say_the_same_however_they_are_spelled() -> None:
    spelled = ["left_eye", "Left Eye", "leftEye", "LEye", "eye_l", "eye-left", "L.eye", "l_eye"]
    assert len({name_key(name) for name in spelled}) == 1
    assert name_key("head_top") == name_key("top head") == name_key("Head")
    assert name_key("left_eye") != name_key("right_eye")
    assert name_key("upper_neck") != name_key("neck")
    assert name_key("face-1") != name_key("face-11")
    assert name_key("ハンドル") != name_key("腕")


def test_people_are_told_from_things() -> None:
    assert all(skeleton.is_person for skeleton in SKELETONS.values())
    assert not Skeleton.from_coco_category(LAMP).is_person


def test_labels_are_mapped_by_name() -> None:
    mapping = map_keypoints(LSP_14, COCO_17)
    labels = np.array([[100.0 + index, index, 2] for index in range(14)])
    mapped = mapping.apply(labels)
    for name, row, missing in zip(COCO_17.keypoint_names, mapped, mapping.missing, strict=True):
        assert missing == (name not in LSP_14.keypoint_names)
        expected = [0, 0, 0] if missing else labels[LSP_14.keypoint_names.index(name)]
        assert row.tolist() == list(expected)
    assert labels[0].tolist() == [100, 0, 2]


def test_given_pairs_come_before_names_and_can_take_a_keypoint_away() -> None:
    mapping = map_keypoints(CROWDPOSE_14, MPII_16, {"upper_neck": "neck", "right_ankle": ""})
    index = dict(zip(MPII_16.keypoint_names, mapping.index.tolist(), strict=True))
    assert index["upper_neck"] == CROWDPOSE_14.keypoint_names.index("neck")
    assert index["head_top"] == CROWDPOSE_14.keypoint_names.index("head")
    assert index["right_ankle"] == index["thorax"] == -1
    assert index["left_ankle"] == CROWDPOSE_14.keypoint_names.index("left_ankle")


def test_impossible_mappings() -> None:
    lamp = Skeleton.from_coco_category(LAMP)
    with pytest.raises(ConfigError, match="no keypoint of lamp"):
        map_keypoints(lamp, COCO_17)
    with pytest.raises(ConfigError, match=r"turns lsp_14 into coco_17.*got 'tail'"):
        map_keypoints(LSP_14, COCO_17, {"tail": "neck"})
    with pytest.raises(ConfigError, match=r"mapping of nose.*got 'tail'"):
        map_keypoints(LSP_14, COCO_17, {"nose": "tail"})


def people_file(folder: Path, skeleton: Skeleton, **changes: Any) -> Path:
    """One person on a grid in an empty picture."""
    from distilpose.images import write_image

    write_image(folder / "a.png", np.zeros((100, 120, 3), dtype=np.uint8))
    keypoints = [v for k in range(skeleton.num_keypoints) for v in (10 + 5 * k, 20 + 4 * k, 2)]
    person = {"id": 1, "image_id": 1, "category_id": 1, "keypoints": keypoints, **changes}
    file = folder / "people.json"
    file.write_text(
        json.dumps(
            {
                "images": [{"id": 1, "file_name": "a.png", "height": 100, "width": 120}],
                "annotations": [person],
                "categories": [{"id": 1, "name": "person", "keypoints": list(skeleton.keypoint_names)}],
            }
        )
    )
    return file


def test_a_set_with_other_keypoints_is_read_by_name(tmp_path: Path, caplog) -> None:
    file = people_file(tmp_path, LSP_14)
    with pytest.raises(DatasetError, match="name the skeleton they belong to"):
        load_person_samples(file, tmp_path)
    with caplog.at_level(logging.WARNING):
        loaded = load_person_samples(file, tmp_path, mapping=map_keypoints(LSP_14, COCO_17), unannotated=["left_wrist"])
    (sample,) = loaded.samples
    known = {name for name, there in zip(COCO_17.keypoint_names, sample.annotated, strict=True) if there}
    assert known == set(LSP_14.keypoint_names) & set(COCO_17.keypoint_names) - {"left_wrist"}
    assert (sample.visibility > 0).tolist() == sample.annotated.tolist()
    ankle = LSP_14.keypoint_names.index("left_ankle")
    assert sample.xy_img[COCO_17.keypoint_names.index("left_ankle")].tolist() == [10 + 5 * ankle, 20 + 4 * ankle]
    # Without a box: from the keypoints (65 x 52 pixels), a tenth of 65 wider on each side; its area from that.
    assert sample.box_xyxy[:2].tolist() == pytest.approx([3.5, 13.5])
    assert sample.area == pytest.approx(0.53 * (65 + 13) * (52 + 13))
    said = " ".join(record.getMessage() for record in caplog.records)
    assert "1 of 1 annotations have no bbox" in said
    assert "1 of 1 annotations have no area" in said


def test_the_skeleton_of_a_file_is_what_its_category_says(tmp_path: Path) -> None:
    assert skeleton_of_file(people_file(tmp_path, MPII_16)) is MPII_16
    file = tmp_path / "people.json"
    document = json.loads(file.read_text())
    file.write_text(json.dumps({**document, "categories": []}))
    assert skeleton_of_file(file) is None
    assert skeleton_of_file(tmp_path / "missing.json") is None
    two = [*document["categories"], {"id": 2, **LAMP}]
    file.write_text(json.dumps({**document, "categories": two}))
    with pytest.raises(DatasetError, match="different keypoints"):
        skeleton_of_file(file)
