"""Files of person boxes as rows: COCO results and annotations, CSV, MOT, YOLO; broken ones are left out."""

from __future__ import annotations

import csv
import io
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from distilpose.data.annotations import check_meaning, normalize_document
from distilpose.data.files import read_flag, read_json, read_text, shortened
from distilpose.data.labels import is_unlabeled
from distilpose.errors import InputError
from distilpose.geometry import box_of_keypoints, clip_boxes_xyxy, xywh_to_xyxy
from distilpose.types import FloatArray

logger = logging.getLogger(__name__)

_CSV_CORNERS = (("box_x1", "box_y1", "box_x2", "box_y2"), ("x1", "y1", "x2", "y2"), ("xmin", "ymin", "xmax", "ymax"))
_CSV_SIZES = (("x", "y", "width", "height"), ("left", "top", "width", "height"), ("x", "y", "w", "h"))
_CSV_NAMES = ("image", "file_name", "filename", "source")
_MOT_PERSON = "1"
_SHOWN = 200  # characters of a row in an error


class BoxRow(NamedTuple):
    """One person's box."""

    box_xyxy: FloatArray  # (4,) image pixels; shares of width and height where ``is_relative``
    score: float = 1.0  # confidence of the detector
    image_id: int | None = None  # of the image, or None
    image: str | None = None  # its file name or path, or None
    frame: int | None = None  # number of the frame of a video from 0, or None
    is_relative: bool = False  # see ``box_xyxy``


class CocoImages(NamedTuple):
    """The ``images`` and ``categories`` of an annotation file."""

    file_names: dict[int, str]
    sizes_hw: dict[int, tuple[Any, Any]]
    person_ids: frozenset[str] | None  # None: no categories given, every annotation is a person


def read_box_rows(file: Path, coco: CocoImages | None) -> tuple[list[BoxRow], CocoImages | None]:
    """Read the people of a file, and which annotation file names the images: ``coco``, else the file itself.

    - .json, a list of COCO's detection results: ``bbox`` or ``box_xyxy``; ``image_id``, ``image`` (name or path) or
      both; ``box_score`` or ``score``;
    - .json with ``annotations``: labeled people are the boxes, clipped as in evaluation, crowds left out. One without
      ``bbox`` has the box of its labeled keypoints;
    - .csv with a header: ``x1, y1, x2, y2`` or ``x, y, width, height``, ``image`` or ``image_id``, ``score``;
    - .txt: MOT Challenge (``gt.txt``, ``det.txt``); a folder of .txt: YOLO labels, called after the images.

    Raises:
        InputError: the file is unreadable, or none of its rows is, or the numbers are no pixels.
        DatasetError: the same of the keypoints of an annotation file, or its boxes are corners.
    """
    if file.is_dir():
        return _yolo_rows(file), coco
    if file.suffix.lower() in (".csv", ".txt"):
        read = _csv_rows if file.suffix.lower() == ".csv" else _mot_rows
        return read(read_text(file, "person boxes", InputError), file), coco
    document = read_json(file, "person boxes", InputError)
    if isinstance(document, dict):
        own = read_coco_images(document, file)
        entries, person_ids, coco = document.get("annotations"), own.person_ids, coco or own
        if isinstance(entries, list):
            check_meaning(document, file)
        rows = _read_rows(entries, lambda entry: _read_annotation(entry, own), file)
    else:
        entries, person_ids = document, frozenset({"1"}) if coco is None else coco.person_ids
        rows = _read_rows(entries, lambda entry: _read_row(entry) if _is_person(entry, person_ids) else None, file)
    if entries and not rows:
        raise InputError(f"{file}: expected person boxes, got none: {_why_nobody(entries, person_ids)}")
    return rows, coco


def read_coco_images(document: Any, file: Path) -> CocoImages:
    """The images and categories of an annotation file's content."""
    images = document.get("images") if isinstance(document, dict) else None
    if not isinstance(images, list):
        raise InputError(f'{file}: expected a COCO annotation file {{"images": [...], ...}}, got no list of images')
    normalize_document(document, file)
    try:
        file_names = {int(image["id"]): str(image["file_name"]) for image in images}
        sizes_hw = {int(image["id"]): (image.get("height"), image.get("width")) for image in images}
        categories = document.get("categories") or []
        people = [each for each in categories if str(each.get("name")).lower() == "person" or each.get("keypoints")]
        person_ids = frozenset(str(category["id"]) for category in people) if categories else None
    except (KeyError, TypeError, ValueError, OverflowError, AttributeError) as error:
        raise InputError(f"{file}: each image needs an id and a file_name, each category an id ({error!r})") from error
    return CocoImages(file_names, sizes_hw, person_ids)


def _read_annotation(entry: Any, coco: CocoImages) -> BoxRow | None:
    """A labeled person who is no crowd, clipped as `clip_boxes_xyxy` does."""
    if not _is_person(entry, coco.person_ids):
        return None
    crowd = read_flag(entry.get("iscrowd"))
    if crowd is None:
        raise InputError(f"expected iscrowd as 0 or 1, got {entry['iscrowd']!r}")
    if crowd or ("bbox" not in entry and "keypoints" in entry and is_unlabeled(entry)):
        return None
    if "bbox" not in entry and (box_xywh := box_of_keypoints(entry.get("keypoints"))) is not None:
        entry = {**entry, "bbox": box_xywh}
    row = _read_row(entry)
    size_hw = coco.sizes_hw.get(row.image_id) if row.image_id is not None else None
    if size_hw is None or not all(isinstance(side, int) and side > 0 for side in size_hw):
        raise InputError(f"its image {row.image_id} needs an entry with its size")
    clipped = clip_boxes_xyxy(row.box_xyxy, size_hw)[0]
    if (row.box_xyxy[2:] <= 0).any() or (clipped[2:] <= clipped[:2]).any():
        raise InputError("it has no area inside its image")
    return row._replace(box_xyxy=clipped)


def _why_nobody(entries: Any, person_ids: frozenset[str] | None) -> str:
    found = sorted({str(entry.get("category_id")) for entry in entries})
    if person_ids is None or person_ids.intersection(found):
        return f"its {len(entries)} annotations are crowds, unlabeled or of other categories"
    people = ", ".join(sorted(person_ids)) or "not among the categories: one must be called person"
    return f"its categories are {', '.join(found)[:_SHOWN]}, people are {people}"


def _read_rows(entries: Any, read: Callable[[Any], BoxRow | None], file: Path) -> list[BoxRow]:
    """The rows of people. One that is broken is left out; it is an error where all of them are."""
    if not isinstance(entries, list):
        raise InputError(f"{file}: expected a list of boxes or a COCO annotation file, got {type(entries).__name__}")
    rows, broken = [], []
    for position, entry in enumerate(entries):
        try:
            row = read(entry)
            if row is not None:
                if not (np.isfinite(row.box_xyxy).all() and (row.box_xyxy[:2] < row.box_xyxy[2:]).all()):
                    raise InputError(f"a box must be finite with x1 < x2 and y1 < y2, got {row.box_xyxy.tolist()}")
                rows.append(row)
        except InputError as error:
            broken.append(f"row {position}: {error}")
        except (KeyError, TypeError, ValueError, OverflowError, AttributeError):
            broken.append(
                f"row {position}: expected bbox [x, y, width, height] or box_xyxy, an image_id or image, and a score "
                f"if any, got {shortened(entry)[:_SHOWN]}"
            )
    if broken and not rows:
        raise InputError(f"{file}: {broken[0]}")
    if rows and not rows[0].is_relative and max(float(np.abs(row.box_xyxy).max()) for row in rows) <= 1:
        raise InputError(
            f"{file}: expected boxes in pixels, got numbers from 0 to 1 alone: multiply them by the image's width and "
            "height"
        )
    if broken:
        logger.warning("%s: %d of %d rows are left out, the first: %s", file, len(broken), len(entries), broken[0])
    return rows


def _read_row(entry: Any) -> BoxRow:
    box = np.array(entry["box_xyxy"] if "box_xyxy" in entry else entry["bbox"], dtype=np.float64).reshape(4)
    box_xyxy = box if "box_xyxy" in entry else xywh_to_xyxy(box)[0]
    score = float(entry.get("box_score", entry.get("score", 1.0)))
    image_id, image, frame = entry.get("image_id"), entry.get("image"), entry.get("frame")
    if isinstance(image_id, str):  # a number, or a name
        image_id, image = (int(image_id), image) if image_id.isdecimal() else (None, image or image_id)
    if not np.isfinite(score) or not isinstance(image, str | None):
        raise ValueError(score, image)
    if not isinstance(image_id, int | None) or not isinstance(frame, int | None) or (image_id, image) == (None, None):
        raise ValueError(image_id, image, frame)
    return BoxRow(box_xyxy, score, image_id, image, frame)


def _is_person(entry: Any, person_ids: frozenset[str] | None) -> bool:
    category = entry.get("category_id")
    if not isinstance(category, int | str | None):
        raise ValueError(category)
    return person_ids is None or category is None or str(category) in person_ids


def _csv_rows(text: str, file: Path) -> list[BoxRow]:
    """A box a line; consecutive lines of one box, as in our ``poses.csv``, are one."""
    with _csv_errors(file):
        reader = csv.DictReader(io.StringIO(text), skipinitialspace=True)
        columns, entries = reader.fieldnames or [], list(reader)
    sides = next((names for names in (*_CSV_CORNERS, *_CSV_SIZES) if set(names) <= set(columns)), None)
    if sides is None:
        raise InputError(
            f"{file}: expected a header with x1, y1, x2, y2 or x, y, width, height, and image or image_id, got "
            f"{', '.join(columns)[:_SHOWN]}"
        )
    image = next((name for name in _CSV_NAMES if name in columns), "image")
    score = "box_score" if "box_score" in columns else "score"

    def read(entry: Mapping[str, str]) -> BoxRow:
        row: dict[str, Any] = {"score": float(entry.get(score) or 1), "image": entry.get(image) or None}
        row |= {name: int(entry[name]) for name in ("image_id", "frame") if entry.get(name)}
        kind = "box_xyxy" if sides in _CSV_CORNERS else "bbox"
        return _read_row(row | {kind: [float(entry[name]) for name in sides]})

    if "person" in columns:
        keys = [[entry.get(name) for name in (image, "frame", "person")] for entry in entries]
        entries = [entry for number, entry in enumerate(entries) if number == 0 or keys[number] != keys[number - 1]]
    return _read_rows(entries, read, file)


def _mot_rows(text: str, file: Path) -> list[BoxRow]:
    """MOT Challenge: frame (from 1), id, left, top, width, height, confidence, class, visibility."""

    def read(entry: list[str]) -> BoxRow | None:
        if len(entry) < 6:
            raise InputError(f"expected frame, id, left, top, width, height, ..., got {','.join(entry)[:_SHOWN]}")
        frame, is_truth = int(float(entry[0])), len(entry) == 9  # ground truth: confidence 0 says "leave out"
        box = xywh_to_xyxy([float(value) for value in entry[2:6]])[0]
        if is_truth and (float(entry[6]) == 0 or entry[7].strip() != _MOT_PERSON):
            return None
        score = 1.0 if is_truth or len(entry) < 7 else float(entry[6])
        return BoxRow(box, score, image_id=frame, frame=frame - 1)

    with _csv_errors(file):
        lines = [line for line in csv.reader(io.StringIO(text)) if line]
    return _read_rows(lines, read, file)


@contextmanager
def _csv_errors(file: Path) -> Iterator[None]:
    try:
        yield
    except csv.Error as error:
        raise InputError(f"{file} is no CSV ({error}): look for a quotation mark without its pair") from error


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
    texts = [(file.stem, read_text(file, "YOLO labels", InputError)) for file in files]
    lines = [(stem, line.split()) for stem, text in texts for line in text.splitlines()]
    return _read_rows([line for line in lines if line[1]], read, folder)
