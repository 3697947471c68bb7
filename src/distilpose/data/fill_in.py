"""What annotations leave out, filled in: boxes and areas from keypoints; and COCO-WholeBody's five lists as one."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from distilpose.data.files import read_flag
from distilpose.geometry import BOX_GROWTH, box_of_keypoints
from distilpose.skeletons import COCO_17, COCO_WHOLEBODY_133, Skeleton

logger = logging.getLogger(__name__)

# An annotation without a segment's area gets this share of its box, as is usual for people (MPII, CrowdPose tools).
AREA_SHARE_OF_BOX = 0.53
NO_BOX = "no bbox, and none can be made of its keypoints, for which two in different places must be labeled: add bbox"
# Lists of a COCO-WholeBody annotation beside ``keypoints``, in the order of the skeleton, and how many points each has.
_PARTS = {"foot": 6, "face": 68, "lefthand": 21, "righthand": 21}


def fill_in(entry: Mapping[str, Any]) -> Mapping[str, Any]:
    """An annotation with a box where its keypoints allow it (`box_of_keypoints`)."""
    box_xywh = box_of_keypoints(entry.get("keypoints")) if "bbox" not in entry else None
    return entry if box_xywh is None else {**entry, "bbox": box_xywh}


def is_unlabeled(entry: Mapping[str, Any]) -> bool:
    """Whether an annotation labels no keypoint. Labels are counted; ``num_keypoints`` is asked where there is no list.

    A list that is broken is not said to be without labels: those who read it refuse it.
    """
    values = entry.get("keypoints")
    if values is None or values == []:
        return bool(entry.get("num_keypoints", 0) == 0)
    return isinstance(values, list) and len(values) % 3 == 0 and all(value == 0 for value in values[2::3])


def log_filled_in(entries: Sequence[Any], file: Path) -> None:
    """Tell, once for a file, how many labeled annotations had no box or no area, and what was taken instead."""
    people = [entry for entry in entries if isinstance(entry, dict) and not entry.get("iscrowd")]
    people = [entry for entry in people if not is_unlabeled(entry)]
    made = f"the box of the labeled keypoints, grown by {BOX_GROWTH:g} of its longer side on each side, is taken"
    share = f"{AREA_SHARE_OF_BOX:g} of the box is taken, a person's share; similarity (OKS) depends on it"
    for field, instead in (("bbox", made), ("area", share)):
        lacking = sum(field not in entry for entry in people)
        if lacking:
            logger.warning(
                "%s: %d of %d annotations have no %s: %s. To set it, write %s into the file.",
                file, lacking, len(people), field, instead, field,
            )  # fmt: skip


def join_whole_body(document: Mapping[str, Any], skeleton: Skeleton) -> Mapping[str, Any]:
    """A COCO-WholeBody file with the 133 keypoints of an annotation in one list; any other file as it is.

    Its annotations hold body, feet, face and hands in five fields; a part whose ``*_valid`` is false is not labeled.

    Args:
        document: with a list of ``annotations``.
        skeleton: of the labels that are wanted; other than COCO-WholeBody's, the body alone is read.

    Source:
        https://github.com/jin-s13/COCO-WholeBody/blob/master/data_format.md
    """
    entries = document["annotations"]
    if not skeleton.has_keypoints(COCO_WHOLEBODY_133.keypoint_names) or not any(map(_has_parts, entries)):
        return document
    joined = [_joined(entry) if _has_parts(entry) else entry for entry in entries]
    categories = document.get("categories")
    if isinstance(categories, list):
        categories = [_whole_body_category(category) for category in categories]
    return {**document, "annotations": joined, "categories": categories}


def _has_parts(entry: Any) -> bool:
    names = ["keypoints", *(f"{part}_kpts" for part in _PARTS)]
    return isinstance(entry, dict) and all(isinstance(entry.get(name), list) for name in names)


def _joined(entry: Mapping[str, Any]) -> dict[str, Any]:
    keypoints = list(entry["keypoints"])
    for part, count in _PARTS.items():
        if read_flag(entry.get(f"{part}_valid", True)):
            values = entry[f"{part}_kpts"]
            keypoints += [_visibility(v) if index % 3 == 2 else v for index, v in enumerate(values)]
        else:
            keypoints += [0] * (3 * count)
    return {**entry, "keypoints": keypoints}


def _visibility(value: Any) -> Any:
    """A confidence that stands in place of a visibility, as machine-made labels have it, counts as visible."""
    return 2 if isinstance(value, float) and 0 < value < 2 and value != 1 else value


def _whole_body_category(category: Any) -> Any:
    names = category.get("keypoints") if isinstance(category, dict) else None
    if not isinstance(names, list) or not COCO_17.has_keypoints(names):
        return category
    return {**category, "keypoints": list(COCO_WHOLEBODY_133.keypoint_names)}
