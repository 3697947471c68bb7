"""Which annotations of a COCO file count, and what its categories say of their keypoints."""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from distilpose.errors import ConfigError, DatasetError
from distilpose.skeletons import Skeleton, skeleton_from_category

logger = logging.getLogger(__name__)


def keypoint_categories(document: Any) -> list[Mapping[str, Any]]:
    """The categories of a COCO file that have keypoints; tools write an empty list for those that have none."""
    categories = document.get("categories") if isinstance(document, dict) else None
    listed = categories if isinstance(categories, list) else []
    return [entry for entry in listed if isinstance(entry, dict) and entry.get("keypoints") not in (None, [])]


def keypoint_category_ids(document: Mapping[str, Any], skeleton: Skeleton, file: Path) -> frozenset[int]:
    """Ids of the categories with keypoints; empty when the file describes none, so that everything counts.

    Raises:
        DatasetError: they have other keypoints than ``skeleton``, or an id is no whole number.
    """
    people = set()
    for category in keypoint_categories(document):
        if not isinstance(category["keypoints"], list) or not skeleton.has_keypoints(category["keypoints"]):
            raise DatasetError(
                f"{file}: expected the keypoints {list(skeleton.keypoint_names)} in this order, got "
                f"{category['keypoints']} for category {category.get('name')!r}: name the skeleton they belong to "
                "(data.skeleton, or skeleton beside the file in training; --skeleton in evaluate), so that labels are "
                "mapped by name, or reorder them"
            )
        number = category.get("id")
        if not isinstance(number, int):
            raise DatasetError(
                f"{file}: category {category.get('name')!r} needs a whole-number id, got {number!r}: correct it"
            )
        people.add(number)
    return frozenset(people)


def skeleton_of_file(file: Path) -> Skeleton | None:
    """The keypoints that an annotation file says it has; None when it does not say or cannot be read.

    Raises:
        ConfigError: its category is broken.
        DatasetError: it has several categories with different keypoints.
    """
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # those who read the labels say what is wrong
        return None
    try:
        skeletons = [skeleton_from_category(category) for category in keypoint_categories(document)]
    except ConfigError as error:
        raise ConfigError(f"{file}: {error}") from error
    for other in skeletons[1:]:
        if other.keypoint_names != skeletons[0].keypoint_names:
            raise DatasetError(
                f"{file}: its categories have different keypoints ({', '.join(known.name for known in skeletons)}): a "
                "model has one set of keypoints, make a file for each"
            )
        if replace(other, name=skeletons[0].name) != skeletons[0]:
            logger.warning(
                "%s: its categories %s and %s have the same keypoints, but other pairs, limbs, halves or OKS "
                "constants: those of %s are taken",
                file, skeletons[0].name, other.name, skeletons[0].name,
            )  # fmt: skip
    return skeletons[0] if skeletons else None


def seen_categories(entries: Sequence[Any], wanted: Collection[int]) -> str:
    """For an error about a file in which nobody counts: whose annotations these are, if of other categories."""
    seen = sorted({str(entry.get("category_id")) for entry in entries if isinstance(entry, dict)})
    if not wanted or set(seen) & {str(number) for number in wanted}:
        return ""
    return f" (their category_id: {', '.join(seen[:5])}; the keypoints are of {', '.join(map(str, sorted(wanted)))})"


def assumed_keypoints(document: Mapping[str, Any], skeleton: Skeleton) -> str:
    """For an error about a file that names no keypoints: whose are assumed, if annotations have another number."""
    lists = [entry.get("keypoints") for entry in document["annotations"] if isinstance(entry, dict)]
    lengths = {len(values) for values in lists if isinstance(values, list) and values}
    if keypoint_categories(document) or lengths <= {3 * skeleton.num_keypoints}:
        return ""
    return (
        f"The file names no keypoints, so those of {skeleton.name} are assumed: name the skeleton (data.skeleton in "
        "training, --skeleton in evaluate), or write categories with keypoints."
    )
