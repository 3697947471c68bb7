"""PCK counted by hand."""

from __future__ import annotations

import numpy as np
import pytest

from distilpose.evaluation.ground_truth import LabeledPerson
from distilpose.evaluation.metrics.pck import ALL_JOINTS, pck
from distilpose.skeletons import Skeleton

ARM = Skeleton("arm", ("shoulder", "elbow", "wrist"), (), (), (), (), (0.1, 0.1, 0.1))


def labeled_person(x: float, labeled: tuple[bool, ...] = (True, True, True), image_id: int = 1) -> LabeledPerson:
    """An arm of 100 x 40 pixels, so that 20 pixels are within reach."""
    xy = np.array([[x, 10.0], [x + 50, 20.0], [x + 100, 30.0]])
    return LabeledPerson(image_id, np.array([x, 0.0, x + 100, 40.0]), xy, np.array(labeled), 2000.0)


def test_pck_counts_labels_within_a_fifth_of_the_longer_side() -> None:
    people = [labeled_person(0), labeled_person(300, labeled=(True, False, False))]
    predicted = np.stack([person.xy_img for person in people])
    predicted[0, 0] += [0, 20]  # just within reach
    predicted[0, 1] += [15, 15]  # 21.2 pixels: out of reach
    predicted[1, 0] += [-25, 0]
    accuracy = pck(people, predicted, ARM)
    assert list(accuracy) == ["shoulder", "elbow", "wrist", ALL_JOINTS]
    assert accuracy["shoulder"] == (0.5, 2)
    assert accuracy["elbow"] == (0.0, 1)
    assert accuracy["wrist"] == (1.0, 1)
    assert accuracy[ALL_JOINTS] == (pytest.approx(0.5), 4)


def test_people_without_a_prediction_are_missed_and_unlabeled_joints_unknown() -> None:
    accuracy = pck([labeled_person(0, labeled=(True, True, False))], np.full((1, 3, 2), np.nan), ARM)
    assert accuracy["shoulder"] == (0.0, 1)
    assert accuracy["wrist"] == (None, 0)
