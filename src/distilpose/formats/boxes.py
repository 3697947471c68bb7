"""A file of person boxes, matched to the image files it speaks of.

Two layouts are read:

- a list of rows, COCO's detection results: ``bbox`` (x, y, width, height) or ``box_xyxy``; ``image_id``, ``image``
  (file name or path) or both; ``box_score`` or ``score``, else 1; ``category_id``, else a person. ``predictions.json``
  is such a file. Rows of a video have a ``frame``, its number from 0;
- a COCO annotation file: labeled people are the boxes, clipped as in evaluation, crowds left out. One without
  ``bbox`` has the box of its labeled keypoints (`box_of_keypoints`), as in training and evaluation.
"""

from __future__ import annotations

import json
import logging
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np

from distilpose.errors import InputError
from distilpose.geometry import box_of_keypoints, check_boxes_xyxy, clip_boxes_xyxy
from distilpose.types import FloatArray

logger = logging.getLogger(__name__)

_COCO_PERSON = frozenset({1})


class PersonBoxes(NamedTuple):
    """The people of one image, from a file or a detector.

    Attributes:
        boxes_xyxy: (N, 4) image pixels, N >= 0.
        box_score: (N,) confidence of the detector.
    """

    boxes_xyxy: FloatArray
    box_score: FloatArray


class MatchedBoxes(NamedTuple):
    """A boxes file seen from the images.

    Attributes:
        people: of every image; an image that the file does not mention has nobody.
        image_ids: of every image, as `match_image_ids` defines them.
        frames: of the videos among the images, by the number of the frame; others have nobody.
    """

    people: dict[Path, PersonBoxes]
    image_ids: dict[Path, int | None]
    frames: dict[Path, dict[int, PersonBoxes]]


class _Row(NamedTuple):
    box_xyxy: FloatArray
    score: float
    image_id: int | None
    image: str | None
    frame: int | None


# Stands for an annotation with neither a box nor a label, so that rows keep their numbers.
_NOBODY = _Row(np.array([0.0, 0.0, 1.0, 1.0]), 1.0, None, None, None)


class _CocoImages(NamedTuple):
    """The ``images`` and ``categories`` of an annotation file."""

    file_names: dict[int, str]
    sizes_hw: dict[int, tuple[Any, Any]]
    person_ids: frozenset[Any] | None  # None: no categories given, every annotation is a person


def match_boxes(boxes: Path, paths: Sequence[Path], annotations: Path | None = None) -> MatchedBoxes:
    """Read a boxes file and give each image its people.

    A row belongs to the image that ``annotations`` names for its ``image_id``; without ``annotations``, to the one
    its ``image`` field names; without that, to the one whose stem is the number ``image_id``
    (``000000000785.jpg``: 785). A name matches a path that ends with it. Rows of other images are left unused.

    Args:
        boxes: the boxes file. An annotation file is its own ``annotations``.
        paths: image files, each once.
        annotations: COCO file whose ``images`` hold ``id`` and ``file_name``.

    Raises:
        InputError: a file is unreadable or broken, a row is invalid, a name fits several images, or no row
            matches any of the images.
    """
    document = _read_json(boxes)
    coco = None if annotations is None else _read_coco_images(_read_json(annotations), annotations)
    if isinstance(document, dict):
        own = _read_coco_images(document, boxes)
        rows = _labeled_people(document, own, boxes)
        coco = coco or own
    else:
        rows = _detected_people(document, _COCO_PERSON if coco is None else coco.person_ids, boxes)
    files = _Files(paths)
    grouped: dict[Path, list[_Row]] = defaultdict(list)
    for row in rows:
        path = _find(row, files, None if coco is None else coco.file_names)
        if path is not None:
            grouped[path].append(row)
    if not grouped:
        raise InputError(_no_match_text(boxes, rows, paths))
    named = [(path, row.image_id) for path, found in grouped.items() for row in found if row.image is not None]
    image_ids = _one_to_one(files, named) if coco is None else _ids_by_name(files, coco)
    still = {path: [row for row in grouped[path] if row.frame is None] for path in paths}
    return MatchedBoxes(
        {path: _person_boxes(rows) for path, rows in still.items()},
        image_ids,
        {path: _by_frame(grouped[path]) for path in paths if len(grouped[path]) > len(still[path])},
    )


def match_image_ids(paths: Sequence[Path], annotations: Path | None = None) -> dict[Path, int | None]:
    """Find the id of each image.

    Args:
        paths: image files, each once.
        annotations: COCO file whose ``images`` hold ``id`` and ``file_name``. Without it a numeric stem is the id.

    Returns:
        Id by path; None for an image without an id of its own: not named in ``annotations``, a stem that is not a
        number, or an id that another image has as well.

    Raises:
        InputError: ``annotations`` is unreadable or broken, or one of its names fits several images.
    """
    files = _Files(paths)
    if annotations is None:
        return _one_to_one(files, ())
    return _ids_by_name(files, _read_coco_images(_read_json(annotations), annotations))


class _Files:
    """Image files, found by name or number."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = paths
        self._parts = {path: path.resolve().parts for path in paths}
        self._by_name: dict[str, list[Path]] = defaultdict(list)
        self._by_number: dict[int, list[Path]] = defaultdict(list)
        for path in paths:
            self._by_name[path.name].append(path)
            if (number := _stem_number(path)) is not None:
                self._by_number[number].append(path)

    def named(self, name: str) -> Path | None:
        """The file whose path ends with ``name``, or is written exactly so."""
        parts = tuple(part for part in PurePosixPath(name.replace("\\", "/")).parts if part not in (".", ".."))
        candidates = self._by_name.get(parts[-1], []) if parts else []
        fitting = [path for path in candidates if self._parts[path][-len(parts) :] == parts]
        exact = [path for path in candidates if path.as_posix() == name]
        return _only(exact or fitting, f"the image name {name!r}", "give it more of the path")

    def numbered(self, number: int) -> Path | None:
        """The file whose stem is ``number``."""
        found = self._by_number.get(number, [])
        return _only(found, f"image_id {number}", "pass the COCO file with --annotations, or write an image field")


def _only(found: Sequence[Path], what: str, remedy: str) -> Path | None:
    if len(found) > 1:
        raise InputError(f"{what} fits {len(found)} images, {found[0]} and {found[1]}: {remedy}")
    return found[0] if found else None


def _stem_number(path: Path) -> int | None:
    return int(path.stem) if path.stem.isascii() and path.stem.isdecimal() else None


def _find(row: _Row, files: _Files, file_names: Mapping[int, str] | None) -> Path | None:
    if file_names is not None and row.image_id is not None:
        name = file_names.get(row.image_id)
        return None if name is None else files.named(name)
    if row.image is not None:
        return files.named(row.image)
    assert row.image_id is not None
    return files.numbered(row.image_id)


def _ids_by_name(files: _Files, coco: _CocoImages) -> dict[Path, int | None]:
    found: dict[Path, int | None] = dict.fromkeys(files.paths)
    for image_id, name in coco.file_names.items():
        path = files.named(name)
        if path is None:
            continue
        if found[path] is not None:
            raise InputError(f"{path} fits two images of the annotation file, ids {found[path]} and {image_id}")
        found[path] = image_id
    return found


def _one_to_one(files: _Files, named: Iterable[tuple[Path, int | None]]) -> dict[Path, int | None]:
    """Ids from ``image`` fields, else from stems; one that two images would share is dropped."""
    ids = {path: _stem_number(path) for path in files.paths}
    ids.update((path, image_id) for path, image_id in named if image_id is not None)
    users = Counter(ids.values())
    return {path: image_id if users[image_id] == 1 else None for path, image_id in ids.items()}


def _by_frame(rows: Sequence[_Row]) -> dict[int, PersonBoxes]:
    frames: dict[int, list[_Row]] = defaultdict(list)
    for row in rows:
        if row.frame is not None:
            frames[row.frame].append(row)
    return {frame: _person_boxes(found) for frame, found in frames.items()}


def _person_boxes(rows: Sequence[_Row]) -> PersonBoxes:
    boxes = np.array([row.box_xyxy for row in rows], dtype=np.float64).reshape(-1, 4)
    return PersonBoxes(boxes, np.array([row.score for row in rows], dtype=np.float64))


def _no_match_text(boxes: Path, rows: Sequence[_Row], paths: Sequence[Path]) -> str:
    if not rows:
        return f"{boxes}: expected person boxes, got none"
    first = rows[0].image if rows[0].image is not None else f"image_id {rows[0].image_id}"
    return (
        f"{boxes}: none of its {len(rows)} boxes belongs to any of the {len(paths)} images (the first box is of "
        f"{first}, the first image is {paths[0]}): pass the COCO file that names the images with --annotations, or "
        "give each row an image field"
    )


def _read_json(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise InputError(f"{file}: expected json, got broken or empty content ({error})") from error


def _read_coco_images(document: Any, file: Path) -> _CocoImages:
    images = document.get("images") if isinstance(document, dict) else None
    if not isinstance(images, list):
        raise InputError(f'{file}: expected a COCO annotation file {{"images": [...], ...}}, got no list of images')
    try:
        file_names = {int(image["id"]): str(image["file_name"]) for image in images}
        sizes_hw = {int(image["id"]): (image.get("height"), image.get("width")) for image in images}
        categories = document.get("categories") or []
        person_ids = frozenset(
            category["id"] for category in categories if category.get("name") == "person" or category.get("keypoints")
        )
    except (KeyError, TypeError, ValueError, OverflowError, AttributeError) as error:
        raise InputError(f"{file}: each image needs an id and a file_name, each category an id ({error!r})") from error
    return _CocoImages(file_names, sizes_hw, person_ids if categories else None)


def _labeled_people(document: Mapping[str, Any], coco: _CocoImages, file: Path) -> list[_Row]:
    """The annotations as rows, clipped as `clip_boxes_xyxy` does."""
    entries = document.get("annotations")
    if isinstance(entries, list):
        entries = [_with_box(entry) for entry in entries]
    rows = _read_rows(entries, file)
    assert isinstance(entries, list)
    people = []
    for position, (entry, row) in enumerate(zip(entries, rows, strict=True)):
        if row is _NOBODY or entry.get("iscrowd") or not _is_person(entry, coco.person_ids):
            continue
        size_hw = coco.sizes_hw.get(row.image_id) if row.image_id is not None else None
        if size_hw is None or not all(isinstance(side, int) and side > 0 for side in size_hw):
            raise InputError(f"{file}: annotation {position}: its image {row.image_id} needs an entry with its size")
        clipped = clip_boxes_xyxy(row.box_xyxy, size_hw)[0]
        if (row.box_xyxy[2:] <= 0).any() or (clipped[2:] <= clipped[:2]).any():
            logger.warning("%s: annotation %d has no area inside its image and is left out", file, position)
            continue
        people.append(row._replace(box_xyxy=clipped))
    return people


def _with_box(entry: Any) -> Any:
    """An annotation without a box with that of its keypoints, if they make one; nobody if it labels nothing."""
    if not isinstance(entry, dict) or entry.get("bbox") is not None or "box_xyxy" in entry:
        return entry
    keypoints = entry.get("keypoints")
    if "keypoints" in entry and (not keypoints or (isinstance(keypoints, list) and not any(keypoints[2::3]))):
        return _NOBODY
    box_xywh = box_of_keypoints(keypoints)
    return entry if box_xywh is None else {**entry, "bbox": box_xywh}


def _detected_people(document: Any, person_ids: frozenset[Any] | None, file: Path) -> list[_Row]:
    rows = _read_rows(document, file)
    return [row for entry, row in zip(document, rows, strict=True) if _is_person(entry, person_ids)]


def _is_person(entry: Mapping[str, Any], person_ids: frozenset[Any] | None) -> bool:
    return person_ids is None or "category_id" not in entry or entry["category_id"] in person_ids


def _read_rows(entries: Any, file: Path) -> list[_Row]:
    """Every entry as a row, so that the n-th error speaks of the n-th entry."""
    if not isinstance(entries, list):
        raise InputError(f"{file}: expected a list of boxes or a COCO annotation file, got {type(entries).__name__}")
    rows = []
    for position, entry in enumerate(entries):
        try:
            rows.append(_NOBODY if entry is _NOBODY else _read_row(entry))
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise InputError(
                f"{file}: row {position}: expected bbox [x, y, width, height] or box_xyxy, an image_id or image, and "
                f"a score if any, got {_shortened(entry)}"
            ) from error
    try:
        check_boxes_xyxy([row.box_xyxy for row in rows])
    except InputError as error:
        raise InputError(f"{file}: {error}") from error
    return rows


def _read_row(entry: Any) -> _Row:
    x1, y1, x2, y2 = entry["box_xyxy"] if "box_xyxy" in entry else _xywh(*entry["bbox"])
    box_xyxy = np.array([x1, y1, x2, y2], dtype=np.float64)
    score = float(entry.get("box_score", entry.get("score", 1.0)))
    image_id, image, frame = entry.get("image_id"), entry.get("image"), entry.get("frame")
    if not np.isfinite(score) or not isinstance(image_id, int | None) or not isinstance(image, str | None):
        raise ValueError(score, image_id, image)
    if image_id is None and image is None:
        raise KeyError("image_id")
    if not isinstance(frame, int | None) or not isinstance(entry.get("category_id"), int | str | None):
        raise ValueError(frame, entry.get("category_id"))
    return _Row(box_xyxy, score, image_id, image, frame)


def _xywh(x: float, y: float, width: float, height: float) -> tuple[float, float, float, float]:
    return x, y, x + width, y + height


def _shortened(entry: Any) -> str:
    text = repr(entry)
    return text if len(text) < 200 else f"{text[:200]}..."
