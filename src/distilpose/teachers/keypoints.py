"""Which of a teacher's keypoints is which of the student's."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

from distilpose.errors import ConfigError
from distilpose.skeletons import COCO_17, KeypointMapping, Skeleton, find_skeleton, map_keypoints, name_key
from distilpose.skeletons.reading import skeleton_from_category

logger = logging.getLogger(__name__)


def teacher_skeleton(keypoints: str | Sequence[str], what: str, *, only_labels: bool = True) -> Skeleton:
    """The keypoints of a teacher's heatmaps: a built-in skeleton, a skeleton's file, or the names in their order.

    Heatmaps are found by their names alone, so with ``only_labels`` nothing is said of what else is left out.

    Raises:
        ConfigError: the skeleton is unknown, or a name is doubled; the text begins with ``what``.
    """
    try:
        if isinstance(keypoints, str):
            return find_skeleton(keypoints, only_labels=only_labels)
        return skeleton_from_category({"name": "teacher", "keypoints": list(keypoints)}, only_labels=only_labels)
    except ConfigError as error:
        raise ConfigError(f"{what}: keypoints: {error}") from error


def unnamed_skeleton(count: int) -> Skeleton:
    """The keypoints of a network that does not name them: COCO's for 17."""
    if count == COCO_17.num_keypoints:
        return COCO_17
    names = tuple(f"keypoint_{index}" for index in range(count))
    return Skeleton("unnamed", names, (), (), (), (), (1.0,) * count)


def match_keypoints(student: Skeleton, teacher: Skeleton, mapping: Mapping[str, str], what: str) -> KeypointMapping:
    """Find each of the student's keypoints among the teacher's, and warn of those that it lacks.

    Args:
        student: its keypoints.
        teacher: those of the heatmaps.
        mapping: student's name -> teacher's name, ``""`` for none; the others are found by name.
        what: the teacher, for the messages.

    Raises:
        ConfigError: the mapping names an unknown keypoint or changes sides, or no keypoint is taught.
    """
    for name, other in mapping.items():
        if {name_key(name).side, name_key(other).side} == {"left", "right"}:
            raise ConfigError(f"{what}: mapping leads {name!r} to {other!r}, on the other side of the body")
    try:
        found = map_keypoints(teacher, student, mapping)
    except ConfigError as error:
        raise ConfigError(f"{what}: {error}") from error
    if found.missing_names:
        logger.warning(
            "%s does not know %s: the student learns them from labels alone (or name the teacher's word for them in "
            "'mapping')", what, ", ".join(found.missing_names),
        )  # fmt: skip
    return found
