"""COCO keypoint json -> person samples, checked once, at the door."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from distilpose.data.categories import assumed_keypoints, keypoint_category_ids, seen_categories
from distilpose.data.fill_in import AREA_SHARE_OF_BOX, NO_BOX, fill_in, is_unlabeled, join_whole_body, log_filled_in
from distilpose.errors import ConfigError, DatasetError
from distilpose.geometry import clip_boxes_xyxy, xywh_to_xyxy
from distilpose.skeletons import COCO_17, KeypointMapping, Skeleton, map_keypoints
from distilpose.types import FloatArray, IntArray

_PROBLEMS_SHOWN = 5


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


def load_person_samples(
    annotations: Path,
    images: Path,
    *,
    skeleton: Skeleton = COCO_17,
    mapping: KeypointMapping | None = None,
    unannotated: Sequence[str] = (),
    zero_means_unknown: bool = False,
    skip_invalid: bool = False,
) -> LoadedSamples:
    """Read the people of a COCO keypoint file.

    Crowds and people without a labeled keypoint are no training samples and are passed over. Labels outside the
    image are masked (visibility 0). ``segmentation`` is not read; a missing ``area`` becomes `AREA_SHARE_OF_BOX` of
    the box, a missing ``bbox`` that of the labeled keypoints (`fill_in`), both of which is logged; labels are
    counted, whatever ``num_keypoints`` says. COCO-WholeBody's five lists are read as one (`join_whole_body`).

    Args:
        annotations: json file with ``images`` and ``annotations``.
        images: folder that the file's ``file_name`` entries lie in.
        skeleton: keypoints and order of the samples, and of the file without ``mapping``.
        mapping: of a file with other keypoints to ``skeleton``; what the file lacks is not annotated.
        unannotated: names of keypoints of ``skeleton`` that this dataset never labels.
        zero_means_unknown: visibility 0 says "nobody looked" (machine-made labels), not "not in the image".
        skip_invalid: leave invalid annotations out and return their problems instead of raising.

    Raises:
        DatasetError: the file is unusable, holds nobody, or, without ``skip_invalid``, has an invalid annotation.
        ConfigError: ``unannotated`` names a keypoint that the skeleton does not have.
    """
    mapping = map_keypoints(skeleton, skeleton) if mapping is None else mapping
    rules = _Rules(mapping, mapping.missing | _names_to_mask(unannotated, skeleton), zero_means_unknown)
    document = join_whole_body(_read_document(annotations, images), mapping.source)
    people = keypoint_category_ids(document, mapping.source, annotations)
    assumed = assumed_keypoints(document, mapping.source)
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
    if problems and not skip_invalid:
        raise DatasetError(_problem_text(annotations, problems, assumed))
    if not samples:
        raise DatasetError(
            f"{annotations}: expected people with labeled keypoints, got none among "
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


def _read_document(file: Path, images: Path) -> dict[str, Any]:
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"{file}: cannot be read as an annotation file ({error}): check the path") from error
    if not text.strip():
        raise DatasetError(f"{file}: expected COCO keypoint json, got an empty file: write or download it again")
    try:
        document: Any = json.loads(text)
    except ValueError as error:
        raise DatasetError(f"{file}: expected COCO keypoint json, got broken json ({error}): write it again") from error
    for key in ("images", "annotations"):
        if not isinstance(document, dict) or not isinstance(document.get(key), list) or not document[key]:
            raise DatasetError(
                f'{file}: expected a COCO keypoint file {{"images": [...], "annotations": [...]}} with at least one '
                f"entry each, got no {key}: check that this is a ground-truth file"
            )
    if not images.is_dir():
        raise DatasetError(f"{file}: its image folder {images} does not exist: check the path")
    return dict(document)


def _read_images(entries: Sequence[Any], folder: Path) -> tuple[dict[Any, _Image], list[str]]:
    """Image table by id. An unusable image becomes a problem of the annotations that need it."""
    table: dict[Any, _Image] = {}
    problems = []
    for position, entry in enumerate(entries):
        if not isinstance(entry, dict) or not isinstance(entry.get("id"), int):
            problems.append(f"image at position {position}: expected an object with a whole-number id, got {entry!r}")
        elif entry["id"] in table:
            problems.append(f"image id {entry['id']}: appears more than once, expected unique ids (the first is kept)")
        else:
            table[entry["id"]] = _read_image_entry(entry, folder)
    return table, problems


def _read_image_entry(entry: Mapping[str, Any], folder: Path) -> _Image:
    name, height, width = entry.get("file_name"), entry.get("height"), entry.get("width")
    path = folder / str(name)
    problem = None
    if not isinstance(name, str) or not name:
        problem = f"image {entry['id']} has no file_name"
    elif not (isinstance(height, int) and isinstance(width, int) and height > 0 and width > 0):
        problem = f"image {entry['id']} needs a positive whole height and width, got {height!r} and {width!r}"
        height, width = 0, 0
    elif not os.path.isfile(path):  # Path.is_file raises for a name that is too long
        problem = f"image {path} does not exist"
    return _Image(path, (height or 0, width or 0), problem)


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
        raise _Invalid(f"annotation {annotation_id}: expected a whole-number category_id, got {category_id!r}")
    return category_id


def _read_person(
    entry: Mapping[str, Any], annotation_id: int, images: Mapping[Any, _Image], rules: _Rules
) -> PersonSample | None:
    """One annotation as a sample; None when it is a crowd or labels no keypoint."""
    if entry.get("iscrowd") or is_unlabeled(entry):
        return None
    image_id = entry.get("image_id")
    image = images.get(image_id) if isinstance(image_id, int) else None
    if not isinstance(image_id, int) or image is None:
        raise _Invalid(f"annotation {annotation_id}: image_id {image_id!r} is not among the images")
    if image.problem is not None:
        raise _Invalid(f"annotation {annotation_id}: {image.problem}")
    where = f"annotation {annotation_id} of {image.path.name}"
    box_xyxy, box_area = _read_box(entry.get("bbox"), image.hw, where)
    xy_img, visibility, annotated = _read_keypoints(entry.get("keypoints"), image.hw, rules, where)
    area = _numbers([entry.get("area", AREA_SHARE_OF_BOX * box_area)], 1, "area", where)[0]
    if area <= 0:
        raise _Invalid(f"{where}: area must be > 0, got {area:g}")
    if not visibility.any():
        return None
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
    if not isinstance(values, list) or len(values) != count:
        got = f"{len(values)} values" if isinstance(values, list) else repr(values)
        raise _Invalid(f"{where}: expected {count} numbers in {what}, got {got}")
    for value in values:
        if not isinstance(value, (int, float)) or not abs(value) <= sys.float_info.max:
            raise _Invalid(f"{where}: expected finite numbers in {what}, got {value!r}")
    return np.array(values, dtype=np.float64)
