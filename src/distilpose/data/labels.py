"""What an annotation file labels, and of which category, checked the same way for training and evaluation."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from distilpose.data.annotations import keypoint_categories, read_annotations, read_categories
from distilpose.data.files import entries_of, finite_numbers, listed, read_flag, shortened
from distilpose.errors import ConfigError, DatasetError
from distilpose.geometry import BOX_GROWTH, box_of_keypoints
from distilpose.skeletons import COCO_17, COCO_WHOLEBODY_133, KeypointMapping, Skeleton, skeleton_from_category
from distilpose.types import FloatArray

logger = logging.getLogger(__name__)

_PEOPLE = ("person", "people", "human")
# An annotation without a segment's area gets this share of its box, as is usual for people (MPII, CrowdPose tools).
AREA_SHARE_OF_BOX = 0.53
_NO_BOX = "no bbox, and none can be made of its keypoints, for which two in different places must be labeled: add bbox"
# Lists of a COCO-WholeBody annotation beside ``keypoints``, in the order of the skeleton, and how many points each has.
_PARTS = {"foot": 6, "face": 68, "lefthand": 21, "righthand": 21}


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


class Label(NamedTuple):
    """One checked annotation, before it is clipped to the image."""

    image_id: int  # of the annotation file
    box_xywh: FloatArray  # (4,) image pixels, width and height > 0
    keypoints: FloatArray  # (K, 3) x, y in image pixels and visibility 0, 1 or 2, of the mapping's target
    source_keypoints: FloatArray  # the same of the file's own keypoints
    area: float  # square pixels, > 0
    crowd: bool  # whether it stands for several people
    where: str  # the annotation in an error


class LabelFile(NamedTuple):
    """An annotation file whose annotations are checked one by one."""

    file: Path  # where it came from
    document: Mapping[str, Any]  # as `read_annotations` gives it
    images: dict[int, Mapping[str, Any]]  # entry of each image by id; only the id itself has been checked
    categories: frozenset[int]  # ids that count; empty where all do
    mapping: KeypointMapping  # from the file's keypoints to the model's
    problems: list[str]  # of images; `entries` adds those of annotations

    def entries(self) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """Name and content of the annotations that count, with a box where their keypoints give one."""
        for position, entry in enumerate(self.document["annotations"]):
            if not isinstance(entry, dict):
                self.problems.append(f"annotation at position {position}: expected an object, got {shortened(entry)}")
                continue
            where, number = f"annotation {shortened(entry.get('id', f'at position {position}'))}", None
            if self.categories and not isinstance(number := entry.get("category_id"), int):
                self.problems.append(f"{where}: expected a whole-number category_id, got {shortened(number)}")
            elif not self.categories or number in self.categories:
                box_xywh = None if "bbox" in entry else box_of_keypoints(entry.get("keypoints"))
                yield where, entry if box_xywh is None else {**entry, "bbox": box_xywh}

    def read(self, entry: Mapping[str, Any], where: str) -> Label:
        """Check one of `entries`; the `DatasetError` of an invalid one names the annotation, not the file."""
        image_id, crowd = entry.get("image_id"), read_flag(entry.get("iscrowd"))
        if crowd is None:
            raise DatasetError(f"{where}: iscrowd must be 0 or 1, got {shortened(entry['iscrowd'])}")
        if not isinstance(image_id, int) or image_id not in self.images:
            raise DatasetError(f"{where}: image_id {shortened(image_id)} is not among the images")
        name = self.images[image_id].get("file_name")
        where += f" of {os.path.basename(name)}" if isinstance(name, str) and name else ""
        if "bbox" not in entry:
            raise DatasetError(f"{where}: {_NO_BOX}")
        box_xywh = _numbers(entry["bbox"], 4, "bbox (x, y, width, height)", where)
        if (box_xywh[2:] <= 0).any():
            raise DatasetError(f"{where}: bbox must have width and height > 0, got {box_xywh.tolist()}")
        share = AREA_SHARE_OF_BOX * float(box_xywh[2] * box_xywh[3])
        area = float(_numbers([entry.get("area", share)], 1, "area", where)[0])
        if area <= 0:
            raise DatasetError(f"{where}: area must be > 0, got {area:g}")
        count = self.mapping.source.num_keypoints
        values = entry.get("keypoints")
        values = [0] * (3 * count) if not values and is_unlabeled(entry) else values
        keypoints = _numbers(values, 3 * count, f"keypoints ({count} times x, y, visibility)", where).reshape(-1, 3)
        if not np.isin(keypoints[:, 2], (0, 1, 2)).all():
            raise DatasetError(f"{where}: visibility must be 0, 1 or 2, got {sorted(set(keypoints[:, 2].tolist()))}")
        return Label(image_id, box_xywh, self.mapping.apply(keypoints), keypoints, area, crowd, where)

    def refuse(self, remedy: str) -> DatasetError:
        """The error about the problems found."""
        count, assumed = len(self.problems), assumed_keypoints(self.document, self.mapping.source)
        lines = [f"{self.file}: {count} invalid entries:" if count > 1 else f"{self.file}: an invalid entry:"]
        lines += listed(self.problems)
        return DatasetError("\n".join([*lines, *([assumed] if assumed else []), remedy]))

    def nobody(self, expected: str) -> DatasetError:
        """The error about a file in which nobody counts."""
        entries, others = self.document["annotations"], ""
        seen = sorted({str(entry.get("category_id")) for entry in entries if isinstance(entry, dict)})
        if self.categories and not set(seen) & {str(number) for number in self.categories}:
            wanted = ", ".join(map(str, sorted(self.categories)))
            others = f" (their category_id: {', '.join(seen[:5])}; the keypoints are of {wanted})"
        return DatasetError(
            f"{self.file}: expected {expected}, got none among {len(entries)} annotations ({len(self.problems)} of "
            f"them invalid){others}: check that this is a COCO keypoint file, not "
            f"one of boxes only. {assumed_keypoints(self.document, self.mapping.source)}".rstrip()
        )

    def log_filled_in(self) -> None:
        """Tell how many labeled annotations had no box or no area, and what was taken instead."""
        people = entries_of(self.document, "annotations")
        people = [entry for entry in people if not entry.get("iscrowd") and not is_unlabeled(entry)]
        made = f"the box of the labeled keypoints, grown by {BOX_GROWTH:g} of its longer side on each side, is taken"
        share = f"{AREA_SHARE_OF_BOX:g} of the box is taken, a person's share; similarity (OKS) depends on it"
        for field, instead in (("bbox", made), ("area", share)):
            if lacking := sum(field not in entry for entry in people):
                logger.warning(
                    "%s: %d of %d annotations have no %s: %s. To set it, write %s into the file.",
                    self.file, lacking, len(people), field, instead, field,
                )  # fmt: skip


def read_label_file(
    file: Path, mapping: KeypointMapping, *, split: str = "train", category: str | None = None
) -> LabelFile:
    """Read an annotation file (`read_annotations`); COCO-WholeBody's five lists of an annotation become one.

    Raises:
        DatasetError: the file is unusable, or has no such category.
    """
    document = join_whole_body(read_annotations(file, split), mapping.source)
    categories = keypoint_category_ids(document, mapping.source, file, category)
    images: dict[int, Mapping[str, Any]] = {}
    problems = []
    for position, entry in enumerate(document["images"]):
        if not isinstance(entry, dict) or not isinstance(entry.get("id"), int):
            problems.append(f"image at position {position} needs a whole-number id, got {shortened(entry)}")
        elif images.setdefault(entry["id"], entry) is not entry:
            problems.append(f"image id {entry['id']}: appears more than once, expected unique ids")
    return LabelFile(file, document, images, categories, mapping, problems)


def image_size_hw(image: Mapping[str, Any]) -> tuple[int, int]:
    """(H, W) in pixels of an image's entry."""
    height, width = image.get("height"), image.get("width")
    if not (isinstance(height, int) and isinstance(width, int) and height > 0 and width > 0):
        raise DatasetError(
            f"image {image['id']} needs a positive whole height and width, got {shortened(height)} and "
            f"{shortened(width)}"
        )
    return height, width


def is_unlabeled(entry: Mapping[str, Any]) -> bool:
    """Whether an annotation labels no keypoint. Labels are counted; ``num_keypoints`` is asked where there is no list.

    A list that is broken is not said to be without labels: those who read it refuse it.
    """
    values = entry.get("keypoints")
    if values is None or values == []:
        return bool(entry.get("num_keypoints", 0) == 0)
    return isinstance(values, list) and len(values) % 3 == 0 and all(value == 0 for value in values[2::3])


def join_whole_body(document: Mapping[str, Any], skeleton: Skeleton) -> Mapping[str, Any]:
    """A COCO-WholeBody file with an annotation's 133 keypoints in one list; any other file as it is.

    Its annotations hold body, feet, face and hands in five fields; a part whose ``*_valid`` is false is not labeled.

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
        valid = read_flag(entry.get(f"{part}_valid", True))
        values = entry[f"{part}_kpts"] if valid else [0] * (3 * count)
        keypoints += [_visibility(v) if index % 3 == 2 else v for index, v in enumerate(values)]
    return {**entry, "keypoints": keypoints}


def _visibility(value: Any) -> Any:
    """A confidence that stands in place of a visibility, as machine-made labels have it, counts as visible."""
    return 2 if isinstance(value, float) and 0 < value < 2 and value != 1 else value


def _whole_body_category(category: Any) -> Any:
    names = category.get("keypoints") if isinstance(category, dict) else None
    if not isinstance(names, list) or not COCO_17.has_keypoints(names):
        return category
    return {**category, "keypoints": list(COCO_WHOLEBODY_133.keypoint_names)}


def _numbers(values: Any, count: int, what: str, where: str) -> FloatArray:
    numbers = finite_numbers(values, count)
    if numbers is None:
        raise DatasetError(f"{where}: expected {count} finite numbers in {what}, got {shortened(values)}")
    return numbers
