"""Who is compared with whom."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from distilpose.evaluation.comparison import NOBODY, compare_people, match_people, rows_by_image
from distilpose.evaluation.ground_truth import GroundTruth, LabeledPerson
from distilpose.skeletons import Skeleton

ARM = Skeleton("arm", ("shoulder", "elbow", "wrist"), (), (), (), (), (0.1, 0.1, 0.1))


def labeled_person(x: float, labeled: tuple[bool, ...] = (True, True, True), image_id: int = 1) -> LabeledPerson:
    xy = np.array([[x, 10.0], [x + 50, 20.0], [x + 100, 30.0]])
    return LabeledPerson(image_id, np.array([x, 0.0, x + 100, 40.0]), xy, np.array(labeled), 2000.0)


def test_the_most_similar_pairs_are_matched_first() -> None:
    left, right, alone = labeled_person(0), labeled_person(30), labeled_person(0, image_id=2)
    near_right, near_left = right.xy_img + 1, left.xy_img + 8
    found = np.stack([near_right, near_left, near_left])
    matched = match_people([left, right, alone], np.array([1, 1, 1]), found, ARM)
    assert matched.tolist() == [1, 0, NOBODY], "a prediction of another image matches nobody"


def test_rows_are_those_of_all_predictions() -> None:
    people = [labeled_person(0, image_id=7), labeled_person(0, image_id=2)]
    found = np.stack([people[0].xy_img + 300, people[0].xy_img, people[0].xy_img])
    assert match_people(people, np.array([9, 2, 7]), found, ARM).tolist() == [2, 1]


def test_one_prediction_serves_one_person_and_only_labels_decide() -> None:
    first, second = labeled_person(0, labeled=(True, False, False)), labeled_person(0)
    found = first.xy_img.copy()
    found[1:] += 500
    assert match_people([first, second], np.array([1]), found[None], ARM).tolist() == [0, NOBODY]


def test_no_predictions_match_nobody() -> None:
    nothing = np.zeros(0, dtype=np.int64)
    assert match_people([labeled_person(0)], nothing, np.zeros((0, 3, 2)), ARM).tolist() == [NOBODY]
    assert list(rows_by_image(nothing)) == []


def test_people_stand_beside_their_predictions() -> None:
    people = (labeled_person(0, labeled=(True, False, True)), labeled_person(30, image_id=2))
    truth = GroundTruth(Path("gt.json"), {1: {"id": 1, "file_name": "a.jpg"}, 2: {"id": 2}}, people, {})
    xy = np.arange(18.0).reshape(3, 3, 2)
    compared = compare_people(truth, np.array([2, NOBODY]), ARM, xy_img=xy, raw_score=xy[..., 0])
    np.testing.assert_array_equal(compared.xy_img[0], xy[2])
    np.testing.assert_array_equal(compared.raw_score[0], xy[2, :, 0])
    assert np.isnan(compared.xy_img[1]).all()
    assert np.isnan(compared.raw_score[1]).all()
    assert compared.sigma_img is None
    assert compared.file_name == ("a.jpg", "")
    assert compared.predicted.tolist() == [True, False]
    assert compared.counted.tolist() == [[True, False, True], [False, False, False]]
