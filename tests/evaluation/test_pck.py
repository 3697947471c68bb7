"""PCK counted by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
from labeled_people import arms

from distilpose.evaluation.metrics.pck import ALL_JOINTS, pck


def test_pck_counts_labels_within_a_fifth_of_the_longer_side() -> None:
    people = arms(0, 300, labeled=[[True] * 3, [True, False, False]])  # 100 pixels long: 20 are within reach
    predicted = people.true_xy_img.copy()
    predicted[0, 0] += [0, 20]  # just within reach
    predicted[0, 1] += [15, 15]  # 21.2 pixels: out of reach
    predicted[1, 0] += [-25, 0]
    accuracy = pck(replace(people, xy_img=predicted))
    assert list(accuracy) == ["shoulder", "elbow", "wrist", ALL_JOINTS]
    assert accuracy["shoulder"] == (0.5, 2)
    assert accuracy["elbow"] == (0.0, 1)
    assert accuracy["wrist"] == (1.0, 1)
    assert accuracy[ALL_JOINTS] == (pytest.approx(0.5), 4)


def test_people_without_a_prediction_are_missed_and_unlabeled_joints_unknown() -> None:
    accuracy = pck(arms(0, labeled=[[True, True, False]]))
    assert accuracy["shoulder"] == (0.0, 1)
    assert accuracy["wrist"] == (None, 0)
