"""Make the images of README and guide: real photographs with the poses that the shipped weights find.

python examples/readme_images.py --out docs/images
python examples/readme_images.py --out docs/images --video ../shared/data/video/intel_one_by_one_person.mp4
python examples/readme_images.py --out docs/images --compare "student alone=FILE" "distilled=FILE" "teacher=FILE"
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from distilpose import PoseEstimator
from distilpose.types import ImageArray
from distilpose.visualization.draw import STYLES

PHOTOS = Path(__file__).parents[1] / "docs" / "images" / "photos"  # sources and licenses: ATTRIBUTION.md beside it
IN_README = ("000000085772", "000000199055", "000000173830", "000000270474")
WITH_STYLES = "000000329456"
COMPARED = "000000173830"
HEIGHT, CAPTION_HEIGHT, GAP = 300, 26, 6  # pixels
CLIP_SECONDS, CLIP_FPS, CLIP_WIDTH = (23.2, 28.2), 10, 400  # of the animation: from, to; frames a second; pixels


def main() -> None:
    """Write the images."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("docs/images"), help="folder, made if missing")
    parser.add_argument("--video", type=Path, help="make video.webp from this video, and nothing else")
    parser.add_argument(
        "--compare", nargs="+", metavar="CAPTION=MODEL", help="make compared.jpg, one column a model, and nothing else"
    )
    options = parser.parse_args()
    out: Path = options.out
    out.mkdir(parents=True, exist_ok=True)
    if options.compare is not None:
        models = dict(pair.split("=", 1) for pair in options.compare)
        save(out / "compared.jpg", compare(models))
        return
    estimator = PoseEstimator()
    if options.video is not None:
        animate(estimator, options.video, out / "video.webp")
        return
    people = [np.array(estimator(PHOTOS / f"{name}.jpg").plot()) for name in IN_README]
    save(out / "people.jpg", row([("", image) for image in people]))
    result = estimator(PHOTOS / f"{WITH_STYLES}.jpg")
    styles = [(name, result.draw(style=name)) for name in STYLES]
    styles.append(("faces blurred", result.blur_faces()))
    half = len(styles) // 2
    save(out / "styles.jpg", np.concatenate([row(styles[:half]), row(styles[half:])]))


def compare(models: dict[str, str]) -> ImageArray:
    """The poses of several models in one photograph, in the boxes of the built-in detector."""
    return row([(name, PoseEstimator(model)(PHOTOS / f"{COMPARED}.jpg").draw()) for name, model in models.items()])


def animate(estimator: PoseEstimator, video: Path, file: Path) -> None:
    """Write an animation of the tracked poses in a part of a video."""
    start, end = CLIP_SECONDS
    images: list[Image.Image] = []
    for frame in estimator.stream(video):
        time = frame.frame_id.time or 0.0
        if time > end:
            break
        if frame.result is not None and time >= start + len(images) / CLIP_FPS:
            image = Image.fromarray(np.array(frame.result.plot()))
            images.append(image.resize((CLIP_WIDTH, round(CLIP_WIDTH * image.height / image.width))))
    images[0].save(file, save_all=True, append_images=images[1:], duration=1000 // CLIP_FPS, loop=0, quality=60)


def row(images: list[tuple[str, ImageArray]]) -> ImageArray:
    """Images at one height, side by side, with captions below, on white."""
    panels = [Image.fromarray(image) for _, image in images]
    panels = [panel.resize((round(HEIGHT * panel.width / panel.height), HEIGHT)) for panel in panels]
    captions = CAPTION_HEIGHT if any(caption for caption, _ in images) else 0
    width = sum(panel.width for panel in panels) + GAP * (len(panels) - 1)
    sheet = Image.new("RGB", (width, HEIGHT + captions), "white")
    pen, font, x = ImageDraw.Draw(sheet), ImageFont.load_default(16), 0
    for (caption, _), panel in zip(images, panels, strict=True):
        sheet.paste(panel, (x, 0))
        pen.text((x + panel.width / 2, HEIGHT + 3), caption, fill=(40, 44, 52), font=font, anchor="ma")
        x += panel.width + GAP
    return np.array(sheet)


def save(path: Path, image: ImageArray) -> None:
    """As JPEG in full color, which keeps thin lines."""
    Image.fromarray(image).save(path, quality=82, subsampling=0, optimize=True)


if __name__ == "__main__":
    main()
