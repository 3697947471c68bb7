"""OpenPose's JSON: one JSON per image or frame, keypoints in the order of BODY_25 or COCO-18.

Source:
    OpenPose, "Demo - Output" (``--write_json``), format version 1.3; scores are ours, positions are image pixels.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from distilpose.formats.conversions import keypoints_by_name
from distilpose.formats.record import FilePerRecord, ImageNames, PoseRecord
from distilpose.inference.result import PoseResult
from distilpose.skeletons import OPENPOSE_18

Order = Literal["body_25", "coco_18"]

_LEG = ("hip", "knee", "ankle")
_FOOT = ("big_toe", "small_toe", "heel")
_ARM = ("shoulder", "elbow", "wrist")
BODY_25 = (
    "nose", "neck", *(f"right_{part}" for part in _ARM), *(f"left_{part}" for part in _ARM), "hip",
    *(f"right_{part}" for part in _LEG), *(f"left_{part}" for part in _LEG), "right_eye", "left_eye", "right_ear",
    "left_ear", *(f"left_{part}" for part in _FOOT), *(f"right_{part}" for part in _FOOT),
)  # fmt: skip
_NOT_OURS = ("face_keypoints_2d", "hand_left_keypoints_2d", "hand_right_keypoints_2d", "pose_keypoints_3d",
             "face_keypoints_3d", "hand_left_keypoints_3d", "hand_right_keypoints_3d")  # fmt: skip


def openpose_people(result: PoseResult, order: Order = "body_25") -> dict[str, Any]:
    """One image's people as OpenPose writes them: 25 (or 18) times x, y, score each; zeros for a missing keypoint.

    ``neck`` and the middle of the hips are computed where the skeleton has none.

    Raises:
        ConfigError: the skeleton has none of these keypoints.
    """
    names = BODY_25 if order == "body_25" else OPENPOSE_18.keypoint_names
    score = np.ones(result.xy.shape[:2]) if result.score is None else result.score
    found = keypoints_by_name(replace(result, raw_score=score), names, f"OpenPose ({order})")
    values = np.concatenate([found["xy"], found["raw_score"][..., None]], axis=-1)
    people = []
    for person, row in enumerate(values):
        track = -1 if result.track_id is None else int(result.track_id[person])
        keypoints: dict[str, Any] = {"person_id": [track], "pose_keypoints_2d": row.ravel().tolist()}
        people.append(keypoints | {name: [] for name in _NOT_OURS})
    return {"version": 1.3, "people": people}


def openpose_folder(path: Path, order: Order = "body_25") -> FilePerRecord:
    """Writes ``NAME_keypoints.json`` for images, ``NAME_000000000012_keypoints.json`` for frames."""
    names = ImageNames()

    def files(record: PoseRecord, first: bool) -> dict[str, str]:
        frame = "" if record.frame is None else f"_{record.frame:012}"
        return {f"{names.stem(record)}{frame}_keypoints.json": json.dumps(openpose_people(record.result, order))}

    return FilePerRecord(path, files)
