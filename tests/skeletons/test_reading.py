"""Skeletons from files and categories, names as people spell them, and labels mapped from one set to another."""

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distilpose.data.coco import load_person_samples
from distilpose.data.images import write_image
from distilpose.data.labels import skeleton_of_file
from distilpose.errors import ConfigError, DatasetError
from distilpose.skeletons import (
    COCO_17,
    CROWDPOSE_14,
    DEFAULT_OKS_SIGMA,
    HALPE_26,
    LSP_14,
    MPII_16,
    OPENPOSE_18,
    SKELETONS,
    Skeleton,
    find_skeleton,
    map_keypoints,
    name_key,
    skeleton_from_category,
    skeleton_from_file,
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
        lamp, again = skeleton_from_file(file), skeleton_from_file(file)
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
        assert skeleton_from_file(file).oks_sigmas == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("keypoints: nose", "at least keypoints, a list"),
        ("[1, 2", r"cannot be read as YAML [\s\S]*expected a skeleton"),
        ("keypoints: [a, b]\nlimbs: []", "unknown limbs: the fields of a skeleton are"),
        ("keypoints: [a, b]\nedges: [[a, c]]", "edges must name keypoints of a, b; got 'c'"),
        ("keypoints: [a, b]\nedges: [a, b]", "edges must be a list of pairs"),
        ("keypoints: [a, b]\nupper_body: a", "upper_body must be a list"),
        ("keypoints: [a, b]\noks_sigmas: [0.1]", "2 numbers"),
        ("keypoints: [a, b]\noks_sigmas: {a: much}", "oks_sigmas must be numbers"),
        ("keypoints: [a, a]", "must be unique"),
        ("keypoints: [a, b]\noks_sigmas: -1", "positive"),
        ("keypoints: [a, b]\noks_sigmas: .nan", "must be numbers, finite and positive"),
        ("keypoints: [a, b]\noks_sigmas: [.inf, 0.1]", "must be numbers, finite and positive"),
        ("keypoints: [a, b]\noks_sigmas: true", "oks_sigmas must be numbers"),
        ("keypoints: [a, b]\noks_sigmas: 1" + 400 * "0", "oks_sigmas must be numbers"),
        ("keypoints: [{name: a}, b]", "list of names, got {'name': 'a'}"),
        ("keypoints: [a, yes]", "got True: put a name like yes or no in quotes"),
        ("keypoints: [a, '']", "none empty"),
        ("keypoints: [a, b, a]", "keypoints must be unique, got a more than once"),
        ("keypoints: [a, b]\nupper_body: [b, b]", "upper_body may name a keypoint once, got b more than once"),
        ("keypoints: [a, b]\nedges: [[a, a]]", "edges must join two keypoints, got a with itself"),
        ("keypoints: [a, b]\nflip_pairs: [[b, b]]", "flip_pairs must join two keypoints, got b with itself"),
    ],
)
def test_broken_files_are_refused_by_name(text: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "broken.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=message) as caught:
        skeleton_from_file(file)
    assert "broken.yaml" in str(caught.value)


def test_names_may_be_numbers_and_a_flip_pair_begins_with_the_left(tmp_path: Path) -> None:
    file = tmp_path / "x.yaml"
    file.write_text("keypoints: [1, 2, 3]\nedges: [[1, 2]]\nflip_pairs: [[3, 2]]\noks_sigmas: {1: 0.1}\n")
    numbered = skeleton_from_file(file)
    assert (numbered.keypoint_names, numbered.edges, numbered.flip_pairs) == (("1", "2", "3"), ((0, 1),), ((2, 1),))
    file.write_text("keypoints: [right_ear, left_ear]\nflip_pairs: [[right_ear, left_ear]]\n")
    assert skeleton_from_file(file).flip_pairs == ((1, 0),)


def test_nothing_is_said_of_a_skeleton_that_only_labels_need(tmp_path: Path, caplog) -> None:
    (tmp_path / "names.yaml").write_text("keypoints: [a, b]\n")
    with caplog.at_level(logging.WARNING):
        find_skeleton("names.yaml", tmp_path, only_labels=True)
        assert not caplog.records
        find_skeleton("names.yaml", tmp_path)
    assert "--skeleton in evaluate" in caplog.text


def test_an_unknown_name_tells_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"coco_17.*\.yaml.*got 'coco'"):
        find_skeleton("coco")
    with pytest.raises(ConfigError, match="cannot be read"):
        find_skeleton("nowhere.yaml", tmp_path)


def test_a_category_gives_its_keypoints_and_limbs() -> None:
    lamp = skeleton_from_category(LAMP)
    assert (lamp.name, lamp.keypoint_names) == ("lamp", tuple(LAMP["keypoints"]))
    assert lamp.edges == ((0, 1), (1, 2))
    given = skeleton_from_category({**LAMP, "oks_sigmas": 0.1, "flip_pairs": [], "upper_body": ["elbow"]})
    assert (given.oks_sigmas, given.flip_pairs, given.upper_body) == ((0.1,) * 4, (), (1,))


def test_a_category_of_a_built_in_skeleton_gives_it_however_it_is_spelled() -> None:
    for spelled in (str, str.title, lambda name: name.replace("_", " ")):
        names = [spelled(name) for name in COCO_17.keypoint_names]
        assert skeleton_from_category({"name": "person", "keypoints": names}) is COCO_17


def test_a_category_with_known_keypoints_and_more_keeps_the_limbs_and_halves() -> None:
    names = [name.title() for name in COCO_17.keypoint_names]
    given = skeleton_from_category({"name": "person", "keypoints": names, "oks_sigmas": {"Nose": 0.05}})
    assert given.keypoint_names == tuple(names)
    assert (given.edges, given.upper_body, given.flip_pairs) == (COCO_17.edges, COCO_17.upper_body, COCO_17.flip_pairs)
    assert given.oks_sigmas == (0.05, *COCO_17.oks_sigmas[1:])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"keypoints": "nose"}, "a list of names"),
        ({"keypoints": ["a", "a", "b", "c"]}, "category 'lamp': keypoints must be unique, got a more than once"),
    ],
)
def test_broken_categories(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        skeleton_from_category({**LAMP, **change})


@pytest.mark.parametrize(
    ("edges", "kept", "said"),
    [
        ([[1, 2], [1, 9], [2, 2], [1.0, 2.0], [True, 2], "no"], ((0, 1),), "from 1 to 4: 5 of 6 are left out"),
        ([[0, 1], [1, 2]], (), "COCO counts from 1, not from 0: 2 of 2 are left out"),
        (3, (), "0 of 0 are left out"),
    ],
)
def test_broken_edges_are_left_out_with_a_warning(edges: Any, kept: Any, said: str, caplog) -> None:
    assert skeleton_from_category({**LAMP, "skeleton": edges}).edges == kept
    assert said in caplog.text


def test_names_say_the_same_however_they_are_spelled() -> None:
    spelled = ["left_eye", "Left Eye", "leftEye", "LEye", "eye_l", "eye-left", "L.eye", "l_eye"]
    assert len({name_key(name) for name in spelled}) == 1
    joined = ["lwrist", "LWRIST", "wristl", "leftwrist", "left_wrist"]
    assert {name_key(name) for name in joined} == {("left", ("wrist",))}
    assert name_key("lamp") == (None, ("lamp",))
    assert name_key("head_top") == name_key("top head") == name_key("Head")
    assert name_key("left_eye") != name_key("right_eye")
    assert name_key("upper_neck") != name_key("neck")
    assert name_key("face-1") != name_key("face-11")
    assert name_key("ハンドル") != name_key("腕")
    assert name_key("頭1") != name_key("尾1")
    assert name_key("頭_left") == name_key("L頭") == ("left", ("頭",))
    assert name_key("éléphant") == (None, ("éléphant",))  # no letter of it is a side
    assert name_key("rêve") == name_key("RÊVE".lower())


def test_pairs_are_found_in_any_alphabet(tmp_path: Path) -> None:
    file = tmp_path / "x.yaml"
    file.write_text("keypoints: [頭_left, 頭_right, 脚_left, 脚_right]\n", encoding="utf-8")
    assert skeleton_from_file(file).flip_pairs == ((0, 1), (2, 3))


def test_people_are_told_from_things() -> None:
    assert all(skeleton.is_person for skeleton in SKELETONS.values())
    assert not skeleton_from_category(LAMP).is_person
    legs = [f"{side}_{part}" for side in "LR" for part in ("Shoulder", "Elbow", "F_Paw", "Hip", "Knee", "B_Paw")]
    ap_10k = ["L_Eye", "R_Eye", "Nose", "Neck", "Root of tail", *legs]
    assert not skeleton_from_category({"name": "animal", "keypoints": ap_10k}).is_person
    trunk = [f"{side}_{part}" for side in "LR" for part in ("Shoulder", "Hip")]
    assert not skeleton_from_category({"name": "trunk", "keypoints": trunk}).is_person


def test_necks_that_are_one_point_and_those_that_are_not() -> None:
    def neck(source: Skeleton, target: Skeleton, name: str = "neck") -> bool:
        return map_keypoints(source, target).index[target.keypoint_names.index(name)] >= 0

    assert neck(LSP_14, CROWDPOSE_14)
    assert neck(HALPE_26, LSP_14)
    assert neck(OPENPOSE_18, OPENPOSE_18)
    assert not neck(LSP_14, OPENPOSE_18)
    assert not neck(OPENPOSE_18, HALPE_26)
    assert not neck(LSP_14, MPII_16, "upper_neck")
    given = map_keypoints(LSP_14, OPENPOSE_18, {"neck": "neck"})
    assert given.index[OPENPOSE_18.keypoint_names.index("neck")] == LSP_14.keypoint_names.index("neck")
    assert "neck" in map_keypoints(LSP_14, OPENPOSE_18).missing_names


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
    lamp = skeleton_from_category(LAMP)
    with pytest.raises(ConfigError, match="no keypoint of lamp"):
        map_keypoints(lamp, COCO_17)
    with pytest.raises(ConfigError, match=r"turns lsp_14 into coco_17.*got 'tail'"):
        map_keypoints(LSP_14, COCO_17, {"tail": "neck"})
    with pytest.raises(ConfigError, match=r"mapping of nose.*got 'tail'"):
        map_keypoints(LSP_14, COCO_17, {"nose": "tail"})


def people_file(folder: Path, skeleton: Skeleton, **changes: Any) -> Path:
    """One person on a grid in an empty image."""
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
    broken = {"id": 2, **LAMP, "keypoints": "nose"}
    file.write_text(json.dumps({**document, "categories": [broken]}))
    with pytest.raises(ConfigError, match=r"people.json: .*a list of names"):
        skeleton_of_file(file)


def test_categories_that_share_keypoints_alone_are_said(tmp_path: Path, caplog) -> None:
    file = people_file(tmp_path, MPII_16)
    document = json.loads(file.read_text())
    document["categories"] = [LAMP, {**LAMP, "name": "lantern"}, {**LAMP, "name": "torch", "oks_sigmas": 0.1}]
    file.write_text(json.dumps(document))
    with caplog.at_level(logging.WARNING):
        assert skeleton_of_file(file).name == "lamp"
    (said,) = [record.getMessage() for record in caplog.records if "same keypoints" in record.getMessage()]
    assert "lamp and torch" in said
