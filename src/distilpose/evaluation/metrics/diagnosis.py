"""What goes wrong, and whether the model knows: kinds of error by joint, calibration of score and sigma."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from distilpose.evaluation.comparison import ComparedPeople, Rows, rows_by_image
from distilpose.evaluation.metrics.pck import ALL_JOINTS
from distilpose.geometry.oks import keypoint_similarity
from distilpose.types import FloatArray, IntArray

ERROR_KINDS = ("good", "jitter", "inversion", "swap", "miss")
_GOOD, _JITTER, _INVERSION, _SWAP, _MISS = range(len(ERROR_KINDS))
NOT_COUNTED = -1
# Keypoint similarity from which on a keypoint is good, and from which on it is near at all
GOOD_SIMILARITY, NEAR_SIMILARITY = 0.85, 0.5

SCORE_BINS = 10
GAUSSIAN_WITHIN = (0.6827, 0.9545)  # share of a normal distribution within one and within two standard deviations


class Diagnosis(NamedTuple):
    """How near each predicted keypoint of P people lies to its label, and its kind of error."""

    similarity: FloatArray  # (P, K) keypoint similarity in [0, 1]; NaN where there is no label or no prediction
    kind: IntArray  # (P, K) index into `ERROR_KINDS`; `NOT_COUNTED` where ``similarity`` is NaN
    oks: FloatArray  # (P,) mean similarity of a person; NaN for a person without a prediction or without labels


class ScoreCalibration(NamedTuple):
    """Scores in bins, each beside how right the predictions of that score are."""

    mean_score: FloatArray  # (10,) mean of the scores in each tenth of [0, 1]; NaN where there is none
    mean_truth: FloatArray  # (10,) mean of what the score should say, likewise
    numbers: IntArray  # (10,) how many scores there are
    # mean distance between the two over all scores ("expected calibration error"); None without any
    expected_error: float | None
    # Spearman's, of the scores with how similar the predictions are; None where it is undefined
    rank_correlation: float | None


class SigmaCoverage(NamedTuple):
    """How often an error stays within sigma; an error along x and one along y count separately."""

    within_one: float | None  # share of the errors of at most one sigma; None without errors, as below
    within_two: float | None  # likewise of two sigma
    factor: float | None  # what sigma would have to be multiplied by for 68.3 % of the errors to stay within it
    errors: int  # how many there are


class Calibration(NamedTuple):
    """What score and sigma say of the errors; None from a model without them."""

    # score of a keypoint beside the share of keypoints with a similarity of at least `NEAR_SIMILARITY`
    keypoint_score: ScoreCalibration | None
    person_score: ScoreCalibration | None  # mean keypoint score of a person beside the person's OKS
    # coverage of all errors (`ALL_JOINTS`), of those "along x", "along y", and of each keypoint by name
    sigma: Mapping[str, SigmaCoverage] | None
    # Spearman's, of sigma with the size of the error, both as shares of the person's size (square root of the area);
    # None where it is undefined
    sigma_rank_correlation: float | None

    def to_dict(self) -> dict[str, Any]:
        """The single numbers, JSON-ready."""
        scores = {"keypoint_score": self.keypoint_score, "person_score": self.person_score}
        numbers: dict[str, Any] = {
            name: score and {"expected_error": score.expected_error, "rank_correlation": score.rank_correlation}
            for name, score in scores.items()
        }
        coverage = self.sigma and self.sigma[ALL_JOINTS]._asdict()
        numbers["sigma"] = coverage and {**coverage, "rank_correlation": self.sigma_rank_correlation}
        return numbers


def similarity_to_labels(people: ComparedPeople) -> FloatArray:
    """(P, K) similarity of each predicted keypoint to its label; NaN where there is no label or no prediction."""
    similarity = keypoint_similarity(people.xy_img, people.true_xy_img, people.area, people.skeleton.oks_sigmas)
    return np.where(people.counted, similarity, np.nan)


def diagnose(people: ComparedPeople) -> Diagnosis:
    """Name the kind of error of every labeled keypoint of the people with a prediction.

    A predicted keypoint is, the first that fits:

    - good: its similarity to its label is at least 0.85, about what two annotators reach;
    - jitter: at least 0.5;
    - inversion: at least 0.5 to its mirror image on the same person, such as the other wrist;
    - swap: at least 0.5 to the same joint, or its mirror image, of another person in the image;
    - miss: near nothing.

    Similarity to a keypoint is measured with that keypoint's OKS constant and its owner's area.

    Source:
        Ruggero Ronchi and Perona, "Benchmarking and Error Diagnosis in Multi-Instance Pose Estimation" (ICCV 2017,
        arXiv:1707.05388). Where several labels are near, they let the nearest decide; here the right one comes first.
    """
    similarity = similarity_to_labels(people)
    kind = np.where(people.counted, _MISS, NOT_COUNTED)
    itself = np.eye(people.skeleton.num_keypoints, dtype=np.bool_)
    mirror = itself[people.skeleton.flip_index] & ~itself
    for _, rows in rows_by_image(people.image_id):
        for person in rows[(similarity[rows] < NEAR_SIMILARITY).any(1)]:
            far = similarity[person] < NEAR_SIMILARITY
            kind[person, far & _near_any(people, person, rows[rows != person], itself | mirror)] = _SWAP
            kind[person, far & _near_any(people, person, rows[rows == person], mirror)] = _INVERSION
    kind[similarity >= NEAR_SIMILARITY] = _JITTER
    kind[similarity >= GOOD_SIMILARITY] = _GOOD
    return Diagnosis(similarity, kind.astype(np.int64), _mean_where(similarity, people.counted))


def count_kinds(diagnosis: Diagnosis) -> IntArray:
    """(K, 5) how many keypoints of each joint are of each of `ERROR_KINDS`."""
    return np.stack([(diagnosis.kind == kind).sum(0) for kind in range(len(ERROR_KINDS))], axis=-1).astype(np.int64)


def calibrate(people: ComparedPeople) -> Calibration:
    """Compare score and sigma of the predictions with their errors."""
    similarity, counted = similarity_to_labels(people), people.counted
    keypoint_score = person_score = sigma = sigma_rank_correlation = None
    if people.raw_score is not None:
        near = (similarity >= NEAR_SIMILARITY).astype(np.float64)
        keypoint_score = _score_calibration(people.raw_score[counted], near[counted], similarity[counted])
        some = counted.any(1)
        oks = _mean_where(similarity, counted)[some]
        person_score = _score_calibration(people.raw_score[some].mean(-1), oks, oks)
    if people.sigma_img is not None:
        error, joints = np.abs(people.xy_img - people.true_xy_img), people.skeleton.keypoint_names
        in_sigmas = error / np.maximum(people.sigma_img, np.finfo(np.float64).tiny)
        sigma = {
            ALL_JOINTS: _coverage(in_sigmas[counted]),
            **{f"along {axis}": _coverage(in_sigmas[counted][:, k]) for k, axis in enumerate("xy")},
            **{name: _coverage(in_sigmas[:, k][counted[:, k]]) for k, name in enumerate(joints)},
        }
        size = np.sqrt(np.maximum(people.area, np.spacing(1)))[:, None, None]
        sigma_rank_correlation = _rank_correlation((people.sigma_img / size)[counted], (error / size)[counted])
    return Calibration(keypoint_score, person_score, sigma, sigma_rank_correlation)


def _score_calibration(raw_score: FloatArray, truth: FloatArray, similarity: FloatArray) -> ScoreCalibration:
    """(N,) scores, what they should say, in [0, 1], and what they are ranked against."""
    score = np.clip(raw_score, 0, 1)
    in_bin = np.minimum((score * SCORE_BINS).astype(np.int64), SCORE_BINS - 1) == np.arange(SCORE_BINS)[:, None]
    mean_score, mean_truth = (_mean_where(np.broadcast_to(values, in_bin.shape), in_bin) for values in (score, truth))
    distance = np.nansum(np.abs(mean_score - mean_truth) * in_bin.sum(1))
    return ScoreCalibration(
        mean_score=mean_score,
        mean_truth=mean_truth,
        numbers=in_bin.sum(1),
        expected_error=float(distance / len(score)) if len(score) else None,
        rank_correlation=_rank_correlation(raw_score, similarity),
    )


def _rank_correlation(a: FloatArray, b: FloatArray) -> float | None:
    """Spearman's, over all values; None for fewer than two, or where one of the two is the same everywhere."""
    from scipy.stats import spearmanr  # takes long to import

    if a.size < 2 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return None
    return float(spearmanr(a.ravel(), b.ravel()).statistic)


def _near_any(people: ComparedPeople, person: int, rows: Rows, labels: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """(K,) True where a predicted keypoint is near any of its ``labels`` (K, K) of the people in ``rows``."""
    similarity = keypoint_similarity(  # (K predicted, R people, K labels)
        people.xy_img[person][:, None, None], people.true_xy_img[rows], people.area[rows], people.skeleton.oks_sigmas
    )
    return np.asarray(((similarity >= NEAR_SIMILARITY) & people.labeled[rows] & labels[:, None]).any((1, 2)))


def _coverage(in_sigmas: FloatArray) -> SigmaCoverage:
    """Of errors in units of their sigma, any shape."""
    if in_sigmas.size == 0:
        return SigmaCoverage(None, None, None, 0)
    one, two = (float((in_sigmas <= limit).mean()) for limit in (1, 2))
    return SigmaCoverage(one, two, float(np.quantile(in_sigmas, GAUSSIAN_WITHIN[0])), in_sigmas.size)


def _mean_where(values: FloatArray, mask: NDArray[np.bool_]) -> FloatArray:
    """Mean over the last axis of the values under the mask; NaN where there is none."""
    total = np.where(mask, values, 0.0).sum(-1)
    return np.asarray(np.divide(total, mask.sum(-1), out=np.full(total.shape, np.nan), where=mask.any(-1)))
