"""YOLO-pose data sets (``data.yaml``, images and a text file of labels beside each) -> COCO keypoint documents."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distilpose.data.files import read_text, shortened
from distilpose.data.images import IMAGE_SUFFIXES, read_image_size
from distilpose.errors import DatasetError, InputError
from distilpose.files import read_yaml
from distilpose.skeletons import COCO_17

_FARTHEST = 1.5  # of the image: labels may lie a little outside


def read_yolo(file: Path, split: str | None) -> dict[str, Any]:
    """Read one split of a YOLO-pose data set; None reads the categories alone.

    ``file`` is a ``data.yaml`` with ``kpt_shape``, the split, and perhaps ``path``, ``names``, ``flip_idx``,
    ``kpt_names``. Each line of a label file is a person: class, box center and size, then ``kpt_shape[0]`` times x, y
    and, where ``kpt_shape[1]`` is 3, visibility, all as fractions of the image. Without visibility (0, 0) is unlabeled.
    A line of five numbers is a person without labels. Images without a label file show nobody.

    Returns:
        COCO document; its ``file_name`` entries are whole paths. Without ``kpt_names``, 17 keypoints are COCO's.

    Raises:
        DatasetError: a file is missing or broken, named with its line.

    Source:
        https://docs.ultralytics.com/datasets/pose/
    """
    values = read_yaml(file, "the data.yaml of a YOLO data set", DatasetError)
    if not isinstance(values, dict):
        raise DatasetError(f"{file}: expected the data.yaml of a YOLO data set, got {shortened(values)}")
    shape = values.get("kpt_shape")
    if not (isinstance(shape, list) and len(shape) == 2 and isinstance(shape[0], int) and shape[0] > 0):
        raise DatasetError(f"{file}: expected kpt_shape: [number of keypoints, 2 or 3], got {shortened(shape)}")
    if shape[1] not in (2, 3):
        raise DatasetError(f"{file}: kpt_shape must end with 2 (x, y) or 3 (x, y, visibility), got {shape[1]!r}")
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for path in _images_of(file, values, split) if split is not None else ():
        try:
            height, width = read_image_size(path)
        except InputError as error:
            raise DatasetError(f"{file}: {error}: replace or remove it") from error
        image = {"id": len(images) + 1, "file_name": str(path), "height": height, "width": width}
        images.append(image)
        for person in _read_labels(_label_file(path), shape, np.array([width, height])):
            annotations.append({"id": len(annotations) + 1, "image_id": image["id"], **person})
    return {"images": images, "annotations": annotations, "categories": _categories(file, values, shape[0])}


def _images_of(file: Path, values: Mapping[str, Any], split: str) -> list[Path]:
    """The images of a split, which names folders or lists of files."""
    given = values.get(split) or (values.get("valid") if split == "val" else None)
    places = [place for place in (given if isinstance(given, list) else [given]) if isinstance(place, str)]
    if not places:
        raise DatasetError(f"{file}: expected {split}: with a folder or a list of images, got {shortened(given)}")
    root = file.parent / str(values.get("path") or "")
    found: list[Path] = []
    for place in places:
        # Roboflow writes ../train/images for what lies beside data.yaml.
        tried = [root / place, file.parent / place, file.parent / place.removeprefix("../")]
        path = next((path for path in tried if path.exists()), None)
        if path is None:
            raise DatasetError(f"{file}: {split}: {tried[0]} does not exist: correct path or {split}")
        if path.is_file():
            lines = read_text(path, "a list of images").split("\n")
            found += [path.parent / line.strip() for line in lines if line.strip()]
        else:
            found += sorted(each for each in path.rglob("*") if each.suffix.lower() in IMAGE_SUFFIXES)
    return [path.absolute() for path in found]


def _label_file(image: Path) -> Path:
    """``images`` becomes ``labels`` in the path, the suffix ``.txt``."""
    parts = list(image.parts)
    if "images" in parts:
        parts[len(parts) - 1 - parts[::-1].index("images")] = "labels"
    return Path(*parts).with_suffix(".txt")


def _read_labels(file: Path, shape: list[int], image_wh: NDArray[Any]) -> Iterator[dict[str, Any]]:
    count, dims = shape
    lines = read_text(file, "YOLO labels").splitlines() if file.is_file() else []
    for number, line in enumerate(lines, start=1):
        try:
            row = np.array(line.split(), dtype=np.float64)
        except ValueError:
            row = np.full(1, np.nan)
        if not len(row):
            continue
        if len(row) not in (5, 5 + count * dims) or not np.isfinite(row).all():
            raise DatasetError(
                f"{file}, line {number}: expected class, x, y, width, height and {count} times {dims} numbers, got "
                f"{shortened(line)}"
            )
        points = row[5:].reshape(-1, dims)
        if np.abs(row[1:5]).max() > _FARTHEST or (len(points) and np.abs(points[:, :2]).max() > _FARTHEST):
            raise DatasetError(f"{file}, line {number}: expected fractions of the image, got {shortened(line)}")
        center, size = row[1:3] * image_wh, row[3:5] * image_wh
        flags = points[:, 2] if dims == 3 else 2 * points.any(axis=1)
        keypoints = np.column_stack([points[:, :2] * image_wh, flags])
        yield {
            "category_id": int(row[0]) + 1,
            "bbox": [*(center - size / 2).tolist(), *size.tolist()],
            "keypoints": keypoints.ravel().tolist(),
        }


def _categories(file: Path, values: Mapping[str, Any], count: int) -> list[dict[str, Any]]:
    """One category for each class, all with the same keypoints."""
    named = values.get("kpt_names")
    names = next(iter(named.values()), None) if isinstance(named, dict) else named
    default = COCO_17.keypoint_names if count == COCO_17.num_keypoints else [f"keypoint_{i}" for i in range(count)]
    names = [str(name) for name in names] if isinstance(names, list) else list(default)
    if len(names) != count:
        raise DatasetError(f"{file}: kpt_names must be the names of {count} keypoints, got {shortened(names)}")
    extra: dict[str, Any] = {}
    flip = values.get("flip_idx")
    if flip is not None:
        if not isinstance(flip, list) or not all(type(i) is int for i in flip) or sorted(flip) != list(range(count)):
            raise DatasetError(f"{file}: flip_idx must hold 0 to {count - 1}, each once, got {shortened(flip)}")
        pairs = [(a, b) for a, b in enumerate(flip) if a < b]
        if any(flip[b] != a for a, b in pairs):
            raise DatasetError(f"{file}: flip_idx must exchange keypoints in pairs, got {shortened(flip)}")
        if (names, pairs) != (list(COCO_17.keypoint_names), list(COCO_17.flip_pairs)):
            extra = {"flip_pairs": [[names[a], names[b]] for a, b in pairs]}
    classes = values.get("names") or ["person"]
    titles = classes if isinstance(classes, list) else list(classes.values()) if isinstance(classes, dict) else []
    return [
        {"id": number, "name": str(title), "keypoints": names, **extra} for number, title in enumerate(titles, start=1)
    ]
