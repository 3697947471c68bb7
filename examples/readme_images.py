"""Make the images of the README: styles of drawing, doubt, blurred faces.

The photograph is the sample that matplotlib installs, of Grace Hopper (public domain), predicted by the shipped student
with the whole image as the box. That student was trained on real people and is off by more than a tenth of their
height on drawn ones, so that these show their true keypoints, with made-up scores: 1 for what is seen, 0.25 for what is
covered.

    python examples/readme_images.py --out docs/images
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import NamedTuple

import matplotlib
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from distilpose import PosePredictor, PoseResult
from distilpose.data.images import read_image
from distilpose.data.synthetic import draw_people
from distilpose.visualization.draw import STYLES

Pixels = NDArray[np.uint8]
CAPTION_HEIGHT, GAP = 26, 6  # pixels
SCENE_SEED, SCENE_HW = 354, (270, 396)  # people side by side, in poses that show all limbs


def main() -> None:
    """Write the images."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("docs/images"), help="folder, made if missing")
    out: Path = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    scene = drawn_scene()
    styles = [("the image", scene.image), *((name, scene.people.draw(scene.image, name)) for name in STYLES)]
    save(out / "styles.jpg", grid(styles, columns=3))
    photograph = predicted_photograph()
    panels = [
        ("left blue, right orange, doubt faint", photograph.people.draw(photograph.image)),
        ("face blurred", photograph.people.blur_faces(photograph.image)),
    ]
    save(out / "photograph.jpg", grid([(caption, shrunk(panel)) for caption, panel in panels], columns=2))


class Scene(NamedTuple):
    """An image and its people."""

    image: Pixels
    people: PoseResult


def drawn_scene() -> Scene:
    """Three drawn people with their true keypoints."""
    image, people = draw_people(np.random.default_rng(SCENE_SEED), SCENE_HW, 3)
    visibility = np.array([person.visibility for person in people])
    score = np.choose(visibility, [0.0, 0.25, 1.0])
    result = PoseResult(
        xy=np.array([person.xy_img for person in people]),
        box=np.array([person.box_xyxy for person in people]),
        box_score=np.ones(len(people)),
        pose_score=score.mean(axis=1),
        raw_score=score,
        track_id=np.arange(1, 1 + len(people)),
    )
    return Scene(image, result)


def predicted_photograph() -> Scene:
    """The shipped student on a photograph, the whole of which is its person box."""
    image = read_image(Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg")
    height, width = image.shape[:2]
    predictor = PosePredictor("distilpose_s_demo", flip_test="aligned")
    return Scene(image, predictor(image, [[0, 0, width, height]]))


def shrunk(image: Pixels, height: int = 360) -> Pixels:
    """The image at a height, its shape kept."""
    whole = Image.fromarray(image)
    return np.array(whole.resize((round(height * whole.width / whole.height), height), Image.Resampling.LANCZOS))


def save(path: Path, image: Pixels) -> None:
    """As JPEG: the drawn grain makes PNG five times as large. Full color keeps thin lines."""
    Image.fromarray(image).save(path, quality=78, subsampling=0, optimize=True)


def grid(images: list[tuple[str, Pixels]], columns: int) -> Pixels:
    """Images of one size with captions below, on white."""
    height, width = images[0][1].shape[:2]
    rows = -(-len(images) // columns)
    step_y, step_x = height + CAPTION_HEIGHT, width + GAP
    sheet = Image.new("RGB", (columns * step_x - GAP, rows * step_y), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(16)
    for place, (caption, image) in enumerate(images):
        x, y = place % columns * step_x, place // columns * step_y
        sheet.paste(Image.fromarray(image), (x, y))
        pen.text((x + width / 2, y + height + 3), caption, fill=(40, 44, 52), font=font, anchor="ma")
    return np.array(sheet)


if __name__ == "__main__":
    main()
