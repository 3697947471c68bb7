"""The ten COCO keypoint numbers."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from distilpose.skeletons import COCO_17, Skeleton
from distilpose.types import FloatArray

logger = logging.getLogger(__name__)

COCO_METRICS = ("AP", "AP50", "AP75", "APM", "APL", "AR", "AR50", "AR75", "ARM", "ARL")
# Thresholds of COCO's evaluation: similarity at which a person counts as found, recall at which precision is read.
OKS_THRESHOLDS = tuple(np.linspace(0.5, 0.95, 10).round(2).tolist())
RECALL_THRESHOLDS = tuple(np.linspace(0, 1, 101).round(2).tolist())
RESULT_FIELDS = ("image_id", "category_id", "keypoints", "score")


class KeypointAP(NamedTuple):
    """The ten numbers and the curves that AP is the mean of."""

    metrics: dict[str, float]  # fractions by the names of `COCO_METRICS`; -1: nobody of that size is labeled
    # (10, 101) over people of all sizes at `OKS_THRESHOLDS` x `RECALL_THRESHOLDS`; 0 at a recall that is not reached,
    # -1 throughout where the metrics are undefined
    precision: FloatArray


def coco_keypoint_ap(
    coco: Mapping[str, Any], results: Sequence[Mapping[str, Any]], skeleton: Skeleton = COCO_17
) -> dict[str, float]:
    """The ten numbers alone; see `coco_keypoint_curves`."""
    return coco_keypoint_curves(coco, results, skeleton).metrics


def coco_keypoint_curves(
    coco: Mapping[str, Any], results: Sequence[Mapping[str, Any]], skeleton: Skeleton = COCO_17
) -> KeypointAP:
    """Average precision and recall over OKS thresholds 0.5 to 0.95, at most 20 people per image.

    ``coco`` is complete as `GroundTruth.coco` is; ``results`` are in COCO's results layout and of its images.

    Source:
        https://cocodataset.org/#keypoints-eval, computed by faster-coco-eval; equal to pycocotools.
    """
    from faster_coco_eval import COCO, COCOeval_faster

    # A ``bbox`` from other tools would change the size class of a person. The library writes into what it is given.
    people = [{key: result[key] for key in RESULT_FIELDS} for result in results]
    truth = COCO(dict(coco), use_deepcopy=True, print_function=logger.debug)
    found, sigmas = truth.loadRes(people), np.array(skeleton.oks_sigmas)
    evaluation = COCOeval_faster(truth, found, iouType="keypoints", print_function=logger.debug, kpt_oks_sigmas=sigmas)
    evaluation.run()
    all_sizes, most_people = 0, -1  # of the axes (threshold, recall, category, size class, people per image)
    return KeypointAP(
        metrics={name: float(value) for name, value in zip(COCO_METRICS, evaluation.stats, strict=False)},
        precision=np.array(evaluation.eval["precision"][:, :, 0, all_sizes, most_people], dtype=np.float64),
    )
