"""The ten numbers against pycocotools and against the released code's evaluation."""

import copy
import gzip
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools_ap import pycocotools_ap

from distilpose.evaluation.comparison import load_ground_truth
from distilpose.evaluation.metrics.coco_ap import (
    COCO_METRICS,
    OKS_THRESHOLDS,
    RECALL_THRESHOLDS,
    coco_keypoint_ap,
    coco_keypoint_curves,
)
from distilpose.geometry.oks import oks_nms
from distilpose.inference.decoding import pose_score
from distilpose.skeletons import COCO_17


def read_gz(file: Path) -> Any:
    return json.loads(gzip.decompress(file.read_bytes()))


def to_results(predictions: list[dict[str, Any]], scores: np.ndarray, kept: list[int]) -> list[dict[str, Any]]:
    return [
        {
            "image_id": predictions[row]["image_id"],
            "category_id": 1,
            "keypoints": np.ravel(predictions[row]["keypoints"]).tolist(),
            "score": float(scores[row]),
        }
        for row in kept
    ]


def golden_results(reference_dir: Path, protocol: str) -> list[dict[str, Any]]:
    """The golden raw predictions, scored and suppressed by a protocol of `eval_expected.json`."""
    predictions = read_gz(reference_dir / "eval_predictions.json.gz")
    keypoints = np.array([p["keypoints"] for p in predictions])
    area = np.array([np.prod(np.array(p["scale"]) * 200) for p in predictions])
    image_id = np.array([p["image_id"] for p in predictions])
    scores = np.array([p["bbox_score"] for p in predictions])
    if protocol != "plain":
        scores = pose_score(scores, keypoints[..., 2])
    kept = list(range(len(predictions)))
    if protocol == "oks_nms":
        kept = []
        for rows in (np.flatnonzero(image_id == i) for i in np.unique(image_id)):
            kept += rows[oks_nms(keypoints[rows, :, :2], scores[rows], area[rows], COCO_17.oks_sigmas)].tolist()
    return to_results(predictions, scores, kept)


@pytest.mark.parametrize("protocol", ["oks_nms", "no_nms", "plain"])
def test_scores_and_suppression_equal_the_released_code(reference_dir: Path, protocol: str) -> None:
    expected = json.loads((reference_dir / "eval_expected.json").read_text())[protocol]
    metrics = coco_keypoint_ap(read_gz(reference_dir / "eval_gt.json.gz"), golden_results(reference_dir, protocol))
    np.testing.assert_allclose(list(metrics.values()), list(expected.values()), atol=1e-9)


def test_the_ten_numbers_equal_pycocotools_with_crowds_and_unlabeled_people(reference_dir: Path) -> None:
    truth = read_gz(reference_dir / "eval_gt.json.gz")
    rng = np.random.default_rng(0)
    for annotation in rng.choice(truth["annotations"], 20, replace=False):
        annotation["iscrowd"] = int(rng.random() < 0.5)
        if not annotation["iscrowd"]:
            annotation["keypoints"], annotation["num_keypoints"] = [0] * 51, 0
    predictions = read_gz(reference_dir / "eval_predictions.json.gz")
    results = to_results(predictions, rng.random(len(predictions)), list(range(len(predictions))))
    metrics = coco_keypoint_ap(truth, results)
    assert 0.05 < metrics["AP"] < 0.95
    np.testing.assert_allclose(list(metrics.values()), pycocotools_ap(truth, results), atol=1e-12)


def test_precision_averages_to_ap_and_its_curves_fall(reference_dir: Path) -> None:
    truth, results = read_gz(reference_dir / "eval_gt.json.gz"), golden_results(reference_dir, "oks_nms")
    average = coco_keypoint_curves(truth, results)
    assert average.metrics == coco_keypoint_ap(truth, results)
    assert 0.1 < average.metrics["AP"] < 0.95
    assert average.precision.shape == (len(OKS_THRESHOLDS), len(RECALL_THRESHOLDS))
    assert average.precision.mean() == pytest.approx(average.metrics["AP"])
    for name, threshold in (("AP50", 0.5), ("AP75", 0.75)):
        assert average.precision[OKS_THRESHOLDS.index(threshold)].mean() == pytest.approx(average.metrics[name])
    assert (np.diff(average.precision, axis=1) <= 0).all()


@pytest.fixture
def coco(annotations: Path) -> dict[str, Any]:
    """The small data set as `GroundTruth.coco`."""
    return dict(load_ground_truth(annotations, COCO_17).coco)


def test_numbers_have_their_usual_names(coco: dict[str, Any], perfect_results: list[dict[str, Any]]) -> None:
    metrics = coco_keypoint_ap(coco, perfect_results)
    assert tuple(metrics) == COCO_METRICS
    assert COCO_METRICS == ("AP", "AP50", "AP75", "APM", "APL", "AR", "AR50", "AR75", "ARM", "ARL")
    assert metrics == pytest.approx(dict.fromkeys(COCO_METRICS, 1.0))


def test_boxes_of_other_tools_do_not_change_the_numbers(
    coco: dict[str, Any], perfect_results: list[dict[str, Any]]
) -> None:
    results = [
        *perfect_results,
        perfect_results[0] | {"score": 0.9, "keypoints": [290, 5, 1, 10, 190, 1] * 8 + [0] * 3},
    ]
    tiny = [result | {"bbox": [0, 0, 1, 1]} for result in results]
    assert coco_keypoint_ap(coco, tiny) == coco_keypoint_ap(coco, results)
    assert pycocotools_ap(coco, tiny) != pycocotools_ap(coco, results), "which COCO's own tools do not promise"


def test_sigmas_come_from_the_skeleton(coco: dict[str, Any], perfect_results: list[dict[str, Any]]) -> None:
    for result in perfect_results:
        result["keypoints"] = (np.array(result["keypoints"]) + np.tile([4, 4, 0], 17)).tolist()
    tolerant = replace(COCO_17, oks_sigmas=tuple(10 * sigma for sigma in COCO_17.oks_sigmas))
    assert coco_keypoint_ap(coco, perfect_results)["AP"] < 0.9
    assert coco_keypoint_ap(coco, perfect_results, tolerant)["AP"] == pytest.approx(1)


def test_it_says_nothing_and_changes_nothing(
    coco: dict[str, Any], perfect_results: list[dict[str, Any]], capfd: pytest.CaptureFixture[str]
) -> None:
    before = copy.deepcopy((coco, perfect_results))
    coco_keypoint_ap(coco, perfect_results)
    assert capfd.readouterr() == ("", "")
    assert (coco, perfect_results) == before


def test_no_results_give_zero(coco: dict[str, Any]) -> None:
    assert coco_keypoint_ap(coco, []) == dict.fromkeys(COCO_METRICS, 0.0)


def test_a_size_without_people_is_undefined(coco: dict[str, Any], perfect_results: list[dict[str, Any]]) -> None:
    for annotation in coco["annotations"]:
        annotation["area"] = 100.0**2
    metrics = coco_keypoint_ap(coco, perfect_results)
    assert (metrics["APM"], metrics["ARM"]) == (-1, -1)
    assert metrics["APL"] == pytest.approx(1)
