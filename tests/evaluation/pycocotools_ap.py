"""The ten numbers of COCO's own package, which is the oracle of these tests."""

import contextlib
import copy
import io
from typing import Any

from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval


def pycocotools_ap(coco: dict[str, Any], results: list[dict[str, Any]]) -> list[float]:
    truth = COCO()
    with contextlib.redirect_stdout(io.StringIO()):
        truth.dataset = copy.deepcopy(coco)
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(copy.deepcopy(results)), "keypoints")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats.tolist()
