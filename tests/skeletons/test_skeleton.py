"""The skeleton, against the public COCO definition."""

import json
from dataclasses import replace

import numpy as np
import pytest
from pycocotools.cocoeval import Params

from distilpose.errors import ConfigError
from distilpose.skeletons import (
    COCO_17,
    COCO_WHOLEBODY_133,
    CROWDPOSE_14,
    HALPE_26,
    LSP_14,
    MPII_16,
    OPENPOSE_18,
    SKELETONS,
    Skeleton,
)

BUILT_IN = pytest.mark.parametrize("skeleton", SKELETONS.values(), ids=SKELETONS)


def test_oks_constants_are_coco_s() -> None:
    assert np.allclose(COCO_17.oks_sigmas, Params(iouType="keypoints").kpt_oks_sigmas)


def test_names_order_and_limbs_are_those_of_a_coco_file(shared_data) -> None:
    category = json.loads((shared_data / "coco_val_dev" / "person_keypoints.json").read_text())["categories"][0]
    assert list(COCO_17.keypoint_names) == category["keypoints"]
    assert {frozenset(e) for e in COCO_17.edges} == {frozenset((a - 1, b - 1)) for a, b in category["skeleton"]}


@BUILT_IN
def test_flip_pairs_join_left_and_right_of_one_joint(skeleton: Skeleton) -> None:
    names = skeleton.keypoint_names
    for left, right in skeleton.flip_pairs:
        assert (skeleton.sides[left], skeleton.sides[right]) == ("left", "right")
        assert (skeleton.flip_index[left], skeleton.flip_index[right]) == (right, left)
        if not names[left].startswith("face"):
            assert names[left] == names[right].replace("right", "left") != names[right]
    center = {name for name, side in zip(names, skeleton.sides, strict=True) if side == "center"}
    middle_of_face = {f"face-{point}" for point in (8, 27, 28, 29, 30, 33, 51, 57, 62, 66)}
    assert center == {name for name in names if not name.startswith(("left", "right", "face"))} | (
        middle_of_face & set(names)
    )


@BUILT_IN
def test_limbs_mirror_onto_limbs_and_halves_make_the_whole(skeleton: Skeleton) -> None:
    limbs = {frozenset(edge) for edge in skeleton.edges}
    flip = skeleton.flip_index
    assert {frozenset((int(flip[a]), int(flip[b]))) for a, b in skeleton.edges} == limbs
    assert sorted(skeleton.upper_body + skeleton.lower_body) == list(range(skeleton.num_keypoints))
    if skeleton is COCO_WHOLEBODY_133:  # its face hangs in the air
        return
    joined = {0}
    for _ in limbs:
        joined |= {index for limb in limbs if limb & joined for index in limb}
    assert joined == set(range(skeleton.num_keypoints))


# Ids 0 to 15 of MPII's annotation ("r ankle" and so on), and the orders in the read-me files of LSP and CrowdPose.
PUBLISHED = {
    "mpii_16": "r ankle, r knee, r hip, l hip, l knee, l ankle, pelvis, thorax, upper neck, head top, r wrist, "
    "r elbow, r shoulder, l shoulder, l elbow, l wrist",
    "lsp_14": "Right ankle, Right knee, Right hip, Left hip, Left knee, Left ankle, Right wrist, Right elbow, "
    "Right shoulder, Left shoulder, Left elbow, Left wrist, Neck, Head top",
    "crowdpose_14": "left_shoulder, right_shoulder, left_elbow, right_elbow, left_wrist, right_wrist, left_hip, "
    "right_hip, left_knee, right_knee, left_ankle, right_ankle, head, neck",
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_order_is_the_published_one(name: str) -> None:
    assert SKELETONS[name].has_keypoints(PUBLISHED[name].split(", "))
    assert not SKELETONS[name].has_keypoints(PUBLISHED[name].split(", ")[::-1])


@pytest.mark.parametrize("skeleton", [MPII_16, LSP_14, CROWDPOSE_14], ids=lambda skeleton: skeleton.name)
def test_joints_that_coco_has_take_its_constants(skeleton: Skeleton) -> None:
    coco = dict(zip(COCO_17.keypoint_names, COCO_17.oks_sigmas, strict=True))
    for name, constant in zip(skeleton.keypoint_names, skeleton.oks_sigmas, strict=True):
        assert constant == coco.get(name, 0.107 if name == "pelvis" else 0.079)


def test_whole_body_has_its_parts_where_they_belong() -> None:
    names, sigmas = COCO_WHOLEBODY_133.keypoint_names, COCO_WHOLEBODY_133.oks_sigmas
    assert len(names) == 133
    assert names[:17] == COCO_17.keypoint_names
    assert names[17:23:3] == ("left_big_toe", "right_big_toe")
    assert (names[23], names[90], names[91], names[112]) == ("face-0", "face-67", "left_hand_root", "right_hand_root")
    assert sigmas[:17] == COCO_17.oks_sigmas
    assert sigmas[91:112] == sigmas[112:]
    published = {17: 0.068, 23 + 8: 0.020, 23 + 47: 0.034, 90: 0.008, 91 + 4: 0.047, 132: 0.031}  # its evaluation code
    assert {index: sigmas[index] for index in published} == published


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
    # cocoeval of Halpe: np.array([..., .8, .8, .8, .89, .89, .89, .89, .89, .89]) / 10.0
    assert HALPE_26.oks_sigmas[17:] == (0.08, 0.08, 0.08, 0.089, 0.089, 0.089, 0.089, 0.089, 0.089)


@pytest.mark.parametrize(
    "change",
    [
        {"keypoint_names": ("nose",) * 17},
        {"oks_sigmas": (0.1,)},
        {"oks_sigmas": (0.0,) * 17},
        {"oks_sigmas": (float("nan"),) * 17},
        {"oks_sigmas": (float("inf"),) * 17},
        {"oks_sigmas": (True,) * 17},
        {"keypoint_names": (" ", *COCO_17.keypoint_names[1:])},
        {"flip_pairs": ((1, 1),)},
        {"edges": ((3, 3),)},
        {"upper_body": (0, 0)},
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
