"""The skeleton, against the public COCO definition."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from pycocotools.cocoeval import Params

from distilpose.errors import ConfigError
from distilpose.skeleton import COCO_17, Skeleton


def test_oks_constants_are_coco_s() -> None:
    assert np.allclose(COCO_17.oks_sigmas, Params(iouType="keypoints").kpt_oks_sigmas)


def test_names_order_and_limbs_are_those_of_a_coco_file(shared_data) -> None:
    import json

    category = json.loads((shared_data / "coco_val_dev" / "person_keypoints.json").read_text())["categories"][0]
    assert list(COCO_17.keypoint_names) == category["keypoints"]
    assert {frozenset(e) for e in COCO_17.edges} == {frozenset((a - 1, b - 1)) for a, b in category["skeleton"]}


def test_flip_pairs_join_left_and_right_of_one_joint() -> None:
    for left, right in COCO_17.flip_pairs:
        assert COCO_17.keypoint_names[left] == COCO_17.keypoint_names[right].replace("right", "left")
        assert (COCO_17.sides[left], COCO_17.sides[right]) == ("left", "right")
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
