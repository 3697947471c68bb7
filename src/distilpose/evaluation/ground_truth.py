"""What an evaluation compares with: a COCO keypoint file, checked once, images without people included."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distilpose.data.annotations import read_annotations
from distilpose.data.categories import assumed_keypoints, keypoint_category_ids, seen_categories
from distilpose.data.files import finite_numbers, read_flag, shortened
from distilpose.data.fill_in import AREA_SHARE_OF_BOX, NO_BOX, fill_in, is_unlabeled, join_whole_body, log_filled_in
from distilpose.errors import DatasetError
from distilpose.geometry import xywh_to_xyxy
from distilpose.inference.result import PERSON_CATEGORY_ID
from distilpose.skeletons import KeypointMapping, Skeleton, map_keypoints
from distilpose.types import FloatArray


@dataclass(frozen=True, eq=False)
class LabeledPerson:
    """One person whose keypoints count.

    Attributes:
        image_id: of the annotation file.
        box_xyxy: (4,) box as annotated, in image pixels.
        xy_img: (K, 2) keypoints in image pixels.
        labeled: (K,) True where the label counts.
        area: of the person in square pixels.
        head_box_xyxy: (4,) box around the head in image pixels; None where the file has no ``head_box``.
        head_length: from the top of the head to the neck in image pixels; None where the file does not label both.
    """

    image_id: int
    box_xyxy: FloatArray
    xy_img: FloatArray
    labeled: NDArray[np.bool_]
    area: float
    head_box_xyxy: FloatArray | None = None
    head_length: float | None = None


@dataclass(frozen=True, eq=False)
class GroundTruth:
    """A COCO keypoint file.

    Attributes:
        file: where it came from.
        images: entry of each image by id; only the id itself has been checked.
        people: everybody with a labeled keypoint who is not part of a crowd, in file order.
        coco: the same in COCO's layout, crowds and people without keypoints included, with the fields that
            COCO's evaluation reads filled in.
        category_ids: of the file's categories with keypoints; empty where it names none.
    """

    file: Path
    images: Mapping[int, Mapping[str, Any]]
    people: tuple[LabeledPerson, ...]
    coco: Mapping[str, Any]
    category_ids: frozenset[int] = frozenset()


def load_ground_truth(file: Path, skeleton: Skeleton, mapping: KeypointMapping | None = None) -> GroundTruth:
    """Read and check the labels to evaluate against.

    Unlike training (`load_person_samples`), an evaluation keeps images without people, crowds and people without
    keypoints, which COCO neither rewards nor punishes, and labels a little outside the image. A missing ``area``
    becomes `AREA_SHARE_OF_BOX` of the box, a missing ``bbox`` comes from the keypoints (`fill_in`), both of which is
    logged; labels are counted, whatever ``num_keypoints`` says, and people with neither labels nor a box are left out.
    ``head_box`` (x, y, width, height) is read where it is given. COCO-WholeBody's five lists are read as one
    (`join_whole_body`).

    Args:
        file: json with ``images`` and ``annotations``.
        skeleton: keypoints and order of the ground truth, and of the file without ``mapping``.
        mapping: of a file with other keypoints to ``skeleton``; what the file lacks is not labeled.

    Raises:
        DatasetError: the file is unusable, an annotation is invalid, or nobody is labeled.
    """
    document: Mapping[str, Any] = read_annotations(file, split="val")
    images = _images_by_id(document["images"], file)
    mapping = map_keypoints(skeleton, skeleton) if mapping is None else mapping
    document = join_whole_body(document, mapping.source)
    categories = keypoint_category_ids(document, mapping.source, file)
    entries = _entries(document["annotations"], categories, file)
    try:
        annotations = [_check_annotation(entry, row + 1, images, mapping, file) for row, entry in enumerate(entries)]
    except DatasetError as error:
        raise DatasetError(f"{error}. {assumed_keypoints(document, mapping.source)}".removesuffix(". ")) from error
    people = [
        _labeled_person(checked, _head_box(entry, file), _head_length(entry, mapping.source))
        for checked, entry in zip(annotations, entries, strict=True)
        if checked["num_keypoints"] and not checked["iscrowd"]
    ]
    if not people:
        raise DatasetError(
            f"{file}: expected at least one person with labeled keypoints, got none among "
            f"{len(document['annotations'])} annotations{seen_categories(document['annotations'], categories)}: check "
            "that this is a keypoint file, not one of boxes only"
        )
    log_filled_in(entries, file)
    category = {"id": PERSON_CATEGORY_ID, "name": "person", "keypoints": list(skeleton.keypoint_names), "skeleton": []}
    coco = {
        "info": {},
        "licenses": [],
        "images": [{"id": image_id} for image_id in images],
        "annotations": annotations,
        "categories": [category],
    }
    return GroundTruth(file, images, tuple(people), coco, categories)


def _images_by_id(entries: list[Any], file: Path) -> dict[int, Mapping[str, Any]]:
    images: dict[int, Mapping[str, Any]] = {}
    for position, entry in enumerate(entries):
        if not isinstance(entry, dict) or not isinstance(entry.get("id"), int):
            raise DatasetError(
                f"{file}: image at position {position} needs a whole-number id, got {shortened(entry)}: add it"
            )
        if entry["id"] in images:
            raise DatasetError(f"{file}: image id {entry['id']} appears more than once: keep one of them")
        images[entry["id"]] = entry
    return images


def _entries(entries: list[Any], categories: Collection[int], file: Path) -> list[Any]:
    """The annotations of some categories, of all if there are none; those without labels and box are left out."""
    chosen = []
    for entry in entries:
        if categories:
            category_id = _field(entry, "category_id", file)
            if not isinstance(category_id, int):
                raise DatasetError(
                    f"{file}: annotation {entry.get('id')}: expected a whole-number category_id, got "
                    f"{shortened(category_id)}: correct it"
                )
            if category_id not in categories:
                continue
        if not (isinstance(entry, dict) and entry.get("bbox") is None and is_unlabeled(entry)):
            chosen.append(entry)
    return chosen


def _field(entry: Any, name: str, file: Path) -> Any:
    if not isinstance(entry, dict) or name not in entry:
        label = f"annotation {entry.get('id')}" if isinstance(entry, dict) else f"annotation {shortened(entry)}"
        raise DatasetError(f"{file}: {label} has no {name}: add it, every annotation needs one")
    return entry[name]


def _check_annotation(
    entry: Any, new_id: int, images: Mapping[int, Any], mapping: KeypointMapping, file: Path
) -> dict[str, Any]:
    """One annotation with exactly the fields COCO's evaluation reads.

    Annotations are numbered anew from 1: COCO's matching takes an id of 0 for "no match".
    """
    where = f"{file}: annotation {_field(entry, 'id', file)}"
    image_id = _field(entry, "image_id", file)
    if not isinstance(image_id, int) or image_id not in images:
        raise DatasetError(f"{where}: image_id {shortened(image_id)} is not among the file's images: correct it")
    entry = fill_in(entry)
    if "bbox" not in entry:
        raise DatasetError(f"{where} has {NO_BOX}")
    box_xywh = finite_numbers(entry["bbox"], 4)
    if box_xywh is None or (box_xywh[2:] < 0).any():
        raise DatasetError(
            f"{where}: expected bbox as finite x, y, width, height, got {shortened(entry['bbox'])}: correct it"
        )
    area = finite_numbers([entry.get("area", AREA_SHARE_OF_BOX * float(box_xywh[2] * box_xywh[3]))], 1)
    if area is None or area[0] < 0:
        raise DatasetError(
            f"{where}: expected a finite area >= 0, got {shortened(entry['area'])}: correct or remove it"
        )
    count = mapping.source.num_keypoints
    nothing = not entry.get("keypoints") and is_unlabeled(entry)
    keypoints = finite_numbers([0] * (3 * count) if nothing else entry.get("keypoints"), 3 * count)
    if keypoints is None or not np.isin(keypoints[2::3], (0, 1, 2)).all():
        raise DatasetError(
            f"{where}: expected {count} times x, y, visibility (0, 1 or 2) as finite numbers in keypoints, got "
            f"{shortened(entry.get('keypoints'))}: correct it"
        )
    crowd = read_flag(entry.get("iscrowd"))
    if crowd is None:
        raise DatasetError(f"{where}: iscrowd must be 0 or 1, got {shortened(entry['iscrowd'])}: correct it")
    keypoints = mapping.apply(keypoints.reshape(count, 3)).ravel()
    return {
        "id": new_id,
        "image_id": image_id,
        "category_id": PERSON_CATEGORY_ID,
        "bbox": box_xywh.tolist(),
        "area": float(area[0]),
        "iscrowd": int(crowd),
        "num_keypoints": int((keypoints[2::3] > 0).sum()),
        "keypoints": keypoints.tolist(),
    }


def _head_box(entry: Mapping[str, Any], file: Path) -> FloatArray | None:
    """(4,) left, top, right, bottom; None without one."""
    if entry.get("head_box") is None:
        return None
    box_xywh = finite_numbers(entry["head_box"], 4)
    if box_xywh is None or (box_xywh[2:] <= 0).any():
        raise DatasetError(
            f"{file}: annotation {entry['id']}: expected head_box as x, y, width, height, both > 0, got "
            f"{shortened(entry['head_box'])}: correct or remove it"
        )
    return np.asarray(xywh_to_xyxy(box_xywh)[0])


def head_ends(skeleton: Skeleton) -> tuple[int, int] | None:
    """Indices of the top of the head and of the neck, MPII's upper one if there is one."""
    top, neck = skeleton.find("head_top"), skeleton.find("upper_neck", "neck")
    return None if top is None or neck is None else (top, neck)


def _head_length(entry: Mapping[str, Any], skeleton: Skeleton) -> float | None:
    """By the file's own keypoints, which the model's may lack."""
    ends = head_ends(skeleton)
    if ends is None:
        return None
    top, neck = (entry["keypoints"][3 * end : 3 * end + 3] for end in ends)
    return math.dist(top[:2], neck[:2]) if top[2] > 0 and neck[2] > 0 else None


def _labeled_person(
    annotation: Mapping[str, Any], head_box_xyxy: FloatArray | None, head_length: float | None
) -> LabeledPerson:
    keypoints = np.array(annotation["keypoints"]).reshape(-1, 3)
    return LabeledPerson(
        image_id=annotation["image_id"],
        box_xyxy=xywh_to_xyxy(annotation["bbox"])[0],
        xy_img=keypoints[:, :2],
        labeled=keypoints[:, 2] > 0,
        area=annotation["area"],
        head_box_xyxy=head_box_xyxy,
        head_length=head_length,
    )
