"""Which of a teacher's keypoints is which of the student's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from distilpose.errors import ConfigError
from distilpose.skeletons import COCO_17, KeypointMapping, Skeleton, find_skeleton, map_keypoints, name_key
from distilpose.skeletons.reading import skeleton_from_category


def teacher_skeleton(keypoints: str | Sequence[str], what: str, *, only_labels: bool = True) -> Skeleton:
    """The keypoints of a teacher's heatmaps, in their order.

    Args:
        keypoints: the name of a built-in skeleton, a skeleton's file, or the names themselves.
        what: they belong to, for the error.
        only_labels: heatmaps are found by their names alone, so that nothing is said of what else is left out.

    Raises:
        ConfigError: the skeleton is unknown, or a name is doubled.
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
    """Find each of the student's keypoints among the teacher's: by the explicit mapping, else by name.

    Args:
        student: its keypoints.
        teacher: those of the heatmaps.
        mapping: student's name -> teacher's name, ``""`` for none.
        what: the teacher, for the errors.

    Raises:
        ConfigError: the mapping names an unknown keypoint or changes sides, or no keypoint is taught.
    """
    for name, other in mapping.items():
        sides = {name_key(name).side, name_key(other).side}
        if sides == {"left", "right"}:
            raise ConfigError(f"{what}: mapping leads {name!r} to {other!r}, on the other side of the body")
    try:
        return map_keypoints(teacher, student, mapping)
    except ConfigError as error:
        raise ConfigError(f"{what}: {error}") from error
