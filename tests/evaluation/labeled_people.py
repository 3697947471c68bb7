"""People made by hand."""

from __future__ import annotations

from typing import Any

import numpy as np

from distilpose.evaluation.comparison import ComparedPeople
from distilpose.skeletons import Skeleton

ARM = Skeleton("arm", ("shoulder", "elbow", "wrist"), (), (), (), (), (0.1, 0.1, 0.1))


def labeled_people(skeleton: Skeleton, true_xy_img: np.ndarray, **given: Any) -> ComparedPeople:
    """P people with (P, K, 2) keypoints, all labeled, of image 1, without predictions, where nothing else is given."""
    count = len(true_xy_img)
    unknown = np.full(count, np.nan)
    fields: dict[str, Any] = {
        "image_id": np.ones(count, dtype=np.int64), "file_name": np.array(["a.jpg"] * count),
        "box_xyxy": np.tile([0.0, 0, 100, 200], (count, 1)), "area": np.full(count, 1e4), "head_box": unknown,
        "labeled": np.ones(true_xy_img.shape[:2], dtype=bool), "head_segment": unknown,
        "xy_img": np.full(true_xy_img.shape, np.nan),
    }  # fmt: skip
    fields |= {name: np.asarray(value) for name, value in given.items()}
    return ComparedPeople(skeleton=skeleton, true_xy_img=true_xy_img, **fields)


def arms(*left: float, **given: Any) -> ComparedPeople:
    """Arms of 100 x 40 pixels."""
    xy = np.array([[[x, 10.0], [x + 50, 20.0], [x + 100, 30.0]] for x in left])
    boxes = np.array([[x, 0.0, x + 100, 40.0] for x in left])
    return labeled_people(ARM, xy, **{"box_xyxy": boxes, "area": [2000.0] * len(left), **given})
