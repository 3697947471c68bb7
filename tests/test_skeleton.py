"""The skeleton, against the public COCO definition."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from pycocotools.cocoeval import Params

from distilpose.errors import ConfigError
from distilpose.skeleton import COCO_17, HALPE_26, OPENPOSE_18, Skeleton


def test_oks_constants_are_coco_s() -> None:
    assert np.allclose(COCO_17.oks_sigmas, Params(iouType="keypoints").kpt_oks_sigmas)


def test_names_order_and_limbs_are_those_of_a_coco_file(shared_data) -> None:
    import json

    category = json.loads((shared_data / "coco_val_dev" / "person_keypoints.json").read_text())["categories"][0]
    assert list(COCO_17.keypoint_names) == category["keypoints"]
    assert {frozenset(e) for e in COCO_17.edges} == {frozenset((a - 1, b - 1)) for a, b in category["skeleton"]}


@pytest.mark.parametrize("skeleton", [COCO_17, OPENPOSE_18, HALPE_26], ids=lambda skeleton: skeleton.name)
def test_flip_pairs_join_left_and_right_of_one_joint(skeleton: Skeleton) -> None:
    names = skeleton.keypoint_names
    for left, right in skeleton.flip_pairs:
        assert names[left] == names[right].replace("right", "left") != names[right]
        assert (skeleton.sides[left], skeleton.sides[right]) == ("left", "right")
    assert {name for name, side in zip(names, skeleton.sides, strict=True) if side == "centre"} == {
        name for name in names if not name.startswith(("left", "right"))
    }


@pytest.mark.parametrize("skeleton", [COCO_17, OPENPOSE_18, HALPE_26], ids=lambda skeleton: skeleton.name)
def test_limbs_mirror_onto_limbs_and_halves_make_the_whole(skeleton: Skeleton) -> None:
    limbs = {frozenset(edge) for edge in skeleton.edges}
    flip = skeleton.flip_index
    assert {frozenset((int(flip[a]), int(flip[b]))) for a, b in skeleton.edges} == limbs
    assert sorted(skeleton.upper_body + skeleton.lower_body) == list(range(skeleton.num_keypoints))
    joined = {0}
    for _ in limbs:
        joined |= {index for limb in limbs if limb & joined for index in limb}
    assert joined == set(range(skeleton.num_keypoints))


def test_openpose_and_halpe_order_and_constants_are_the_public_ones() -> None:
    openpose = "Nose Neck RShoulder RElbow RWrist LShoulder LElbow LWrist RHip RKnee RAnkle LHip LKnee LAnkle"
    openpose += " REye LEye REar LEar"
    halpe = "Nose LEye REye LEar REar LShoulder RShoulder LElbow RElbow LWrist RWrist LHip RHip LKnee RKnee LAnkle"
    halpe += " RAnkle Head Neck Hip LBigToe RBigToe LSmallToe RSmallToe LHeel RHeel"
    for skeleton, published in ((OPENPOSE_18, openpose), (HALPE_26, halpe)):
        sides = {"left": "L", "right": "R"}
        short = ["".join(sides.get(w, w.title()) for w in name.split("_")) for name in skeleton.keypoint_names]
        assert short == published.split()
        for name, constant in zip(skeleton.keypoint_names, skeleton.oks_sigmas, strict=True):
            if name in COCO_17.keypoint_names:
                assert constant == COCO_17.oks_sigmas[COCO_17.keypoint_names.index(name)]
    assert HALPE_26.oks_sigmas[17:] == (0.026, 0.026, 0.066, *[0.079] * 6)


def test_sides_and_mirror_of_coco() -> None:
    assert COCO_17.sides[0] == "centre"
    index = COCO_17.flip_index
    assert (index[index] == np.arange(17)).all()
    assert index[0] == 0
    assert index[5] == 6


def test_round_trip() -> None:
    assert Skeleton.from_dict(COCO_17.to_dict()) == COCO_17


@pytest.mark.parametrize(
    "change",
    [
        {"keypoint_names": ("nose",) * 17},
        {"oks_sigmas": (0.1,)},
        {"oks_sigmas": (0.0,) * 17},
        {"flip_pairs": ((1, 2), (2, 3))},
        {"edges": ((0, 17),)},
        {"upper_body": (-1,)},
    ],
)
def test_contradictions(change) -> None:
    with pytest.raises(ConfigError):
        replace(COCO_17, **change)


def test_broken_description() -> None:
    with pytest.raises(ConfigError, match="all fields"):
        Skeleton.from_dict({"name": "x"})
