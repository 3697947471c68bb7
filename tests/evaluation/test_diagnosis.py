"""Kinds of error and calibration, each against a case counted by hand."""

import math
from dataclasses import replace

import numpy as np
import pytest
from labeled_people import labeled_people

from distilpose.evaluation.comparison import ComparedPeople
from distilpose.evaluation.metrics.diagnosis import ERROR_KINDS, NOT_COUNTED, calibrate, count_kinds, diagnose
from distilpose.geometry.oks import oks
from distilpose.skeletons import Skeleton

# Similarity is exp(-d^2 / (2 area (2 sigma)^2)): for an area of 10,000 and these constants exp(-d^2 / 800), so
# 0.88 at 10 pixels, 0.61 at 20 and 0.32 at 30.
ARMS = Skeleton("arms", ("nose", "left_wrist", "right_wrist"), ((1, 2),), (), (), (), (0.1, 0.1, 0.1))
AREA = 10_000.0
TRUE = np.array([[100.0, 0.0], [0.0, 100.0], [200.0, 100.0]])
OTHER = TRUE + np.array([500, 0])


def people(
    predicted: np.ndarray, true: np.ndarray | None = None, labeled: np.ndarray | None = None, image_id: object = None
) -> ComparedPeople:
    """P people of one image, or of the images given: (P, 3, 2) predictions and labels."""
    labels = TRUE[None] if true is None else true
    given = {"labeled": labeled, "image_id": image_id}
    given = {name: value for name, value in given.items() if value is not None}
    return labeled_people(ARMS, labels, xy_img=predicted, area=np.full(len(labels), AREA), **given)


def kinds(compared: ComparedPeople, person: int = 0) -> list[str]:
    return ["" if kind == NOT_COUNTED else ERROR_KINDS[kind] for kind in diagnose(compared).kind[person]]


def test_distance_to_the_right_label_tells_good_from_jitter_from_miss() -> None:
    compared = people(TRUE[None] + np.array([[10, 0], [0, -20], [30, 0]]))
    assert kinds(compared) == ["good", "jitter", "miss"]
    expected = [math.exp(-100 / 800), math.exp(-400 / 800), math.exp(-900 / 800)]
    np.testing.assert_allclose(diagnose(compared).similarity[0], expected)
    assert diagnose(compared).oks[0] == pytest.approx(sum(expected) / 3)


def test_both_ends_of_a_threshold() -> None:
    good, near = (math.sqrt(-800 * math.log(similarity)) for similarity in (0.85, 0.5))
    inside = people(TRUE[None] + np.array([[good - 0.01, 0], [near - 0.01, 0], [0, 0]]))
    outside = people(TRUE[None] + np.array([[good + 0.01, 0], [near + 0.01, 0], [0, 0]]))
    assert kinds(inside) == ["good", "jitter", "good"]
    assert kinds(outside) == ["jitter", "miss", "good"]


def test_exchanged_wrists_are_inversions() -> None:
    exchanged = TRUE[[0, 2, 1]]
    assert kinds(people(exchanged[None])) == ["good", "inversion", "inversion"]


def test_the_mirror_joint_makes_an_inversion_when_it_is_labeled_and_any_other_joint_a_miss() -> None:
    at_the_nose = TRUE.copy()
    at_the_nose[1] = TRUE[0] + [15, 0]
    assert kinds(people(at_the_nose[None])) == ["good", "miss", "good"]
    at_the_mirror = TRUE.copy()
    at_the_mirror[1] = TRUE[2]
    assert kinds(people(at_the_mirror[None])) == ["good", "inversion", "good"]
    unlabeled = np.array([[True, True, False]])
    assert kinds(replace(people(at_the_mirror[None]), labeled=unlabeled)) == ["good", "miss", ""]


def test_a_joint_of_somebody_else_in_the_image_makes_a_swap() -> None:
    predicted = np.stack([TRUE, OTHER])
    predicted[0, 1] = OTHER[1] + [0, 15]  # the same joint
    predicted[0, 2] = OTHER[1]  # another joint
    both = np.stack([TRUE, OTHER])
    assert kinds(people(predicted, both)) == ["good", "swap", "swap"]
    assert kinds(people(predicted, both, image_id=[1, 2])) == ["good", "miss", "miss"], "another image does not count"
    unlabeled = np.array([[True, True, True], [True, False, True]])
    assert kinds(people(predicted, both, unlabeled)) == ["good", "miss", "miss"]


def test_the_right_label_comes_before_an_inversion_and_that_before_a_swap() -> None:
    crowded = np.stack([TRUE, TRUE])  # everybody in one place
    predicted = np.stack([TRUE[[0, 2, 1]], TRUE])
    predicted[0, 0] += [0, 22]
    assert kinds(people(predicted, crowded)) == ["jitter", "inversion", "inversion"]


def test_the_size_of_the_other_person_decides_what_is_near() -> None:
    predicted = np.stack([TRUE, OTHER])
    predicted[0, 1] = OTHER[1] + [40, 0]  # similarity 0.14, for a person of four times the size 0.61
    compared = people(predicted, np.stack([TRUE, OTHER]))
    assert kinds(compared)[1] == "miss"
    assert kinds(replace(compared, area=np.array([AREA, 4 * AREA])))[1] == "swap"


def test_people_without_prediction_or_labels_are_not_counted() -> None:
    predicted = np.stack([np.full((3, 2), np.nan), OTHER])
    labeled = np.array([[True] * 3, [False] * 3])
    compared = people(predicted, np.stack([TRUE, OTHER]), labeled)
    diagnosis = diagnose(compared)
    assert (diagnosis.kind == NOT_COUNTED).all()
    assert np.isnan(diagnosis.similarity).all()
    assert np.isnan(diagnosis.oks).all()
    assert count_kinds(diagnosis).sum() == 0


def test_labels_of_people_without_a_prediction_can_be_swapped_with() -> None:
    predicted = np.stack([TRUE, np.full((3, 2), np.nan)])
    predicted[0, 1] = OTHER[1]
    assert kinds(people(predicted, np.stack([TRUE, OTHER])))[1] == "swap"


def test_similarity_averages_to_oks() -> None:
    rng = np.random.default_rng(0)
    true, labeled = rng.uniform(0, 100, (5, 3, 2)), rng.random((5, 3)) < 0.7
    labeled[:, 0] = True
    compared = people(true + rng.normal(0, 15, true.shape), true, labeled)
    expected = np.diag(oks(true, compared.xy_img, AREA, ARMS.oks_sigmas, labeled))
    np.testing.assert_allclose(diagnose(compared).oks, expected)


def test_scores_are_compared_with_how_often_keypoints_are_near() -> None:
    shift = np.zeros((2, 3, 2))
    shift[0, 1] = [0, 1000]  # nowhere
    true = np.stack([TRUE, OTHER])
    score = np.array([[0.72, 0.78, -3.0], [1.7, 1.0, 0.3]])
    labeled = np.array([[True, True, True], [True, True, False]])
    calibration = calibrate(replace(people(true + shift, true, labeled), raw_score=score)).keypoint_score
    assert calibration.numbers.tolist() == [1, 0, 0, 0, 0, 0, 0, 2, 0, 2]
    np.testing.assert_allclose(calibration.mean_score[[0, 7, 9]], [0, 0.75, 1])
    np.testing.assert_allclose(calibration.mean_truth[[0, 7, 9]], [1, 0.5, 1])
    assert np.isnan(calibration.mean_score[1])
    assert np.isnan(calibration.mean_truth[1])
    assert calibration.expected_error == pytest.approx((1 * 1 + 2 * 0.25 + 2 * 0) / 5)
    # five scores and similarities: ranks 2 3 1 5 4 against 3.5 1 3.5 3.5 3.5, whose covariance is 0
    assert calibration.rank_correlation == pytest.approx(0, abs=1e-12)


def test_people_are_compared_with_their_oks_and_ranks_by_hand() -> None:
    true = np.stack([TRUE, OTHER, OTHER + 500, OTHER + 1000])
    shift = np.array([0, 10, 20, 30])[:, None, None] * np.array([1, 0])  # OKS exp(-d^2 / 800)
    score = np.array([0.9, 0.5, 0.7, 0.1])[:, None].repeat(3, 1)
    calibration = calibrate(replace(people(true + shift, true), raw_score=score))
    # ranks of the scores 4 2 3 1 against 4 3 2 1: 1 - 6 (0 + 1 + 1 + 0) / (4 (16 - 1))
    assert calibration.person_score.rank_correlation == pytest.approx(0.8)
    oks = [math.exp(-d * d / 800) for d in (0, 10, 20, 30)]
    distances = [abs(s - o) for s, o in zip((0.9, 0.5, 0.7, 0.1), oks, strict=True)]
    assert calibration.person_score.expected_error == pytest.approx(sum(distances) / 4)
    assert calibration.to_dict()["person_score"]["rank_correlation"] == pytest.approx(0.8)


def test_sigma_is_compared_with_the_errors_along_each_axis() -> None:
    shift = np.array([[[1.0, 3.0], [-2.0, 4.1], [9.0, 9.0]]])
    compared = replace(
        people(TRUE[None] + shift, labeled=np.array([[True, True, False]])), sigma_img=np.full((1, 3, 2), 2.0)
    )
    calibration = calibrate(compared)
    assert calibration.sigma["all"] == (0.5, 0.75, pytest.approx(np.quantile([0.5, 1, 1.5, 2.05], 0.6827)), 4)
    assert calibration.sigma["along x"][:2] == (1, 1)
    assert calibration.sigma["along y"][:2] == (0, 0.5)
    assert calibration.sigma["left_wrist"][:2] == (0.5, 0.5)
    assert calibration.sigma["right_wrist"] == (None, None, None, 0)
    assert calibration.sigma_rank_correlation is None, "sigma is the same everywhere"


def test_sigma_is_ranked_as_a_share_of_the_person() -> None:
    shift = np.array([[[2.0, 4.0], [1.0, 3.0], [5.0, 6.0]]])
    both = people(np.stack([TRUE, OTHER]) + np.concatenate([shift, 10 * shift]), np.stack([TRUE, OTHER]))
    sigma = np.concatenate([8 - shift, 10 * (8 - shift)])
    wrong_way = calibrate(replace(both, sigma_img=sigma, area=np.array([AREA, 100 * AREA])))
    assert wrong_way.sigma_rank_correlation == pytest.approx(-1), "large sigmas of large people do not count as right"


def test_gaussian_errors_are_calibrated_and_the_factor_mends_those_that_are_not() -> None:
    rng = np.random.default_rng(0)
    true, sigma = np.zeros((4000, 3, 2)), rng.uniform(1, 5, (4000, 3, 2))
    compared = replace(people(sigma * rng.standard_normal(true.shape), true), sigma_img=sigma)
    exact = calibrate(compared)
    too_sure = calibrate(replace(compared, sigma_img=sigma / 3))
    assert exact.sigma["all"][:3] == pytest.approx((0.6827, 0.9545, 1), abs=0.02)
    assert too_sure.sigma["all"].within_one < 0.3
    assert too_sure.sigma["all"].factor == pytest.approx(3, abs=0.1)
    assert exact.sigma_rank_correlation == pytest.approx(too_sure.sigma_rank_correlation)
    assert 0.2 < exact.sigma_rank_correlation < 0.6


def test_without_score_or_sigma_there_is_no_calibration() -> None:
    assert calibrate(people(TRUE[None])) == (None, None, None, None)
    assert calibrate(people(TRUE[None])).to_dict() == {"keypoint_score": None, "person_score": None, "sigma": None}


def test_nothing_to_count_is_not_an_error() -> None:
    unlabeled = people(TRUE[None], labeled=np.zeros((1, 3), dtype=bool))
    nobody = people(np.zeros((0, 3, 2)), np.zeros((0, 3, 2)))
    for compared in (unlabeled, nobody):
        shape = compared.labeled.shape
        full = replace(compared, raw_score=np.zeros(shape), sigma_img=np.ones((*shape, 2)))
        assert count_kinds(diagnose(full)).tolist() == [[0] * 5] * 3
        calibration = calibrate(full)
        assert calibration.keypoint_score.expected_error is None
        assert calibration.sigma["all"] == (None, None, None, 0)
