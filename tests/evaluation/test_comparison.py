"""Who is compared with whom."""

from __future__ import annotations

import numpy as np
from labeled_people import arms

from distilpose.evaluation.comparison import NOBODY, match_people, rows_by_image


def test_the_most_similar_pairs_are_matched_first() -> None:
    people = arms(0, 30, 0, image_id=[1, 1, 2])
    left, right, _ = people.true_xy_img
    found = np.stack([right + 1, left + 8, left + 8])
    matched = match_people(people, np.array([1, 1, 1]), found)
    assert matched.tolist() == [1, 0, NOBODY], "a prediction of another image matches nobody"


def test_rows_are_those_of_all_predictions() -> None:
    people = arms(0, 0, image_id=[7, 2])
    found = people.true_xy_img[[0, 0, 0]] + np.array([300, 0, 0])[:, None, None]
    assert match_people(people, np.array([9, 2, 7]), found).tolist() == [2, 1]


def test_one_prediction_serves_one_person_and_only_labels_decide() -> None:
    people = arms(0, 0, labeled=[[True, False, False], [True] * 3])
    found = people.true_xy_img[:1] + np.array([[0], [500], [500]])
    assert match_people(people, np.array([1]), found).tolist() == [0, NOBODY]


def test_no_predictions_match_nobody() -> None:
    nothing = np.zeros(0, dtype=np.int64)
    assert match_people(arms(0), nothing, np.zeros((0, 3, 2))).tolist() == [NOBODY]
    assert list(rows_by_image(nothing)) == []


def test_people_stand_beside_their_predictions() -> None:
    xy = np.arange(18.0).reshape(3, 3, 2)
    people = arms(0, 30, image_id=[1, 2], labeled=[[True, False, True], [True] * 3])
    compared = people.compared(np.array([2, NOBODY]), xy, xy[..., 0])
    np.testing.assert_array_equal(compared.xy_img[0], xy[2])
    np.testing.assert_array_equal(compared.raw_score[0], xy[2, :, 0])
    assert np.isnan(compared.xy_img[1]).all()
    assert np.isnan(compared.raw_score[1]).all()
    assert compared.sigma_img is None
    assert compared.predicted.tolist() == [True, False]
    assert compared.counted.tolist() == [[True, False, True], [False, False, False]]
    assert compared.filter([1]).image_id.tolist() == [2]
