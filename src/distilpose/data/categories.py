"""Which annotations of a COCO file count, and what its categories say of their keypoints."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from distilpose.data.annotations import keypoint_categories, read_categories
from distilpose.data.files import entries_of, shortened
from distilpose.errors import ConfigError, DatasetError
from distilpose.skeletons import Skeleton, skeleton_from_category

logger = logging.getLogger(__name__)

_PEOPLE = ("person", "people", "human")


def keypoint_category_ids(
    document: Mapping[str, Any], skeleton: Skeleton, file: Path, category: str | None = None
) -> frozenset[int]:
    """Ids of the categories that count: those with the keypoints of a skeleton, or that of one name, in any case.

    In a file that names no keypoints, the category of people counts; everything does where there is none.

    Raises:
        DatasetError: none has these keypoints or this name, or an id is no whole number.
    """
    described = keypoint_categories(document)
    chosen = described
    if category is not None or not described:
        wanted = _PEOPLE if category is None else (category.casefold(),)
        every = entries_of(document, "categories")
        chosen = [each for each in every if str(each.get("name")).casefold() in wanted]
        if category is not None and not chosen:
            names = shortened([each.get("name") for each in every])
            raise DatasetError(f"{file}: expected a category {category!r}, got {names}: name one of these")
    fitting = [each for each in chosen if each not in described or _has_keypoints(each, skeleton)]
    if chosen and not fitting:
        raise DatasetError(
            f"{file}: expected the keypoints {list(skeleton.keypoint_names)} in this order, got "
            f"{shortened(chosen[0]['keypoints'])} for category {shortened(chosen[0].get('name'))}: name the skeleton "
            "they belong to (data.skeleton, or skeleton beside the file in training; --skeleton in evaluate), so that "
            "labels are mapped by name, or reorder them"
        )
    if len(fitting) < len(chosen):
        others = [str(each.get("name")) for each in chosen if each not in fitting]
        logger.warning("%s: %s have other keypoints and are left out", file, shortened(others))
    for each in fitting:
        if not isinstance(each.get("id"), int):
            raise DatasetError(
                f"{file}: category {shortened(each.get('name'))} needs a whole-number id, got "
                f"{shortened(each.get('id'))}: correct it"
            )
    people = frozenset(int(each["id"]) for each in fitting)
    numbers = (entry.get("category_id") for entry in entries_of(document, "annotations"))
    seen = {number for number in numbers if isinstance(number, int)}
    return people if described or category is not None or people & seen else frozenset()


def _has_keypoints(category: Mapping[str, Any], skeleton: Skeleton) -> bool:
    return isinstance(category["keypoints"], list) and skeleton.has_keypoints(category["keypoints"])


def skeleton_of_file(file: Path, category: str | None = None) -> Skeleton | None:
    """The keypoints that an annotation file says it has; None when it does not say or cannot be read.

    Raises:
        ConfigError: its category is broken.
        DatasetError: it has several categories with different keypoints.
    """
    categories = read_categories(file)
    if category is not None:
        categories = [each for each in categories if str(each.get("name")).casefold() == category.casefold()]
    try:
        skeletons = [skeleton_from_category(each) for each in categories]
    except ConfigError as error:
        raise ConfigError(f"{file}: {error}") from error
    for other in skeletons[1:]:
        if other.keypoint_names != skeletons[0].keypoint_names:
            raise DatasetError(
                f"{file}: its categories have different keypoints "
                f"({', '.join(str(each.get('name')) for each in categories)}): a model has one set of keypoints: "
                "choose one by category or skeleton"
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
    lists = [entry.get("keypoints") for entry in entries_of(document, "annotations")]
    lengths = {len(values) for values in lists if isinstance(values, list) and values}
    if keypoint_categories(document) or lengths <= {3 * skeleton.num_keypoints}:
        return ""
    return (
        f"The file names no keypoints, so those of {skeleton.name} are assumed: name the skeleton (data.skeleton in "
        "training, --skeleton in evaluate), or write categories with keypoints."
    )
