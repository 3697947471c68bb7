"""The ten COCO keypoint numbers."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from distilpose.skeleton import COCO_17, Skeleton

logger = logging.getLogger(__name__)

COCO_METRICS = ("AP", "AP50", "AP75", "APM", "APL", "AR", "AR50", "AR75", "ARM", "ARL")
RESULT_FIELDS = ("image_id", "category_id", "keypoints", "score")


def coco_keypoint_ap(
    coco: Mapping[str, Any], results: Sequence[Mapping[str, Any]], skeleton: Skeleton = COCO_17
) -> dict[str, float]:
    """Average precision and recall over OKS thresholds 0.5 to 0.95, at most 20 people per image.

    Args:
        coco: ground truth in COCO's layout, complete as `GroundTruth.coco` is: every annotation has ``area``,
            ``iscrowd`` and ``num_keypoints``.
        results: people in COCO's results layout; their ``image_id`` must be in ``coco``. May be empty.
        skeleton: its OKS constants are used.

    Returns:
        Fractions by the names of `COCO_METRICS`. As everywhere in COCO, -1 means "undefined": nobody of that size
        is labelled.

    Source:
        https://cocodataset.org/#keypoints-eval, computed by faster-coco-eval; equal to pycocotools.
    """
    from faster_coco_eval import COCO, COCOeval_faster

    # The library writes into what it is given. Results keep only what COCO scores: a ``bbox`` from other tools
    # would change the size class of a person.
    people = [{key: result[key] for key in RESULT_FIELDS} for result in results]
    truth = COCO(dict(coco), use_deepcopy=True, print_function=logger.debug)
    evaluation = COCOeval_faster(
        truth,
        truth.loadRes(people),
        iouType="keypoints",
        print_function=logger.debug,
        kpt_oks_sigmas=np.array(skeleton.oks_sigmas),
    )
    evaluation.run()
    return {name: float(value) for name, value in zip(COCO_METRICS, evaluation.stats, strict=False)}
