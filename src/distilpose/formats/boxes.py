"""A file of person boxes, matched to the image files it speaks of; `match_boxes` says which layouts are read."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np

from distilpose.data.files import read_json
from distilpose.data.images import read_image_size
from distilpose.errors import InputError, printable
from distilpose.files import resolved, utf8_text
from distilpose.formats.box_files import BoxRow, CocoImages, read_box_rows, read_coco_images
from distilpose.formats.image_ids import fill_ids, stem_number
from distilpose.types import FloatArray

logger = logging.getLogger(__name__)


class PersonBoxes(NamedTuple):
    """The people of one image, from a file or a detector."""

    boxes_xyxy: FloatArray  # (N, 4) image pixels, N >= 0
    box_score: FloatArray  # (N,) confidence of the detector


class MatchedBoxes(NamedTuple):
    """A boxes file seen from the images."""

    people: dict[Path, PersonBoxes]  # of every image; an image that the file does not mention has nobody
    image_ids: dict[Path, int]  # of every image, as `match_image_ids` defines them
    frames: dict[tuple[Path, int], PersonBoxes]  # of videos among the images and their frames; others have nobody


def match_boxes(boxes: Path, paths: Sequence[Path], annotations: Path | None = None) -> MatchedBoxes:
    """Read a boxes file and give each image its people.

    What is read says `read_box_rows`. Without a score a box has 1, without a ``category_id`` it is a person's. Rows of
    a video have a ``frame``, its number from 0; ``predictions.json`` and ``poses.csv`` are such files. MOT rows belong
    to the only video or image, else to the images numbered as their frames.

    A row belongs to the image that ``annotations`` names for its ``image_id``, unless its ``image`` field says another
    file name; without ``annotations``, to the one its ``image`` field names; without that, to the one whose stem is the
    number ``image_id`` (``000000000785.jpg``: 785). A name matches a path that ends with it. Rows of other images are
    left unused, with a warning unless they come from or with an annotation file.

    Raises:
        InputError: a file is unreadable or broken, a name fits several images, or no row matches any of the images.
    """
    coco = None if annotations is None else _read_images(annotations)
    rows, coco = read_box_rows(boxes, coco)
    files = _Files(paths)
    grouped: dict[tuple[Path, int | None], list[BoxRow]] = defaultdict(list)
    named: list[tuple[Path, int | None]] = []
    unused: list[BoxRow] = []
    for row in rows:
        row, path = _find(row, files, None if coco is None else coco.file_names)
        if path is None:
            unused.append(row)
            continue
        grouped[path, row.frame].append(_in_pixels(row, path))
        named += [] if row.image is None else [(path, row.image_id)]
    if not grouped:
        raise InputError(_no_match_text(boxes, rows, paths))
    if unused and coco is None:  # an annotation file usually has more images than are predicted
        first = printable(_image_name(unused[0])).replace("\n", "\\n")
        logger.warning("%s: %d of %d boxes are of other images, the first of %s", boxes, len(unused), len(rows), first)
    people = {path: _person_boxes(grouped.get((path, None), ())) for path in paths}
    frames = {(path, frame): _person_boxes(found) for (path, frame), found in grouped.items() if frame is not None}
    return MatchedBoxes(people, _image_ids(files, coco, named), frames)


def match_image_ids(paths: Sequence[Path], annotations: Path | None = None) -> dict[Path, int]:
    """The id of each image in the ``images`` of a COCO file; without one the number that its stem is.

    An image that is not named there, whose stem is no number, or who shares it with another one, gets the first free
    number from 1 on, no id of the COCO file.

    Raises:
        InputError: ``annotations`` is unreadable or broken, or one of its names fits several images.
    """
    return _image_ids(_Files(paths), None if annotations is None else _read_images(annotations), ())


def _read_images(annotations: Path) -> CocoImages:
    return read_coco_images(read_json(annotations, "a COCO annotation file", InputError), annotations)


class _Files:
    """Image files, found by name or number."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = paths
        self._parts = {path: tuple(map(utf8_text, resolved(path).parts)) for path in paths}
        self._by_key: dict[tuple[str, str | int | None], list[Path]] = defaultdict(list)
        for path in paths:
            texts = {"path": utf8_text(path.as_posix()), "name": utf8_text(path.name), "stem": path.stem}
            for key in (*texts.items(), ("number", stem_number(path))):
                self._by_key[key].append(path)

    def named(self, name: str) -> Path | None:
        """The file whose path ends with ``name``, or is written exactly so."""
        exact = self._by_key.get(("path", utf8_text(name)), [])
        parts = tuple(part for part in PurePosixPath(name.replace("\\", "/")).parts if part not in (".", ".."))
        candidates = self._by_key.get(("name", parts[-1]), []) if parts else []
        fitting = [path for path in candidates if self._parts[path][-len(parts) :] == parts]
        return _only(exact or fitting, f"the image name {name!r}", "give it more of the path")

    def stemmed(self, stem: str) -> Path | None:
        """The file with this name, whatever its suffix."""
        return _only(self._by_key.get(("stem", stem), []), f"the labels {stem}.txt", "give images names of their own")

    def numbered(self, number: int) -> Path | None:
        """The file whose stem is ``number``."""
        remedy = "pass the COCO file with --annotations, or write an image field"
        return _only(self._by_key.get(("number", number), []), f"image_id {number}", remedy)


def _only(found: Sequence[Path], what: str, remedy: str) -> Path | None:
    if len(found) > 1:
        raise InputError(f"{what} fits {len(found)} images, {found[0]} and {found[1]}: {remedy}")
    return found[0] if found else None


def _find(row: BoxRow, files: _Files, file_names: Mapping[int, str] | None) -> tuple[BoxRow, Path | None]:
    """The row and the file it belongs to. A row with a number for both (MOT) is of a video or of numbered images."""
    if row.image_id is not None and row.frame is not None and row.image is None:
        if len(files.paths) == 1:
            return row, files.paths[0]
        row = row._replace(frame=None)
    if file_names is not None and row.image_id is not None:
        name = file_names.get(row.image_id)
        if row.image is None or (name is not None and PurePosixPath(name).name == PurePosixPath(row.image).name):
            return row, None if name is None else files.named(name)
    if row.image is not None:
        return row, files.stemmed(row.image) if row.is_relative else files.named(row.image)
    assert row.image_id is not None
    return row, files.numbered(row.image_id)


def _in_pixels(row: BoxRow, path: Path) -> BoxRow:
    """A row whose box is a share of its image in image pixels; the image's size is read from its header."""
    if not row.is_relative:
        return row
    try:
        height, width = read_image_size(path)
    except InputError:  # an unreadable image is told of when it is read; it has nobody
        return row
    return row._replace(box_xyxy=row.box_xyxy * [width, height, width, height])


def _image_ids(files: _Files, coco: CocoImages | None, named: Iterable[tuple[Path, int | None]]) -> dict[Path, int]:
    """Ids by the annotation file; without one from rows with an ``image`` field (``named``), else from stems."""
    if coco is None:
        ids = {path: stem_number(path) for path in files.paths}
        ids.update((path, image_id) for path, image_id in named if image_id is not None)
        return dict(zip(ids, fill_ids([*ids.values()]), strict=True))
    found: dict[Path, int | None] = dict.fromkeys(files.paths)
    for image_id, name in coco.file_names.items():
        path = files.named(name)
        if path is None:
            continue
        if found[path] is not None:
            raise InputError(f"{path} fits two images of the annotation file, ids {found[path]} and {image_id}")
        found[path] = image_id
    return dict(zip(found, fill_ids([*found.values()], coco.file_names), strict=True))


def _person_boxes(rows: Sequence[BoxRow]) -> PersonBoxes:
    boxes = np.array([row.box_xyxy for row in rows], dtype=np.float64).reshape(-1, 4)
    return PersonBoxes(boxes, np.array([row.score for row in rows], dtype=np.float64))


def _image_name(row: BoxRow) -> str:
    return row.image if row.image is not None else f"image_id {row.image_id}"


def _no_match_text(boxes: Path, rows: Sequence[BoxRow], paths: Sequence[Path]) -> str:
    if not rows:
        return f"{boxes}: expected person boxes, got none"
    return (
        f"{boxes}: none of its {len(rows)} boxes belongs to any of the {len(paths)} images (the first box is of "
        f"{_image_name(rows[0])}, the first image is {paths[0]}): pass the COCO file that names the images with "
        "--annotations, or give each row an image field"
    )
