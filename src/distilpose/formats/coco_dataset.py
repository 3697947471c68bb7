"""A COCO annotation file: images, annotations and categories, as CVAT and FiftyOne open it to correct the poses."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from distilpose.formats.record import ComposedFile, ImageNames, PoseRecord, image_size
from distilpose.inference.decoding import KEYPOINT_SCORE_THRESHOLD

_PERSON = {"id": 1, "name": "person", "supercategory": "person"}


class CocoDataset:
    """Writes an annotation file; keypoints with a score below 0.2 are not labeled, as in COCO: (0, 0), visibility 0.

    Images without an ``image_id`` get numbers after the largest there is. Frames of a video are named as in
    `ImageNames`. ``area`` is that of the box.
    """

    def __init__(self, path: Path) -> None:
        self._file, self._names = ComposedFile(path, _compose), ImageNames()

    def write(self, record: PoseRecord) -> None:
        """See `PoseWriter`."""
        height, width = image_size(record, "coco-dataset")
        name = record.source if record.frame is None else self._names.of(record)
        image = {"id": record.image_id, "file_name": name, "height": height, "width": width}
        skeleton = record.result.skeleton
        category = {"keypoints": skeleton.keypoint_names, "skeleton": [[a + 1, b + 1] for a, b in skeleton.edges]}
        self._file.append({"image": image, "people": _annotations(record), "category": category})

    def close(self) -> None:
        """See `PoseWriter`."""
        self._file.close()


def _annotations(record: PoseRecord) -> list[dict[str, Any]]:
    result = record.result
    score = np.ones(result.xy.shape[:2]) if result.score is None else result.score
    sure = score >= KEYPOINT_SCORE_THRESHOLD
    keypoints = np.concatenate([np.where(sure[..., None], result.xy, 0), 2.0 * sure[..., None]], axis=-1)
    size = result.box[:, 2:] - result.box[:, :2]
    rows = []
    for person in range(len(result)):
        row = {
            "category_id": _PERSON["id"],
            "iscrowd": 0,
            "bbox": [*result.box[person, :2].tolist(), *size[person].tolist()],
            "area": float(size[person].prod()),
            "keypoints": [value for x, y, v in keypoints[person].tolist() for value in (x, y, int(v))],
            "num_keypoints": int(sure[person].sum()),
            "score": float(result.pose_score[person]),
        }
        rows.append(row if result.track_id is None else {**row, "track_id": int(result.track_id[person])})
    return rows


def _compose(file: BinaryIO, entries: Callable[[], Iterator[Any]]) -> None:
    ids = [entry["image"]["id"] for entry in entries()]
    free = max((number for number in ids if number is not None), default=0)
    for place, number in enumerate(ids):
        if number is None:
            ids[place] = free = free + 1
    category: dict[str, Any] = {}

    def images() -> Iterator[Any]:
        for number, entry in zip(ids, entries(), strict=True):
            category.update(entry["category"])
            yield {**entry["image"], "id": number}

    def annotations() -> Iterator[Any]:
        count = 0
        for number, entry in zip(ids, entries(), strict=True):
            for person in entry["people"]:
                count += 1
                yield {"id": count, "image_id": number, **person}

    for head, rows in ((b'{"images": [', images()), (b'],\n"annotations": [', annotations())):
        file.write(head)
        for place, row in enumerate(rows):
            file.write(("," if place else "").encode() + b"\n" + json.dumps(row, allow_nan=False).encode())
    file.write(f'],\n"categories": [{json.dumps({**_PERSON, **category})}]}}\n'.encode())
