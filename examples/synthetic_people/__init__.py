"""Images of drawn people with exact keypoints, for tests, quick starts and demos where there is no real data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from distilpose.data.images import write_image
from distilpose.errors import InputError
from distilpose.skeletons import COCO_17
from distilpose.types import FloatArray, ImageArray, IntArray
from synthetic_people.figure import Figure, draw_figure

_IMAGE_SIZES_HW = ((240, 320), (320, 240), (288, 288), (320, 320), (360, 270))
_SUBPIXEL_BITS = 4
_LEAST_VISIBLE_SHARE = 0.15
_NO_PATCH = 0


class DrawnPerson(NamedTuple):
    """Labels of one drawn person.

    Attributes:
        xy_img: (17, 2) keypoints in image pixels, COCO order; outside the image as well.
        visibility: (17,) 2 seen, 1 covered by the body, another person or a thing, 0 outside the image.
        box_xyxy: (4,) image pixels, tight around what is seen of the person.
        area: number of pixels seen of the person.
    """

    xy_img: FloatArray
    visibility: IntArray
    box_xyxy: FloatArray
    area: float


def draw_people(
    rng: np.random.Generator, image_hw: tuple[int, int], num_people: int = 1, *, uniform: bool = False
) -> tuple[ImageArray, list[DrawnPerson]]:
    """Draw an image with people in it.

    Args:
        rng: the source of chance.
        image_hw: (H, W) of the image in pixels.
        num_people: how many are drawn, back to front. One who is almost wholly covered gets no labels.
        uniform: everyone wears the same clothes, see `figure.draw_figure`.

    Returns:
        The (H, W, 3) uint8 RGB image and the labeled people, back to front, at most ``num_people``.
    """
    image = _draw_background(rng, image_hw)
    patch_map = np.full(image_hw, _NO_PATCH, dtype=np.uint16)
    people = [_place(draw_figure(rng, uniform), rng, image_hw, num_people) for _ in range(num_people)]
    first_ids, drawn_area = [], []
    next_id = _NO_PATCH + 1
    for person in people:
        first_ids.append(next_id)
        next_id = _rasterize(image, patch_map, person, next_id)
        drawn_area.append(int(np.count_nonzero(patch_map >= first_ids[-1])))
    if rng.random() < 0.2:
        _draw_thing(image, patch_map, rng, largest=0.3)
    labeled = []
    for person, first_id, area in zip(people, first_ids, drawn_area, strict=True):
        label = _label(person, patch_map, first_id, area)
        if label is not None:
            labeled.append(label)
    return _finish(image, rng), labeled


def write_synthetic_dataset(
    folder: Path, num_images: int, *, seed: int = 0, max_people: int = 2, uniform: bool = False
) -> Path:
    """Write images of drawn people as a COCO keypoint data set.

    Image i depends on ``seed`` and i only, so a larger set begins with the smaller one.

    Args:
        folder: is made; gets ``images/`` and ``person_keypoints.json``.
        num_images: images to draw, >= 1.
        seed: >= 0.
        max_people: 1 to this many people stand in an image.
        uniform: everyone wears the same clothes, see `figure.draw_figure`: learned within a minute.

    Returns:
        The annotation file.

    Raises:
        InputError: a count is below 1.
    """
    if num_images < 1 or max_people < 1:
        raise InputError(f"num_images and max_people must be >= 1, got {num_images} and {max_people}")
    (folder / "images").mkdir(parents=True, exist_ok=True)
    images, annotations = [], []
    for image_id in range(1, num_images + 1):
        rng = np.random.default_rng((seed, image_id))
        image_hw = _IMAGE_SIZES_HW[rng.integers(len(_IMAGE_SIZES_HW))]
        image, people = draw_people(rng, image_hw, int(rng.integers(1, max_people + 1)), uniform=uniform)
        name = f"{image_id:06d}.jpg"
        write_image(folder / "images" / name, image)
        images.append({"id": image_id, "file_name": name, "height": image_hw[0], "width": image_hw[1]})
        annotations += [_to_coco(person, image_id) for person in people]
    for annotation_id, annotation in enumerate(annotations, start=1):
        annotation["id"] = annotation_id
    category = {"id": 1, "name": "person", "supercategory": "person", "keypoints": list(COCO_17.keypoint_names)}
    category["skeleton"] = [[a + 1, b + 1] for a, b in COCO_17.edges]
    file = folder / "person_keypoints.json"
    file.write_text(json.dumps({"images": images, "annotations": annotations, "categories": [category]}))
    return file


def _place(figure: Figure, rng: np.random.Generator, image_hw: tuple[int, int], num_people: int) -> Figure:
    """Scale and move a figure into the image; now and then it is cut by the edge."""
    height, width = image_hw
    corners = np.concatenate([patch.outline for patch in figure.patches])
    low, high = corners.min(axis=0), corners.max(axis=0)
    room = min(width / (high[0] - low[0]), height / (high[1] - low[1]))
    zoom = room * rng.uniform(0.5, 1.0 if num_people == 1 else 0.85) * (1.4 if rng.random() < 0.1 else 1.0)
    slack = np.array([width, height]) - zoom * (high - low)
    shift = rng.uniform(0, 1, 2) * slack - zoom * low
    patches = tuple(patch._replace(outline=zoom * patch.outline + shift) for patch in figure.patches)
    return Figure(zoom * figure.xy + shift, patches)


def _rasterize(image: ImageArray, patch_map: NDArray[np.uint16], person: Figure, first_id: int) -> int:
    """Draw a person back to front, noting in the map which patch is seen at each pixel; returns the next free id."""
    for patch_id, patch in enumerate(person.patches, start=first_id):
        corners = np.rint(patch.outline * 2**_SUBPIXEL_BITS).astype(np.int32)
        cv2.fillConvexPoly(image, corners, patch.color, cv2.LINE_AA, _SUBPIXEL_BITS)
        if patch.edged:
            rim = [0.6 * value for value in patch.color]
            cv2.polylines(image, [corners], True, rim, 1, cv2.LINE_AA, _SUBPIXEL_BITS)
        cv2.fillConvexPoly(patch_map, corners, (patch_id,), cv2.LINE_8, _SUBPIXEL_BITS)
    return first_id + len(person.patches)


def _label(person: Figure, patch_map: NDArray[np.uint16], first_id: int, drawn_area: int) -> DrawnPerson | None:
    """Labels by what the map says is seen; None for a person who is almost wholly covered."""
    height, width = patch_map.shape
    seen = (patch_map >= first_id) & (patch_map < first_id + len(person.patches))
    area = int(np.count_nonzero(seen))
    if area == 0 or area < _LEAST_VISIBLE_SHARE * drawn_area:
        return None
    visibility = np.zeros(COCO_17.num_keypoints, dtype=np.int64)
    for keypoint, (x, y) in enumerate(person.xy):
        if 0 <= x <= width - 1 and 0 <= y <= height - 1:
            patch = int(patch_map[round(y), round(x)]) - first_id
            shown = 0 <= patch < len(person.patches) and keypoint in person.patches[patch].shows
            visibility[keypoint] = 2 if shown else 1
    left, top, box_width, box_height = cv2.boundingRect(seen.astype(np.uint8))
    box_xyxy = np.array([left, top, left + box_width, top + box_height], dtype=np.float64)
    return DrawnPerson(person.xy, visibility, box_xyxy, area)


def _draw_background(rng: np.random.Generator, image_hw: tuple[int, int]) -> ImageArray:
    """A smooth, colored, cloudy ground with things on it."""
    height, width = image_hw
    grid = rng.integers(0, 256, (int(rng.integers(2, 9)), int(rng.integers(2, 9)), 3), dtype=np.uint8)
    base = rng.integers(0, 256, 3)
    calm = (rng.uniform(0.2, 0.9) * (grid - base.astype(np.float32)) + base).astype(np.uint8)
    image = np.asarray(cv2.resize(calm, (width, height), interpolation=cv2.INTER_LINEAR), dtype=np.uint8)
    for _ in range(rng.integers(0, 14)):
        _draw_thing(image, None, rng, largest=0.5)
    return image


def _draw_thing(
    image: ImageArray, patch_map: NDArray[np.uint16] | None, rng: np.random.Generator, largest: float
) -> None:
    """Draw a bar, box or ball of random color; it covers what the map says is seen there."""
    size = np.array(image.shape[1::-1])
    center = (rng.random(2) * size).astype(int)
    axes = np.maximum(2, rng.uniform(0.02, largest / 2, 2) * size).astype(int)
    color = [int(value) for value in rng.integers(0, 256, 3)]
    angle = float(rng.uniform(0, 180))
    if rng.random() < 0.5:
        corners = np.rint(cv2.boxPoints((center.tolist(), (2 * axes).tolist(), angle))).astype(np.int32)
    else:
        corners = np.array(cv2.ellipse2Poly(center.tolist(), axes.tolist(), int(angle), 0, 360, 15), dtype=np.int32)
    cv2.fillConvexPoly(image, corners, color, cv2.LINE_AA)
    if patch_map is not None:
        cv2.fillConvexPoly(patch_map, corners, (_NO_PATCH,))


def _finish(image: ImageArray, rng: np.random.Generator) -> ImageArray:
    """Camera effects: light, blur and grain."""
    softened = cv2.GaussianBlur(image, (3, 3), rng.uniform(0.1, 1.0))
    grain = rng.integers(-8, 9, image.shape, dtype=np.int16)
    lit = cv2.convertScaleAbs(softened, alpha=rng.uniform(0.6, 1.15))
    return np.asarray(cv2.add(lit, grain, dtype=cv2.CV_8U), dtype=np.uint8)


def _to_coco(person: DrawnPerson, image_id: int) -> dict[str, Any]:
    labeled = person.visibility[:, None] > 0
    keypoints = np.concatenate([np.where(labeled, person.xy_img, 0), person.visibility[:, None]], axis=1)
    x1, y1, x2, y2 = person.box_xyxy.tolist()
    return {
        "image_id": image_id,
        "category_id": 1,
        "iscrowd": 0,
        "bbox": [x1, y1, x2 - x1, y2 - y1],
        "area": person.area,
        "num_keypoints": int(labeled.sum()),
        "keypoints": [round(value, 2) for value in keypoints.ravel().tolist()],
    }
