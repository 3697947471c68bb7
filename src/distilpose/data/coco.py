"""COCO keypoint json -> person samples, checked once, at the door."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from distilpose.data.annotations import find_images, read_annotations
from distilpose.data.categories import assumed_keypoints, keypoint_category_ids, seen_categories
from distilpose.data.check import find_bad_images
from distilpose.data.files import finite_numbers, read_flag, shortened
from distilpose.data.fill_in import AREA_SHARE_OF_BOX, NO_BOX, fill_in, is_unlabeled, join_whole_body, log_filled_in
from distilpose.errors import ConfigError, DatasetError
from distilpose.geometry import clip_boxes_xyxy, xywh_to_xyxy
from distilpose.skeletons import COCO_17, KeypointMapping, Skeleton, map_keypoints
from distilpose.types import FloatArray, IntArray

_PROBLEMS_SHOWN = 20


@dataclass(frozen=True, eq=False)
class PersonSample:
    """One labeled person of one image.

    Attributes:
        image_path: existing file.
        image_id: of the annotation file.
        annotation_id: of the annotation file.
        image_hw: (H, W) of the image in pixels, as the annotation file says.
        box_xyxy: (4,) person box in image pixels, clipped by `clip_boxes_xyxy`.
        xy_img: (K, 2) keypoints in image pixels, (0, 0) where ``visibility`` is 0.
        visibility: (K,) 0 no label to learn from, 1 labeled but hidden, 2 labeled and visible.
        annotated: (K,) False where nothing is known: the dataset does not label this keypoint, so neither
            a label loss nor a distillation loss may read its 0 as "not in the image".
        area: of the person in square pixels, > 0.
    """

    image_path: Path
    image_id: int
    annotation_id: int
    image_hw: tuple[int, int]
    box_xyxy: FloatArray
    xy_img: FloatArray
    visibility: IntArray
    annotated: NDArray[np.bool_]
    area: float


class LoadedSamples(NamedTuple):
    """What an annotation file gave.

    Attributes:
        samples: people to train on, in file order, at least one.
        problems: one line per annotation left out with ``skip_invalid``; the caller reports them.
    """

    samples: tuple[PersonSample, ...]
    problems: tuple[str, ...]


class _Invalid(Exception):  # noqa: N818 - carries one problem to the collecting loop, never leaves this module
    pass


class _Image(NamedTuple):
    path: Path
    hw: tuple[int, int]
    problem: str | None


class _Rules(NamedTuple):
    mapping: KeypointMapping  # from the file's keypoints to the model's
    never_annotated: NDArray[np.bool_]
    zero_means_unknown: bool
    keep_unlabeled: bool


def load_person_samples(
    annotations: Path,
    images: Path,
    *,
    skeleton: Skeleton = COCO_17,
    mapping: KeypointMapping | None = None,
    category: str | None = None,
    unannotated: Sequence[str] = (),
    zero_means_unknown: bool = False,
    keep_unlabeled: bool = False,
    check_images: bool = False,
    skip_invalid: bool = False,
) -> LoadedSamples:
    """Read the people of an annotation file, see `read_annotations`.

    Crowds are no training samples and are passed over. Labels outside the image are masked (visibility 0).
    ``segmentation`` is not read; a missing ``area`` becomes `AREA_SHARE_OF_BOX` of the box, a missing ``bbox`` that of
    the labeled keypoints (`fill_in`), both of which is logged; labels are counted, whatever ``num_keypoints`` says.
    COCO-WholeBody's five lists are read as one (`join_whole_body`).

    Args:
        annotations: COCO keypoint json, Label Studio's json, or ``data.yaml`` of a YOLO-pose data set.
        images: folder that the file's ``file_name`` entries lie in, at any depth; YOLO's file names its own.
        skeleton: keypoints and order of the samples, and of the file without ``mapping``.
        mapping: of a file with other keypoints to ``skeleton``; what the file lacks is not annotated.
        category: name of the category to read, of a file with several.
        unannotated: names of keypoints of ``skeleton`` that this dataset never labels.
        zero_means_unknown: visibility 0 says "nobody looked" (machine-made labels), not "not in the image".
        keep_unlabeled: people without a labeled keypoint are samples too, for a teacher to label: visibility 0 and
            annotated False throughout. Without it they are passed over.
        check_images: decode every image now, so that all broken ones are found before training.
        skip_invalid: leave invalid annotations and images out and return their problems instead of raising.

    Raises:
        DatasetError: the file is unusable, holds nobody, or, without ``skip_invalid``, has an invalid annotation.
        ConfigError: ``unannotated`` names a keypoint that the skeleton does not have.
    """
    mapping = map_keypoints(skeleton, skeleton) if mapping is None else mapping
    never_annotated = mapping.missing | _names_to_mask(unannotated, skeleton)
    rules = _Rules(mapping, never_annotated, zero_means_unknown, keep_unlabeled)
    document = join_whole_body(read_annotations(annotations), mapping.source)
    if not images.is_dir():
        raise DatasetError(f"{annotations}: its image folder {images} does not exist: check the path")
    people = keypoint_category_ids(document, mapping.source, annotations, category)
    image_table, problems = _read_images(document["images"], images)
    samples: list[PersonSample] = []
    seen: set[int] = set()
    for position, entry in enumerate(document["annotations"]):
        try:
            annotation_id = _annotation_id(entry, position, seen)
            if people and _category_id(entry, annotation_id) not in people:
                continue
            sample = _read_person(fill_in(entry), annotation_id, image_table, rules)
        except _Invalid as problem:
            problems.append(str(problem))
            continue
        if sample is not None:
            samples.append(sample)
    if check_images:
        bad = find_bad_images({sample.image_path: sample.image_hw for sample in samples})
        problems += bad.values()
        samples = [sample for sample in samples if sample.image_path not in bad]
    assumed = assumed_keypoints(document, mapping.source)
    if problems and not skip_invalid:
        raise DatasetError(_problem_text(annotations, problems, assumed))
    if not samples:
        raise DatasetError(
            f"{annotations}: expected people with {'boxes' if keep_unlabeled else 'labeled keypoints'}, got none among "
            f"{len(document['annotations'])} annotations ({len(problems)} of them invalid)"
            f"{seen_categories(document['annotations'], people)}: check that this is a COCO keypoint file. {assumed}"
        )
    log_filled_in(document["annotations"], annotations)
    return LoadedSamples(tuple(samples), tuple(f"{annotations}: {problem}" for problem in problems))


def _problem_text(file: Path, problems: Sequence[str], assumed: str) -> str:
    lines = [f"{file}: {len(problems)} invalid entries:" if len(problems) > 1 else f"{file}: an invalid entry:"]
    lines += [f"  {problem}" for problem in problems[:_PROBLEMS_SHOWN]]
    if len(problems) > _PROBLEMS_SHOWN:
        lines.append(f"  ... and {len(problems) - _PROBLEMS_SHOWN} more")
    lines += [assumed] if assumed else []
    lines.append("Correct them, or pass --skip-invalid to report them and go on without them.")
    return "\n".join(lines)


def _names_to_mask(names: Sequence[str], skeleton: Skeleton) -> NDArray[np.bool_]:
    unknown = [name for name in names if name not in skeleton.keypoint_names]
    if unknown:
        raise ConfigError(f"unannotated must name keypoints of {list(skeleton.keypoint_names)}, got {unknown}")
    return np.isin(skeleton.keypoint_names, list(names))


def _read_images(entries: Sequence[Any], folder: Path) -> tuple[dict[Any, _Image], list[str]]:
    """Image table by id. An unusable image becomes a problem of the annotations that need it."""
    listed: dict[int, Mapping[str, Any]] = {}
    problems = []
    for position, entry in enumerate(entries):
        if not isinstance(entry, dict) or not isinstance(entry.get("id"), int):
            problems.append(f"image at position {position}: expected an object with an id, got {shortened(entry)}")
        elif listed.setdefault(entry["id"], entry) is not entry:
            problems.append(f"image id {entry['id']}: appears more than once, expected unique ids (the first is kept)")
    names = {image_id: entry.get("file_name") for image_id, entry in listed.items()}
    paths = find_images({key: name for key, name in names.items() if isinstance(name, str) and name}, folder)
    return {image_id: _read_image_entry(entry, paths.get(image_id)) for image_id, entry in listed.items()}, problems


def _read_image_entry(entry: Mapping[str, Any], path: Path | None) -> _Image:
    height, width = entry.get("height"), entry.get("width")
    problem = None
    if path is None:
        problem = f"image {entry['id']} has no file_name"
    elif not (isinstance(height, int) and isinstance(width, int) and height > 0 and width > 0):
        problem = (
            f"image {entry['id']} needs a positive whole height and width, got {shortened(height)} and "
            f"{shortened(width)}"
        )
        height, width = 0, 0
    elif not os.path.isfile(path):  # Path.is_file raises for a name that is too long
        problem = f"image {path} does not exist"
    return _Image(path or Path(), (height or 0, width or 0), problem)


def _annotation_id(entry: Any, position: int, seen: set[int]) -> int:
    """The id of an annotation, noted in ``seen``."""
    if not isinstance(entry, dict) or not isinstance(entry.get("id"), int):
        raise _Invalid(f"annotation at position {position}: expected an object with a whole-number id")
    annotation_id: int = entry["id"]
    if annotation_id in seen:
        raise _Invalid(f"annotation {annotation_id}: its id appears more than once, expected unique ids")
    seen.add(annotation_id)
    return annotation_id


def _category_id(entry: Mapping[str, Any], annotation_id: int) -> int | None:
    category_id = entry.get("category_id")
    if not isinstance(category_id, int | None):
        raise _Invalid(f"annotation {annotation_id}: expected a whole-number category_id, got {shortened(category_id)}")
    return category_id


def _read_person(
    entry: Mapping[str, Any], annotation_id: int, images: Mapping[Any, _Image], rules: _Rules
) -> PersonSample | None:
    """One annotation as a sample; None when it is a crowd or labels no keypoint."""
    unlabeled = is_unlabeled(entry)
    crowd = read_flag(entry.get("iscrowd"))
    if crowd is None:
        raise _Invalid(f"annotation {annotation_id}: iscrowd must be 0 or 1, got {shortened(entry['iscrowd'])}")
    if crowd or (unlabeled and not rules.keep_unlabeled):
        return None
    image_id = entry.get("image_id")
    image = images.get(image_id) if isinstance(image_id, int) else None
    if not isinstance(image_id, int) or image is None:
        raise _Invalid(f"annotation {annotation_id}: image_id {shortened(image_id)} is not among the images")
    if image.problem is not None:
        raise _Invalid(f"annotation {annotation_id}: {image.problem}")
    where = f"annotation {annotation_id} of {image.path.name}"
    box_xyxy, box_area = _read_box(entry.get("bbox"), image.hw, where)
    values = [0] * (3 * rules.mapping.source.num_keypoints) if unlabeled else entry.get("keypoints")
    xy_img, visibility, annotated = _read_keypoints(values, image.hw, rules, where)
    area = _numbers([entry.get("area", AREA_SHARE_OF_BOX * box_area)], 1, "area", where)[0]
    if area <= 0:
        raise _Invalid(f"{where}: area must be > 0, got {area:g}")
    if not visibility.any():
        if not rules.keep_unlabeled:
            return None
        annotated = np.zeros_like(annotated)
    return PersonSample(
        image.path, image_id, annotation_id, image.hw, box_xyxy, xy_img, visibility, annotated, float(area)
    )


def _read_box(values: Any, image_hw: tuple[int, int], where: str) -> tuple[FloatArray, float]:
    """(4,) clipped box and the area of the unclipped one."""
    if values is None:
        raise _Invalid(f"{where}: {NO_BOX}")
    box_xywh = _numbers(values, 4, "bbox (x, y, width, height)", where)
    if (box_xywh[2:] <= 0).any():
        raise _Invalid(f"{where}: bbox must have width and height > 0, got {box_xywh.tolist()}")
    box_xyxy = xywh_to_xyxy(box_xywh)
    clipped = clip_boxes_xyxy(box_xyxy, image_hw)[0]
    # Clipping shifts a box that ends left of or above the image into it, so the raw corner is looked at as well.
    if (box_xyxy[0, 2:] <= 0).any() or (clipped[2:] <= clipped[:2]).any():
        raise _Invalid(
            f"{where}: bbox {box_xywh.tolist()} (x, y, width, height) leaves no area inside the image of "
            f"{image_hw[1]} x {image_hw[0]} pixels"
        )
    return clipped, float(box_xywh[2] * box_xywh[3])


def _read_keypoints(
    values: Any, image_hw: tuple[int, int], rules: _Rules, where: str
) -> tuple[FloatArray, IntArray, NDArray[np.bool_]]:
    """(K, 2) points, (K,) visibility and (K,) annotated, with labels outside the image and unlabeled names masked."""
    count = rules.mapping.source.num_keypoints
    numbers = _numbers(values, 3 * count, f"keypoints ({count} times x, y, visibility)", where).reshape(count, 3)
    if not np.isin(numbers[:, 2], (0, 1, 2)).all():
        raise _Invalid(f"{where}: visibility must be 0, 1 or 2, got {sorted(set(numbers[:, 2].tolist()))}")
    numbers = rules.mapping.apply(numbers)
    xy_img, visibility = numbers[:, :2].copy(), numbers[:, 2].astype(np.int64)
    annotated = ~rules.never_annotated
    if rules.zero_means_unknown:
        annotated &= visibility > 0
    inside = ((xy_img >= 0) & (xy_img < image_hw[::-1])).all(axis=1)
    visibility[~inside | ~annotated] = 0
    xy_img[visibility == 0] = 0
    return xy_img, visibility, annotated


def _numbers(values: Any, count: int, what: str, where: str) -> FloatArray:
    """(count,) finite numbers."""
    numbers = finite_numbers(values, count)
    if numbers is None:
        raise _Invalid(f"{where}: expected {count} finite numbers in {what}, got {shortened(values)}")
    return numbers
