"""Files of person boxes as rows: COCO results and annotations, CSV, MOT, YOLO.

People are selected first; a row that cannot be read is then left out with a warning.
"""

from __future__ import annotations

import csv
import io
import json
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from distilpose.errors import InputError
from distilpose.geometry import box_of_keypoints, clip_boxes_xyxy
from distilpose.types import FloatArray

logger = logging.getLogger(__name__)

_YES, _NO = {"1", "true", "yes"}, {"", "0", "false", "no", "none", "null"}
_CSV_CORNERS = (("box_x1", "box_y1", "box_x2", "box_y2"), ("x1", "y1", "x2", "y2"), ("xmin", "ymin", "xmax", "ymax"))
_CSV_SIZES = (("x", "y", "width", "height"), ("left", "top", "width", "height"), ("x", "y", "w", "h"))
_CSV_NAMES = ("image", "file_name", "filename", "source")
_MOT_PERSON = "1"
_SHOWN = 200  # characters of a row in an error


class BoxRow(NamedTuple):
    """One person's box.

    Attributes:
        box_xyxy: (4,) image pixels; shares of width and height where ``is_relative``.
        score: confidence of the detector.
        image_id: of the image, or None.
        image: its file name or path, or None.
        frame: number of the frame of a video from 0, or None.
        is_relative: see ``box_xyxy``.
    """

    box_xyxy: FloatArray
    score: float = 1.0
    image_id: int | None = None
    image: str | None = None
    frame: int | None = None
    is_relative: bool = False


class CocoImages(NamedTuple):
    """The ``images`` and ``categories`` of an annotation file."""

    file_names: dict[int, str]
    sizes_hw: dict[int, tuple[Any, Any]]
    person_ids: frozenset[Any] | None  # None: no categories given, every annotation is a person


def read_box_rows(file: Path, coco: CocoImages | None) -> tuple[list[BoxRow], CocoImages | None]:
    """Read the people of a boxes file.

    Args:
        file: .json (COCO results or annotations), .csv, .txt (MOT), or a folder of .txt (YOLO).
        coco: of the annotation file that names the images and categories, if there is one.

    Returns:
        The rows of people; and ``coco``, or that of the file itself if it is an annotation file.

    Raises:
        InputError: the file is unreadable, or none of its rows is.
    """
    if file.is_dir():
        return _yolo_rows(file), coco
    if file.suffix.lower() == ".csv":
        return _csv_rows(file), coco
    if file.suffix.lower() == ".txt":
        return _mot_rows(file), coco
    document = read_json(file)
    if not isinstance(document, dict):
        return _result_rows(document, frozenset({1}) if coco is None else coco.person_ids, file), coco
    own = read_coco_images(document, file)
    return _annotation_rows(document, own, file), coco or own


def read_json(file: Path) -> Any:
    """The content of a JSON file.

    Raises:
        InputError: it is unreadable or broken.
    """
    try:
        return json.loads(_read_text(file))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{file}: expected json, got broken or empty content ({error})") from error


def _read_text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{file}: expected text in UTF-8 ({error})") from error


def read_coco_images(document: Any, file: Path) -> CocoImages:
    """The images and categories of an annotation file's content.

    Raises:
        InputError: there are none, or they are broken.
    """
    images = document.get("images") if isinstance(document, dict) else None
    if not isinstance(images, list):
        raise InputError(f'{file}: expected a COCO annotation file {{"images": [...], ...}}, got no list of images')
    try:
        file_names = {int(image["id"]): str(image["file_name"]) for image in images}
        sizes_hw = {int(image["id"]): (image.get("height"), image.get("width")) for image in images}
        categories = document.get("categories") or []
        person_ids = frozenset(
            category["id"]
            for category in categories
            if str(category.get("name")).lower() == "person" or category.get("keypoints")
        )
    except (KeyError, TypeError, ValueError, OverflowError, AttributeError) as error:
        raise InputError(f"{file}: each image needs an id and a file_name, each category an id ({error!r})") from error
    return CocoImages(file_names, sizes_hw, person_ids if categories else None)


def _annotation_rows(document: Mapping[str, Any], coco: CocoImages, file: Path) -> list[BoxRow]:
    """Labeled people, without crowds, clipped as `clip_boxes_xyxy` does."""

    def read(entry: Any) -> BoxRow | None:
        if _flag(entry.get("iscrowd")) or not _is_person(entry, coco.person_ids):
            return None
        row = _read_row(_with_box(entry)) if _has_box_or_label(entry) else None
        if row is None:
            return None
        size_hw = coco.sizes_hw.get(row.image_id) if row.image_id is not None else None
        if size_hw is None or not all(isinstance(side, int) and side > 0 for side in size_hw):
            raise InputError(f"its image {row.image_id} needs an entry with its size")
        clipped = clip_boxes_xyxy(row.box_xyxy, size_hw)[0]
        if (row.box_xyxy[2:] <= 0).any() or (clipped[2:] <= clipped[:2]).any():
            raise InputError("it has no area inside its image")
        return row._replace(box_xyxy=clipped)

    return _read_rows(document.get("annotations"), read, file)


def _result_rows(document: Any, person_ids: frozenset[Any] | None, file: Path) -> list[BoxRow]:
    rows = _read_rows(document, lambda entry: _read_row(entry) if _is_person(entry, person_ids) else None, file)
    if not rows and document:
        found = sorted({str(entry.get("category_id")) for entry in document if isinstance(entry, dict)})
        raise InputError(
            f"{file}: expected person boxes, got none: its categories are {', '.join(found)[:_SHOWN]}, people are "
            f"{', '.join(map(str, sorted(person_ids or (), key=str))) or 'not among the categories'}"
        )
    return rows


def _read_rows(entries: Any, read: Callable[[Any], BoxRow | None], file: Path) -> list[BoxRow]:
    """The rows of people. One that is broken is left out; it is an error where all of them are."""
    if not isinstance(entries, list):
        raise InputError(f"{file}: expected a list of boxes or a COCO annotation file, got {type(entries).__name__}")
    rows, broken = [], []
    for position, entry in enumerate(entries):
        try:
            row = read(entry)
            if row is not None:
                x1, y1, x2, y2 = row.box_xyxy.tolist()
                if not (-np.inf < x1 < x2 < np.inf and -np.inf < y1 < y2 < np.inf):
                    raise InputError(f"a box must be finite with x1 < x2 and y1 < y2, got {[x1, y1, x2, y2]}")
                rows.append(row)
        except InputError as error:
            broken.append(f"row {position}: {error}")
        except (KeyError, TypeError, ValueError, OverflowError, AttributeError):
            broken.append(
                f"row {position}: expected bbox [x, y, width, height] or box_xyxy, an image_id or image, and a score "
                f"if any, got {repr(entry)[:_SHOWN]}"
            )
    if broken and not rows:
        raise InputError(f"{file}: {broken[0]}")
    if broken:
        logger.warning("%s: %d of %d rows are left out, the first: %s", file, len(broken), len(entries), broken[0])
    return rows


def _read_row(entry: Any) -> BoxRow:
    x1, y1, x2, y2 = entry["box_xyxy"] if "box_xyxy" in entry else _xywh(*entry["bbox"])
    box_xyxy = np.array([x1, y1, x2, y2], dtype=np.float64)
    score = float(entry.get("box_score", entry.get("score", 1.0)))
    image_id, image, frame = entry.get("image_id"), entry.get("image"), entry.get("frame")
    if isinstance(image_id, str):  # a number, or a name
        image_id, image = (int(image_id), image) if image_id.isdecimal() else (None, image or image_id)
    if not np.isfinite(score) or not isinstance(image_id, int | None) or not isinstance(image, str | None):
        raise ValueError(score, image_id, image)
    if image_id is None and image is None:
        raise KeyError("image_id")
    if not isinstance(frame, int | None):
        raise ValueError(frame)
    return BoxRow(box_xyxy, score, image_id, image, frame)


def _xywh(x: float, y: float, width: float, height: float) -> tuple[float, float, float, float]:
    return x, y, x + width, y + height


def _flag(value: object) -> bool:
    """A flag as tools write it: 0, 1, true, false, null, or one of these as text."""
    text = str(value).strip().lower()
    if text not in _YES | _NO:
        raise InputError(f"expected iscrowd as 0 or 1, got {value!r}")
    return text in _YES


def _is_person(entry: Any, person_ids: frozenset[Any] | None) -> bool:
    category = entry.get("category_id")
    if not isinstance(category, int | str | None):
        raise ValueError(category)
    return person_ids is None or category is None or str(category) in {str(number) for number in person_ids}


def _has_box(entry: Mapping[str, Any]) -> bool:
    """A box that is empty or all zero is missing."""
    box = entry.get("bbox")
    return "box_xyxy" in entry or (bool(box) and (not isinstance(box, list) or any(box)))


def _has_box_or_label(entry: Mapping[str, Any]) -> bool:
    keypoints = entry.get("keypoints")
    is_labeled = bool(keypoints) and (not isinstance(keypoints, list) or any(keypoints[2::3]))
    return _has_box(entry) or is_labeled or "keypoints" not in entry


def _with_box(entry: Mapping[str, Any]) -> Mapping[str, Any]:
    """An annotation, its box that of its keypoints where it has none."""
    if _has_box(entry):
        return entry
    box_xywh = box_of_keypoints(entry.get("keypoints"))
    return entry if box_xywh is None else {**entry, "bbox": box_xywh}


def _csv_rows(file: Path) -> list[BoxRow]:
    """A box a line; consecutive lines of one box, as in our ``poses.csv``, are one."""
    reader = csv.DictReader(io.StringIO(_read_text(file)), skipinitialspace=True)
    columns = reader.fieldnames or []
    corners = next((names for names in _CSV_CORNERS if set(names) <= set(columns)), None)
    sizes = next((names for names in _CSV_SIZES if set(names) <= set(columns)), None)
    if corners is None and sizes is None:
        raise InputError(
            f"{file}: expected a header with x1, y1, x2, y2 or x, y, width, height, and image or image_id, got "
            f"{', '.join(columns)[:_SHOWN]}"
        )
    image = next((name for name in _CSV_NAMES if name in columns), "image")
    score = "box_score" if "box_score" in columns else "score"

    def read(entry: Mapping[str, str]) -> BoxRow:
        row: dict[str, Any] = {"score": float(entry.get(score) or 1), "image": entry.get(image) or None}
        row |= {name: int(entry[name]) for name in ("image_id", "frame") if entry.get(name)}
        box = [float(entry[name]) for name in corners or sizes or ()]
        return _read_row(row | {"box_xyxy" if corners else "bbox": box})

    entries = list(reader)
    if "person" in columns:
        entries = [
            entry
            for before, entry in zip([{}, *entries], entries, strict=False)
            if [before.get(name) for name in (image, "frame", "person")]
            != [entry.get(name) for name in (image, "frame", "person")]
        ]
    return _read_rows(entries, read, file)


def _mot_rows(file: Path) -> list[BoxRow]:
    """MOT Challenge: frame (from 1), id, left, top, width, height, confidence, class, visibility.

    In ground truth, with nine columns, a confidence of 0 says "leave out", and class 1 is a person.
    """

    def read(entry: list[str]) -> BoxRow | None:
        if len(entry) < 6:
            raise InputError(f"expected frame, id, left, top, width, height, ..., got {','.join(entry)[:_SHOWN]}")
        frame = int(float(entry[0]))
        box = np.array(_xywh(*map(float, entry[2:6])))
        is_truth = len(entry) == 9
        if is_truth and (float(entry[6]) == 0 or entry[7].strip() != _MOT_PERSON):
            return None
        score = 1.0 if is_truth or len(entry) < 7 else float(entry[6])
        return BoxRow(box, score, image_id=frame, frame=frame - 1)

    return _read_rows([line for line in csv.reader(io.StringIO(_read_text(file))) if line], read, file)


def _yolo_rows(folder: Path) -> list[BoxRow]:
    """YOLO labels, a file per image: class (0 is a person), center and size as shares of the image, score if any."""

    def read(entry: tuple[str, list[str]]) -> BoxRow | None:
        name, values = entry
        if len(values) < 5:
            raise InputError(f"{name}: expected class, x, y, width, height, got {' '.join(values)[:_SHOWN]}")
        if int(float(values[0])) != 0:
            return None
        x, y, width, height = map(float, values[1:5])
        if max(x, y, width, height) > 1.5:
            raise InputError(f"{name}: expected shares of the image in [0, 1], got {' '.join(values[:5])}")
        box = np.array([x - width / 2, y - height / 2, x + width / 2, y + height / 2])
        return BoxRow(box, float(values[5]) if len(values) == 6 else 1.0, image=name, is_relative=True)

    labels = folder / "labels" if (folder / "labels").is_dir() else folder
    files = sorted(path for path in labels.glob("**/*.txt") if path.is_file())
    if not files:
        raise InputError(f"{folder}: expected YOLO labels (a .txt per image), got none")
    return _read_rows(list(_yolo_entries(files)), read, folder)


def _yolo_entries(files: Iterable[Path]) -> Iterator[tuple[str, list[str]]]:
    for file in files:
        for line in _read_text(file).splitlines():
            if line.strip():
                yield file.stem, line.split()
