"""What goes wrong, and whether the model knows: kinds of error by joint, calibration of score and sigma."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from distilpose.evaluation.comparison import ComparedPeople, Rows, rows_by_image
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
    """How near each predicted keypoint of P people lies to its label, and what kind of error it is.

    Attributes:
        similarity: (P, K) keypoint similarity in [0, 1]; NaN where there is no label or no prediction.
        kind: (P, K) index into `ERROR_KINDS`; `NOT_COUNTED` where ``similarity`` is NaN.
        oks: (P,) mean similarity of a person; NaN for a person without a prediction or without labels.
    """

    similarity: FloatArray
    kind: IntArray
    oks: FloatArray


class ScoreCalibration(NamedTuple):
    """Keypoint scores in bins, each beside how often its keypoints are right.

    Attributes:
        mean_score: (10,) mean of the scores in each tenth of [0, 1]; NaN where there is none.
        share_near: (10,) share of these keypoints with a similarity of at least `NEAR_SIMILARITY`; NaN likewise.
        keypoints: (10,) how many there are.
        expected_error: mean distance between the two over all keypoints ("expected calibration error"); None
            without keypoints.
    """

    mean_score: FloatArray
    share_near: FloatArray
    keypoints: IntArray
    expected_error: float | None


class SigmaCoverage(NamedTuple):
    """How often an error stays within sigma; an error along x and one along y count separately.

    Attributes:
        within_one: share of the errors of at most one sigma; None without errors to count, as below.
        within_two: share of the errors of at most two sigma.
        factor: what sigma would have to be multiplied by for 68.3 % of the errors to stay within it.
        errors: how many there are.
    """

    within_one: float | None
    within_two: float | None
    factor: float | None
    errors: int


class SigmaCalibration(NamedTuple):
    """`SigmaCoverage` of all errors, of those along x, of those along y, and of each keypoint by name."""

    overall: SigmaCoverage
    along_x: SigmaCoverage
    along_y: SigmaCoverage
    per_joint: Mapping[str, SigmaCoverage]


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
    sigmas, counted = people.skeleton.oks_sigmas, people.counted
    similarity = keypoint_similarity(people.xy_img, people.true_xy_img, people.area, sigmas)
    similarity[~counted] = np.nan
    kind = np.where(counted, _MISS, NOT_COUNTED)
    itself = np.eye(people.skeleton.num_keypoints, dtype=np.bool_)
    mirror = itself[people.skeleton.flip_index] & ~itself
    for _, rows in rows_by_image(people.image_id):
        for person in rows[(similarity[rows] < NEAR_SIMILARITY).any(1)]:
            far = similarity[person] < NEAR_SIMILARITY
            kind[person, far & _near_any(people, person, rows[rows != person], itself | mirror)] = _SWAP
            kind[person, far & _near_any(people, person, rows[rows == person], mirror)] = _INVERSION
    kind[similarity >= NEAR_SIMILARITY] = _JITTER
    kind[similarity >= GOOD_SIMILARITY] = _GOOD
    return Diagnosis(similarity, kind.astype(np.int64), _mean_where(similarity, counted))


def count_kinds(diagnosis: Diagnosis) -> IntArray:
    """(K, 5) how many keypoints of each joint are of each of `ERROR_KINDS`."""
    return np.stack([(diagnosis.kind == kind).sum(0) for kind in range(len(ERROR_KINDS))], axis=-1).astype(np.int64)


def score_calibration(people: ComparedPeople, diagnosis: Diagnosis) -> ScoreCalibration | None:
    """Compare the score of a keypoint, clipped to [0, 1], with how often keypoints of that score are near.

    Args:
        people: as diagnosed.
        diagnosis: of these people.

    Returns:
        None when the people carry no score.
    """
    if people.raw_score is None:
        return None
    counted = people.counted
    score = np.clip(people.raw_score[counted], 0, 1)
    near = diagnosis.similarity[counted] >= NEAR_SIMILARITY
    in_bin = np.minimum((score * SCORE_BINS).astype(np.int64), SCORE_BINS - 1) == np.arange(SCORE_BINS)[:, None]
    keypoints = in_bin.sum(1)
    mean_score = _mean_where(np.broadcast_to(score, in_bin.shape), in_bin)
    share_near = _mean_where(np.broadcast_to(near, in_bin.shape).astype(np.float64), in_bin)
    distance = np.nansum(np.abs(mean_score - share_near) * keypoints)
    return ScoreCalibration(mean_score, share_near, keypoints, float(distance / len(score)) if len(score) else None)


def sigma_calibration(people: ComparedPeople) -> SigmaCalibration | None:
    """Compare the errors along x and y with the sigma the model gave for them.

    Returns:
        None when the people carry no sigma.
    """
    if people.sigma_img is None:
        return None
    error = np.abs(people.xy_img - people.true_xy_img)
    counted = people.counted
    in_sigmas = error / np.maximum(people.sigma_img, np.finfo(np.float64).tiny)
    names = people.skeleton.keypoint_names
    return SigmaCalibration(
        overall=_coverage(in_sigmas[counted]),
        along_x=_coverage(in_sigmas[counted][:, 0]),
        along_y=_coverage(in_sigmas[counted][:, 1]),
        per_joint={name: _coverage(in_sigmas[:, k][counted[:, k]]) for k, name in enumerate(names)},
    )


def _near_any(people: ComparedPeople, person: int, rows: Rows, labels: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """(K,) True where a predicted keypoint is near any of its ``labels`` (K, K) of the people in ``rows``."""
    similarity = keypoint_similarity(  # (K predicted, R people, K labels)
        people.xy_img[person][:, None, None],
        people.true_xy_img[rows],
        people.area[rows],
        people.skeleton.oks_sigmas,
    )
    return np.asarray(((similarity >= NEAR_SIMILARITY) & people.labeled[rows] & labels[:, None]).any((1, 2)))


def _coverage(in_sigmas: FloatArray) -> SigmaCoverage:
    """Of errors in units of their sigma, any shape."""
    if in_sigmas.size == 0:
        return SigmaCoverage(None, None, None, 0)
    return SigmaCoverage(
        within_one=float((in_sigmas <= 1).mean()),
        within_two=float((in_sigmas <= 2).mean()),
        factor=float(np.quantile(in_sigmas, GAUSSIAN_WITHIN[0])),
        errors=in_sigmas.size,
    )


def _mean_where(values: FloatArray, mask: NDArray[np.bool_]) -> FloatArray:
    """Mean over the last axis of the values under the mask; NaN where there is none."""
    total = np.where(mask, values, 0.0).sum(-1)
    return np.asarray(np.divide(total, mask.sum(-1), out=np.full(total.shape, np.nan), where=mask.any(-1)))
