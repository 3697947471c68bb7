"""Label Studio tasks with predictions: boxes and keypoints to correct, and the labeling configuration they need.

Source:
    Label Studio, "Import pre-annotated data": positions are percent of the image's width and height.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

import numpy as np

from distilpose.files import write_whole
from distilpose.formats.record import GrowingFile, ImageNames, PoseRecord, image_size
from distilpose.inference.decoding import KEYPOINT_SCORE_THRESHOLD
from distilpose.skeletons import Skeleton

_IMAGE_URL = "/data/local-files/?d="  # Label Studio's local storage
_POINT_SIZE = 0.5  # percent of the image's width


def label_studio_tasks(path: Path) -> GrowingFile:
    """Writes a task per image, and beside it ``NAME.xml``, the labeling configuration.

    Keypoints outside of the image, or with a score below 0.2, are left out. Frames of a video are named as in
    `ImageNames`.
    """
    names = ImageNames()

    def entry(record: PoseRecord, first: bool) -> str:
        result = record.result
        parts = [part for person in range(len(result)) for part in _person(record, person)]
        if first:
            write_whole(path.with_suffix(".xml"), _labeling_config(result.skeleton).encode())
        score = float(result.pose_score.mean()) if len(result) else 0.0
        prediction = {"model_version": "distilpose", "score": score, "result": parts}
        task = {
            "data": {"image": _IMAGE_URL + quote(names.listed(record), errors="surrogateescape")},
            "predictions": [prediction],
        }
        return ("\n" if first else ",\n") + json.dumps(task, allow_nan=False)

    return GrowingFile(path, entry, head="[", tail="\n]\n")


def _person(record: PoseRecord, person: int) -> list[dict[str, Any]]:
    result = record.result
    height, width = image_size(record, "labelstudio")
    percent = 100 / np.array([width, height])
    shared = {"to_name": "image", "original_width": width, "original_height": height, "image_rotation": 0}
    (x1, y1), (x2, y2) = np.clip(result.box[person].reshape(2, 2) * percent, 0, 100).tolist()
    box_id, parent = f"person{person + 1}", {}
    parts: list[dict[str, Any]] = []
    if x2 > x1 and y2 > y1:
        value = {"x": x1, "y": y1, "width": x2 - x1, "height": y2 - y1, "rotation": 0, "rectanglelabels": ["person"]}
        score = float(result.box_score[person])
        parts.append(
            {"id": box_id, "type": "rectanglelabels", "from_name": "box", **shared, "value": value, "score": score}
        )
        parent = {"parentID": box_id}
    scores = np.ones(len(result.xy[person])) if result.score is None else result.score[person]
    points = result.xy[person] * percent
    for name, (x, y), score in zip(result.skeleton.keypoint_names, points.tolist(), scores.tolist(), strict=True):
        if score >= KEYPOINT_SCORE_THRESHOLD and min(x, y) >= 0 and max(x, y) <= 100:
            value = {"x": x, "y": y, "width": _POINT_SIZE, "keypointlabels": [name]}
            row = {"id": f"{box_id}_{name}", "type": "keypointlabels", "from_name": "keypoint", **shared, **parent}
            parts.append({**row, "value": value, "score": score})
    return parts


def _labeling_config(skeleton: Skeleton) -> str:
    labels = "".join(f"\n    <Label value={quoteattr(name)}/>" for name in skeleton.keypoint_names)
    return (
        '<View>\n  <Image name="image" value="$image"/>\n  <RectangleLabels name="box" toName="image">\n    '
        '<Label value="person"/>\n  </RectangleLabels>\n  <KeyPointLabels name="keypoint" toName="image">'
        f"{labels}\n  </KeyPointLabels>\n</View>\n"
    )
