"""YOLO pose labels: a text file per image and ``data.yaml``, as Ultralytics, CVAT and Roboflow read them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from distilpose.formats.record import FilePerRecord, ImageNames, PoseRecord, image_size
from distilpose.geometry import clip_boxes_xyxy
from distilpose.inference.decoding import KEYPOINT_SCORE_THRESHOLD


def yolo_folder(path: Path) -> FilePerRecord:
    """Writes ``labels/NAME.txt``: ``0 cx cy w h x1 y1 v1 ...`` per person, as shares of the image's width and height.

    YOLO refuses what lies outside of the image: boxes are clipped, and keypoints outside, or with a score below 0.2,
    are not labeled (``0 0 0``). Frames of a video are named as in `ImageNames`.
    """
    names = ImageNames()

    def files(record: PoseRecord, first: bool) -> dict[str, str]:
        lines = _lines(record)
        labels = {f"labels/{Path(names.of(record)).with_suffix('.txt')}": lines}
        if not first:
            return labels
        keypoints, flip = list(record.result.skeleton.keypoint_names), record.result.skeleton.flip_index.tolist()
        data = (
            "# Put the images into images/ beside labels/\npath: .\ntrain: images\nval: images\n"
            f"kpt_shape: [{len(keypoints)}, 3]\nflip_idx: {flip}\nnames:\n  0: person\n"
            f"kpt_names:\n  0: {json.dumps(keypoints)}\n"
        )
        return {"data.yaml": data, **labels}

    return FilePerRecord(path, files)


def _lines(record: PoseRecord) -> str:
    result, size_hw = record.result, image_size(record, "yolo")
    size_wh = np.array(size_hw[::-1], dtype=np.float64)
    box = clip_boxes_xyxy(result.box, size_hw).reshape(-1, 2, 2)
    center, extent = box.mean(1) / size_wh, (box[:, 1] - box[:, 0]) / size_wh
    sure = np.asarray(((result.xy >= 0) & (result.xy <= size_wh)).all(-1))
    if result.score is not None:
        sure &= result.score >= KEYPOINT_SCORE_THRESHOLD
    points = np.concatenate([np.where(sure[..., None], result.xy / size_wh, 0), 2 * sure[..., None]], axis=-1)
    lines = []
    for person in np.flatnonzero((extent > 0).all(1)):
        numbers = [*center[person], *extent[person], *points[person].ravel()]
        lines.append(" ".join(["0", *(f"{number:.6g}" for number in numbers)]) + "\n")
    return "".join(lines)
