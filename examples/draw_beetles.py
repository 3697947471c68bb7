"""Draw beetles with their keypoints, as a COCO file such as an annotation tool exports: 50 to learn from, 20 to test.

Stands in for photographs and an afternoon of clicking in docs/custom_skeleton.md.

    python examples/draw_beetles.py --out beetles
"""

from __future__ import annotations

import argparse
import json
import shutil
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import yaml
from numpy.typing import NDArray

from distilpose.data.images import write_image
from distilpose.skeletons import Skeleton, skeleton_from_file

FloatArray = NDArray[np.float64]
Image = NDArray[np.uint8]

SKELETON_FILE = Path(__file__).with_name("beetle.yaml")
IMAGE_HW = (240, 240)
LEGS = ("front", "middle", "hind")
# In body lengths: where legs begin along the body (0 head, 1 tail), how long they are, and their usual direction in
# degrees from straight ahead.
LEG_ROOT = {"front": 0.33, "middle": 0.42, "hind": 0.52}
LEG_LENGTH = {"front": 0.45, "middle": 0.45, "hind": 0.6}
LEG_DEGREES = {"front": 45.0, "middle": 95.0, "hind": 145.0}
SUBPIXEL_BITS = 4


class Beetle(NamedTuple):
    """Points in image pixels by the names of the skeleton, the lines and ovals to draw, and the size of the body."""

    points: dict[str, FloatArray]
    lines: list[list[FloatArray]]
    length: float
    heading_deg: float


def main() -> None:
    """Write the two sets and the skeleton."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("beetles"), help="folder to write to")
    parser.add_argument("--train", type=int, default=50, help="images to learn from")
    parser.add_argument("--test", type=int, default=20, help="images to test with")
    arguments = parser.parse_args()
    skeleton = skeleton_from_file(SKELETON_FILE)
    for seed, (name, count) in enumerate((("train", arguments.train), ("test", arguments.test))):
        write_set(arguments.out / name, count, skeleton, seed)
    shutil.copyfile(SKELETON_FILE, arguments.out / SKELETON_FILE.name)


def write_set(folder: Path, count: int, skeleton: Skeleton, seed: int) -> Path:
    """Draw a set; like many tools, its file has boxes and keypoints but no ``area``.

    Unlike them, its category has all fields of the skeleton, so that the file alone says how AP is measured.
    """
    (folder / "images").mkdir(parents=True, exist_ok=True)
    images, annotations = [], []
    for number in range(1, count + 1):
        rng = np.random.default_rng((seed, number))
        image, keypoints = draw_image(rng, skeleton)
        name = f"{number:03d}.png"
        write_image(folder / "images" / name, image)
        images.append({"id": number, "file_name": name, "height": IMAGE_HW[0], "width": IMAGE_HW[1]})
        annotations.append({"id": number, "image_id": number, "category_id": 1, "iscrowd": 0, **keypoints})
    edges = [[a + 1, b + 1] for a, b in skeleton.edges]
    fields = yaml.safe_load(skeleton.to_yaml())
    category = {"id": 1, "skeleton": edges, **{name: fields[name] for name in fields if name != "edges"}}
    file = folder / "keypoints.json"
    file.write_text(json.dumps({"images": images, "annotations": annotations, "categories": [category]}))
    return file


def draw_image(rng: np.random.Generator, skeleton: Skeleton) -> tuple[Image, dict[str, Any]]:
    """One beetle on the ground, now and then with a leaf over a part of it; (H, W, 3) and its labels."""
    image = draw_ground(rng)
    beetle = pose_beetle(rng)
    draw_beetle(image, beetle, rng)
    covered = draw_leaf(image, beetle, rng) if rng.random() < 0.3 else np.zeros(IMAGE_HW, dtype=bool)
    keypoints: list[float] = []
    for name in skeleton.keypoint_names:
        x, y = beetle.points[name]
        hidden = covered[min(max(round(y), 0), IMAGE_HW[0] - 1), min(max(round(x), 0), IMAGE_HW[1] - 1)]
        keypoints += [round(float(x), 1), round(float(y), 1), 1 if hidden else 2]
    xy = np.array(list(beetle.points.values()))
    low, high = xy.min(0) - 4, xy.max(0) + 4
    return image, {"bbox": [*low.round(1).tolist(), *(high - low).round(1).tolist()], "keypoints": keypoints}


def pose_beetle(rng: np.random.Generator) -> Beetle:
    """A beetle that walks roughly up the image, its legs in stride."""
    length, heading = rng.uniform(70, 100), rng.uniform(-40, 40)
    ahead = direction(heading)
    tail = np.array([IMAGE_HW[1], IMAGE_HW[0]]) / 2 + rng.uniform(-15, 15, 2) - 0.5 * length * ahead
    head = tail + length * ahead
    points = {"head": head, "waist": tail + 0.62 * length * ahead, "tail": tail}
    lines = []
    for side, sign in (("left", -1), ("right", 1)):
        bent = direction(heading + sign * (25 + rng.uniform(-12, 12)))
        tip = head + length * (0.2 * bent + 0.15 * direction(heading + sign * (65 + rng.uniform(-20, 20))))
        points[f"{side}_antenna"] = tip
        lines.append([head, head + 0.2 * length * bent, tip])
        for leg in LEGS:
            root = head - LEG_ROOT[leg] * length * ahead
            turn = heading + sign * (LEG_DEGREES[leg] + rng.uniform(-22, 22))
            knee = root + 0.55 * LEG_LENGTH[leg] * length * direction(turn - sign * 15)
            foot = knee + 0.55 * LEG_LENGTH[leg] * length * direction(turn + sign * 20)
            points[f"{side}_{leg}_foot"] = foot
            lines.append([root, knee, foot])
    return Beetle(points, lines, length, heading)


def direction(degrees: float) -> FloatArray:
    """(2,) unit vector, 0 up the image, clockwise."""
    turn = np.deg2rad(degrees)
    return np.array([np.sin(turn), -np.cos(turn)])


def draw_ground(rng: np.random.Generator) -> Image:
    """Blotchy ground with blades of grass."""
    color = rng.uniform((120, 105, 70), (215, 205, 165))
    blotches = rng.normal(0, 22, (12, 12, 1)) + rng.normal(0, 6, (12, 12, 3))
    wide = cv2.resize(blotches, IMAGE_HW[::-1], interpolation=cv2.INTER_CUBIC)
    image = np.clip(color + wide + rng.normal(0, 5, (*IMAGE_HW, 3)), 0, 255).astype(np.uint8)
    for _ in range(rng.integers(3, 12)):
        start = rng.uniform(0, IMAGE_HW[0], 2)
        end = start + rng.normal(0, 40, 2)
        shade = rng.uniform((60, 90, 30), (120, 160, 80)).tolist()
        cv2.line(image, fixed(start), fixed(end), shade, int(rng.integers(1, 3)), cv2.LINE_AA, SUBPIXEL_BITS)
    return image


def draw_beetle(image: Image, beetle: Beetle, rng: np.random.Generator) -> None:
    """Legs and antennae first, then the three parts of the body, with a line where the wing cases meet."""
    dark = rng.uniform((15, 15, 15), (60, 45, 40)).tolist()
    shell = rng.uniform((20, 30, 20), (130, 90, 60)).tolist()
    for line in beetle.lines:
        for start, end in pairwise(line):
            cv2.line(image, fixed(start), fixed(end), dark, 2, cv2.LINE_AA, SUBPIXEL_BITS)
    head, waist, tail = (beetle.points[name] for name in ("head", "waist", "tail"))
    parts = (((waist + tail) / 2, 0.32, 0.22, shell), (0.55 * waist + 0.45 * head, 0.15, 0.17, dark))
    for center, along, across, color in (*parts, (head + 0.08 * (waist - head), 0.09, 0.09, dark)):
        axes = fixed(beetle.length * np.array([across, along]))
        cv2.ellipse(image, fixed(center), axes, beetle.heading_deg, 0, 360, color, -1, cv2.LINE_AA, SUBPIXEL_BITS)
    cv2.line(image, fixed(waist), fixed(tail), dark, 1, cv2.LINE_AA, SUBPIXEL_BITS)


def draw_leaf(image: Image, beetle: Beetle, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Lay a leaf over one foot or antenna; (H, W) True where it is."""
    name = list(beetle.points)[rng.integers(3, len(beetle.points))]
    mask = np.zeros(IMAGE_HW, dtype=np.uint8)
    axes = fixed(rng.uniform((14, 8), (26, 14)))
    cv2.ellipse(mask, fixed(beetle.points[name]), axes, float(rng.uniform(0, 180)), 0, 360, 255, -1, 8, SUBPIXEL_BITS)
    covered = mask > 0
    image[covered] = rng.uniform((50, 100, 30), (110, 160, 80)).astype(np.uint8)
    return covered


def fixed(point: FloatArray) -> tuple[int, int]:
    """A point as OpenCV takes fractions of pixels."""
    x, y = np.rint(np.asarray(point) * 2**SUBPIXEL_BITS).astype(int).tolist()
    return x, y


if __name__ == "__main__":
    main()
