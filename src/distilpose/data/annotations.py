"""Annotation files as tools write them -> COCO keypoint documents in one form, with warnings about what is odd."""

from __future__ import annotations

import logging
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote

import numpy as np

from distilpose.data.files import entries_of, finite_numbers, read_flag, read_json
from distilpose.data.label_studio import group_points, is_label_studio, tasks_to_coco
from distilpose.data.yolo import read_yolo
from distilpose.errors import DatasetError
from distilpose.types import FloatArray

logger = logging.getLogger(__name__)

_YOLO_FILE = re.compile(r"(?P<file>.*\.ya?ml)(?::(?P<split>\w+))?", re.IGNORECASE)
_UPLOAD_PREFIX = re.compile(r"^[0-9a-f]{8}-")  # before the names of files that were uploaded to Label Studio
_TOLERANCE = 2.0  # pixels that a box may end beyond the image or within its keypoints
_OFTEN = 0.5  # share of boxes from which a habit of the tool is assumed


def read_annotations(file: Path, split: str = "train") -> dict[str, Any]:
    """Read an annotation file into the form of COCO's keypoint files.

    Read are COCO keypoint json as CVAT, Label Studio, Roboflow, COCO Annotator and supervision write it, Label Studio's
    own json, and YOLO-pose (``data.yaml``; ``data.yaml:val`` names the split, ``split`` where it does not). Ids that
    are text become whole numbers, flags become 0 or 1, empty or zero ``bbox`` and ``area`` are missing, ``file_name``
    has forward slashes, a keypoint at (0, 0) is not labeled. Entries of other types stay as they are, for those who
    check them.

    Returns:
        A document with lists ``images`` and ``annotations``, neither empty.

    Raises:
        DatasetError: the file is unusable, or its numbers cannot be pixels: fractions, or corners as ``bbox``.
    """
    document = _read_document(file, split)
    for key in ("images", "annotations"):
        if not isinstance(document.get(key), list) or not document[key]:
            raise DatasetError(
                f'{file}: expected a COCO keypoint file {{"images": [...], "annotations": [...]}} with at least one '
                f"entry each, got no list of {key}, or an empty one: pass the ground truth here, not results"
            )
    normalize_document(document, file)
    check_meaning(document, file)
    return document


def read_categories(file: Path) -> list[Mapping[str, Any]]:
    """The categories with keypoints that an annotation file describes; none where it cannot be read."""
    try:
        yolo = _YOLO_FILE.fullmatch(str(file))
        return keypoint_categories(read_yolo(Path(yolo["file"]), None) if yolo else _read_document(file, ""))
    except DatasetError:  # those who read the labels say what is wrong
        return []


def keypoint_categories(document: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The categories of a COCO file that have keypoints; tools write an empty list for those that have none."""
    return [entry for entry in entries_of(document, "categories") if entry.get("keypoints") not in (None, [])]


def find_images(names: Mapping[int, str], folder: Path) -> dict[int, Path]:
    """The file of each image by id: below the folder where its name says, else wherever its name occurs once.

    A name that occurs nowhere is taken for one of Label Studio: percent-encoded, of an upload with eight hexadecimal
    digits before it. A file that is nowhere has the path where it should be.
    """
    paths = {image_id: folder / name for image_id, name in names.items()}
    lost = [image_id for image_id, path in paths.items() if not os.path.isfile(path)]
    if not lost:
        return paths
    places: dict[str, list[Path]] = {}
    for place, _, found in os.walk(folder):
        for name in found:
            places.setdefault(name, []).append(Path(place, name))
    uploads = {image_id: unquote(path.name) for image_id, path in paths.items()}
    originals = {image_id: _UPLOAD_PREFIX.sub("", name) for image_id, name in uploads.items()}
    times = Counter(originals.values())  # of two images of one name it cannot be told which one a file is
    elsewhere = {
        image_id: places.get(paths[image_id].name)
        or places.get(uploads[image_id])
        or (places.get(originals[image_id], []) if times[originals[image_id]] == 1 else [])
        for image_id in lost
    }
    elsewhere = {image_id: found for image_id, found in elsewhere.items() if len(found) == 1}
    if elsewhere:
        example = next(iter(elsewhere.values()))[0]
        logger.warning(
            "%s: %d images were found in other folders or under other names than in the annotations, such as %s",
            folder,
            len(elsewhere),
            example,
        )
    return paths | {image_id: found[0] for image_id, found in elsewhere.items()}


def _read_document(file: Path, split: str) -> dict[str, Any]:
    yolo = _YOLO_FILE.fullmatch(str(file))
    if yolo:
        return read_yolo(Path(yolo["file"]), yolo["split"] or split)
    content = read_json(file, "a COCO keypoint file")
    if is_label_studio(content):
        return tasks_to_coco(content, file)
    if not isinstance(content, dict):
        raise DatasetError(
            f"{file}: expected a COCO keypoint file, got a {type(content).__name__} with no list of images"
        )
    return group_points(content, file)


def normalize_document(document: dict[str, Any], file: Path) -> None:
    """Give ids, names, sizes, flags, boxes and areas of a COCO document one form, in place."""
    images, annotations, categories = (entries_of(document, key) for key in ("images", "annotations", "categories"))
    for kind, entries in (("image", images), ("category", categories), ("annotation", annotations)):
        numbers = _number_ids([entry.get("id") for entry in entries])
        for entry in entries:
            entry["id"] = _as_number(entry.get("id"), numbers)
        for entry in annotations:
            if f"{kind}_id" in entry and kind != "annotation":
                entry[f"{kind}_id"] = _as_number(entry[f"{kind}_id"], numbers)
        if any(not _is_number(text) for text in numbers):
            logger.warning(
                "%s: %s ids are text or beyond 64 bits: they are numbered in the order of the file", file, kind
            )
    for entry in images:
        if isinstance(entry.get("file_name"), str):
            entry["file_name"] = entry["file_name"].replace("\\", "/")
        for side in entry.keys() & {"width", "height"}:
            entry[side] = _as_number(entry[side], {})
    for entry in annotations:
        _normalize_entry(entry)


def _number_ids(ids: Sequence[Any]) -> dict[str, int]:
    """Whole numbers for ids that are text: the number it holds, else the next free one."""
    texts = [str(value) for value in ids if _is_text(value)]
    numbers = {text: int(text) for text in texts if _is_number(text)}
    taken = (value for value in ids if isinstance(value, int) and not _is_text(value))
    free = count(max([0, *numbers.values(), *taken]) + 1)
    return numbers | {text: next(free) for text in dict.fromkeys(texts) if text not in numbers}


def _is_text(value: Any) -> bool:
    """Whether an id is text; a number that arrays and tables cannot hold counts as such."""
    return isinstance(value, str) or (isinstance(value, int) and abs(value) >= 2**63)


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 19


def _as_number(value: Any, numbers: Mapping[str, int]) -> Any:
    """The number of a text id, of a number as text, or of a float without a fraction."""
    if _is_text(value):
        return numbers.get(str(value), int(value) if _is_number(str(value)) else value)
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _normalize_entry(entry: dict[str, Any]) -> None:
    flag = read_flag(entry.get("iscrowd"))
    if flag is not None:
        entry["iscrowd"] = int(flag)
    bbox = entry.get("bbox")
    numbers = finite_numbers(bbox, 4)
    if bbox in (None, "", []) or (numbers is not None and (numbers[2:] == 0).any()):
        entry.pop("bbox", None)  # it is missing, and made of the keypoints
    if entry.get("area") in (None, 0, "", []):
        entry.pop("area", None)


class _Labels(NamedTuple):
    entry: dict[str, Any]
    points: FloatArray  # (n, 2) labeled keypoints in image pixels
    box: FloatArray | None  # (4,) left, top, width, height
    image_wh: FloatArray | None


def check_meaning(document: Mapping[str, Any], file: Path) -> None:
    """Refuse numbers that cannot be pixels; warn of what tools and people get wrong, once, with counts.

    The document has lists ``images`` and ``annotations`` and went through `normalize_document`.

    Raises:
        DatasetError: keypoints or boxes are fractions of the image, or boxes are corners.
    """
    sizes = {
        image["id"]: finite_numbers([image.get("width"), image.get("height")], 2)
        for image in document["images"]
        if _has_number(image)
    }
    labels = list(_read_labels(document["annotations"], sizes, file))
    points = [each.points for each in labels]
    boxes = [each.box for each in labels if each.box is not None]
    for what, values in (("keypoints", points), ("bbox", boxes)):
        if values and max(float(np.abs(value).max()) for value in values) <= 1:
            raise DatasetError(
                f"{file}: expected {what} in pixels, got numbers from 0 to 1 alone: they seem to be fractions of the "
                "image, multiply them by its width and height"
            )
    corners = sum(map(_is_corners, labels))
    if corners and corners >= _OFTEN * len(boxes):
        raise DatasetError(
            f"{file}: expected bbox as left, top, width, height, got {corners} of {len(boxes)} boxes that leave the "
            "image so and fit as left, top, right, bottom: take left and top off right and bottom"
        )
    tight = sum(map(_is_tight, labels))
    if labels and tight >= _OFTEN * len(labels):
        logger.warning(
            "%s: %d of %d boxes end at the outermost keypoints, as tools compute them; people reach farther. "
            "Take bbox out of the file, then boxes are made with a margin.",
            file, tight, len(labels),
        )  # fmt: skip
    counts = Counter(
        (each.entry.get("image_id"), each.points.tobytes()) for each in labels if _has_number(each.entry, "image_id")
    )
    if doubled := sum(counts.values()) - len(counts):
        logger.warning("%s: %d annotations have the keypoints of another one in the same image", file, doubled)


def _has_number(entry: Any, field: str = "id") -> bool:
    return isinstance(entry, dict) and isinstance(entry.get(field), int)


def _read_labels(entries: Iterable[Any], sizes: Mapping[Any, FloatArray | None], file: Path) -> Iterator[_Labels]:
    """The labeled annotations that can be read. Tools flag (0, 0) as visible: there it becomes unlabeled, in place."""
    origins = 0
    for entry in entries:
        values = entry.get("keypoints") if isinstance(entry, dict) else None
        numbers = finite_numbers(values, len(values)) if isinstance(values, list) and len(values) % 3 == 0 else None
        if numbers is None:
            continue
        points = numbers.reshape(-1, 3)
        labeled = points[:, 2] > 0
        for row in np.flatnonzero(labeled & ~points[:, :2].any(axis=1)):
            entry["keypoints"][3 * row + 2] = 0
            labeled[row] = False
            origins += 1
        if labeled.any():
            image_id = entry.get("image_id")
            size = sizes.get(image_id) if isinstance(image_id, int) else None
            yield _Labels(entry, points[labeled, :2], finite_numbers(entry.get("bbox"), 4), size)
    if origins:
        logger.warning("%s: %d keypoints at (0, 0) are flagged as labeled: they are read as unlabeled", file, origins)


def _is_corners(labels: _Labels) -> bool:
    """Whether a box makes no sense as left, top, width, height, and sense as corners."""
    if labels.box is None or labels.image_wh is None:
        return False
    low, high = labels.box[:2], labels.box[2:]
    outside = (low + high > labels.image_wh + _TOLERANCE).any()
    fits = (high > low).all() and (high <= labels.image_wh + _TOLERANCE).all()
    inside = (labels.points >= low - _TOLERANCE).all() and (labels.points <= high + _TOLERANCE).all()
    return bool(outside and fits and inside)


def _is_tight(labels: _Labels) -> bool:
    if labels.box is None or len(labels.points) < 3:
        return False
    low, high = labels.points.min(axis=0), labels.points.max(axis=0)
    return bool(np.abs(np.concatenate([low, high - low]) - labels.box).max() <= 1)
