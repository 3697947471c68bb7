"""Build the training sets of the shipped student, and coco_val_dev, from their official sources.

    python examples/data/build.py coco --annotations person_keypoints_val2017.json --images val2017 --out data
    python examples/data/build.py stanford40 --folder Stanford40 --out data
    python examples/data/build.py lspet --folder lspet --out data

Which images belong to a set stands in ids.json beside this file. Every set is a folder with ``images`` and
``person_keypoints.json``; annotation ids are unique over all of them. docs/datasets.md has the addresses.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from distilpose.data.images import read_image
from distilpose.errors import DistilPoseError
from distilpose.skeletons import COCO_17, LSP_14

IDS = Path(__file__).parent / "ids.json"
PADDING, ASPECT = 1.5, 3 / 4  # of a crop around its person box; width over height
AREA_OF_BOX = 0.53  # where a set has no area, as the COCO baselines assume
CATEGORY = {
    "id": 1,
    "name": "person",
    "keypoints": list(COCO_17.keypoint_names),
    "skeleton": [[start + 1, end + 1] for start, end in COCO_17.edges],
}
# People of each set; annotation ids begin behind those of the set before.
EXPECTED = {"coco_val_train_crops": 5202, "stanford40_pseudo_crops": 9336, "lspet_train_crops": 6734}
FIRST_ID = {"coco_val_train_crops": 1, "stanford40_pseudo_crops": 100_001, "lspet_train_crops": 200_001}


def main() -> None:
    """Build what one source gives."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sources = parser.add_subparsers(dest="source", required=True)
    coco = sources.add_parser("coco", help="coco_val_dev and coco_val_train_crops")
    coco.add_argument("--annotations", type=Path, required=True, help="person_keypoints_val2017.json")
    coco.add_argument("--images", type=Path, required=True, help="folder val2017")
    stanford = sources.add_parser("stanford40", help="stanford40_pseudo_crops, without keypoints: a teacher labels it")
    stanford.add_argument("--folder", type=Path, required=True, help="folder with JPEGImages and XMLAnnotations")
    lspet = sources.add_parser("lspet", help="lspet_train_crops")
    lspet.add_argument("--folder", type=Path, required=True, help="folder with images and joints.mat")
    for source in (coco, stanford, lspet):
        source.add_argument("--out", type=Path, default=Path("data"), help="folder of the sets, made if missing")
    args = parser.parse_args()
    try:
        build(args)
    except (DistilPoseError, OSError) as error:
        sys.exit(f"error: {error}")


def build(args: argparse.Namespace) -> None:
    """Write the sets of ``args.source`` below ``args.out``."""
    if args.source == "coco":
        coco = json.loads(args.annotations.read_text(encoding="utf-8"))
        write_dev(coco, args.images, args.out / "coco_val_dev")
        write_crops(coco_people(coco, args.images), args.out / "coco_val_train_crops", largest=288)
    elif args.source == "stanford40":
        write_crops(stanford_people(args.folder), args.out / "stanford40_pseudo_crops", largest=240)
    else:
        write_crops(lspet_people(args.folder), args.out / "lspet_train_crops", largest=432)


def wanted(name: str) -> Any:
    """Numbers of a set's images: a list, or one for each action of Stanford 40."""
    ids = json.loads(IDS.read_text(encoding="utf-8"))[name]
    return {key: numbers(text) for key, text in ids.items()} if isinstance(ids, dict) else numbers(ids)


def numbers(text: str) -> list[int]:
    """``"3 7-9"`` -> [3, 7, 8, 9]."""
    found: list[int] = []
    for part in text.split():
        first, _, last = part.partition("-")
        found += range(int(first), int(last or first) + 1)
    return found


def write_dev(coco: dict[str, Any], images: Path, out: Path) -> None:
    """The 120 whole images of coco_val_dev with all of their annotations."""
    ids = set(wanted("coco_val_dev"))
    kept = [image for image in coco["images"] if image["id"] in ids]
    (out / "images").mkdir(parents=True, exist_ok=True)
    missing = [image["file_name"] for image in kept if not (images / image["file_name"]).is_file()]
    if missing or len(kept) < len(ids):
        known = len(kept) - len(missing)
        raise FileNotFoundError(f"expected {len(ids)} images of val2017 in {images}, found {known}")
    for image in kept:
        shutil.copyfile(images / image["file_name"], out / "images" / image["file_name"])
    annotations = [item for item in coco["annotations"] if item["image_id"] in ids]
    rest = {key: coco[key] for key in ("info", "licenses", "categories") if key in coco}
    write_json(out, {**rest, "images": kept, "annotations": annotations})
    people = sum(item.get("num_keypoints", 0) > 0 for item in annotations)
    print(f"{out}: {len(kept)} images, {len(annotations)} people, {people} with keypoints (expected 120, 245, 202)")


Person = tuple[str, Path, NDArray[np.float64], NDArray[np.float64], float]  # source, image, box xyxy, keypoints, area


def coco_people(coco: dict[str, Any], images: Path) -> Iterator[Person]:
    """Every person with keypoints of the training images."""
    files = {image["id"]: image["file_name"] for image in coco["images"]}
    ids = set(wanted("coco_val_train"))
    for item in sorted(coco["annotations"], key=lambda item: (item["image_id"], item["id"])):
        if item["image_id"] in ids and item.get("num_keypoints") and not item.get("iscrowd"):
            left, top, width, height = item["bbox"]
            box = np.array([left, top, left + width, top + height])
            keypoints = np.array(item["keypoints"], dtype=float).reshape(-1, 3)
            yield str(item["id"]), images / files[item["image_id"]], box, keypoints, float(item["area"])


def stanford_people(folder: Path) -> Iterator[Person]:
    """The main person of each photograph; keypoints are left open (0) for a teacher."""
    for action, ids in wanted("stanford40").items():
        for number in ids:
            name = f"{action}_{number:03d}"
            tree = ElementTree.parse(folder / "XMLAnnotations" / f"{name}.xml")  # noqa: S314 - the data set's own file
            box = np.array(
                [float(tree.findtext(f".//bndbox/{side}", "0")) for side in ("xmin", "ymin", "xmax", "ymax")]
            )
            width, height = box[2:] - box[:2]
            yield name, folder / "JPEGImages" / f"{name}.jpg", box, np.zeros((17, 3)), AREA_OF_BOX * width * height


def lspet_people(folder: Path) -> Iterator[Person]:
    """The person of each image: 12 joints of the body; COCO's five points of the face are 0."""
    from scipy.io import loadmat

    joints = np.asarray(loadmat(folder / "joints.mat")["joints"], dtype=float)  # (14, 3, N): x, y, labeled
    place = {name: row for row, name in enumerate(LSP_14.keypoint_names)}
    for number in wanted("lspet"):
        keypoints = np.zeros((17, 3))
        for row, name in enumerate(COCO_17.keypoint_names):
            if name in place:
                x, y, labeled = joints[place[name], :, number - 1]
                keypoints[row] = (x, y, 2) if labeled else 0
        seen = keypoints[keypoints[:, 2] > 0, :2]
        if len(seen) < 2:
            continue
        margin = 0.1 * float((seen.max(0) - seen.min(0)).max())  # on each side, as for sets without boxes
        box = np.concatenate([seen.min(0) - margin, seen.max(0) + margin])
        image = folder / "images" / f"im{number:05d}.jpg"
        yield str(number), image, box, keypoints, AREA_OF_BOX * float(np.prod(box[2:] - box[:2]))


def write_crops(people: Iterator[Person], out: Path, largest: int) -> None:
    """Cut every person out, as WebP, with the annotations moved into the crop."""
    (out / "images").mkdir(parents=True, exist_ok=True)
    images, annotations, first = [], [], FIRST_ID[out.name]
    for number, (source, path, box, keypoints, area) in enumerate(people, start=1):
        crop, scale, corner = cut(read_image(path), box, largest)
        height, width = crop.shape[:2]
        name = f"{number:06d}.webp"
        Image.fromarray(crop).save(out / "images" / name, quality=90)
        images.append({"id": first + number - 1, "file_name": name, "width": width, "height": height, "source": source})
        moved = keypoints.copy()
        moved[:, :2] = np.where(keypoints[:, 2:] > 0, (keypoints[:, :2] - corner) * scale, 0)
        inside = np.clip((box.reshape(2, 2) - corner) * scale, 0, (width, height))
        annotation = {
            "id": first + number - 1,
            "image_id": first + number - 1,
            "category_id": 1,
            "iscrowd": 0,
            "bbox": [round(float(value), 2) for value in (*inside[0], *(inside[1] - inside[0]))],
            "area": round(area * scale**2, 1),
            "keypoints": [round(float(value), 2) for value in moved.reshape(-1)],
            "num_keypoints": int((keypoints[:, 2] > 0).sum()),
        }
        annotations.append(annotation)
        if number % 500 == 0:
            print(f"{out}: {number} people", file=sys.stderr)
    write_json(out, {"images": images, "annotations": annotations, "categories": [CATEGORY]})
    print(f"{out}: {len(annotations)} people (expected {EXPECTED[out.name]})")


def cut(
    image: NDArray[np.uint8], box: NDArray[np.float64], largest: int
) -> tuple[NDArray[np.uint8], float, NDArray[np.float64]]:
    """A person's surroundings.

    Args:
        image: (H, W, 3) uint8 RGB.
        box: (4,) left, top, right, bottom of the person in image pixels.
        largest: height in pixels that the crop is shrunk to where it is higher.

    Returns:
        The crop, its scale, and its top-left corner (x, y) in the image.
    """
    center, (width, height) = (box[:2] + box[2:]) / 2, box[2:] - box[:2]
    size = PADDING * np.array([max(width, height * ASPECT), max(height, width / ASPECT)])
    low = np.clip(np.floor(center - size / 2), 0, None).astype(int)
    high = np.minimum(np.ceil(center + size / 2), image.shape[1::-1]).astype(int)
    crop = np.ascontiguousarray(image[low[1] : high[1], low[0] : high[0]])
    scale = min(1.0, largest / crop.shape[0])
    if scale < 1:
        size_wh = (max(1, round(crop.shape[1] * scale)), largest)
        crop = np.asarray(cv2.resize(crop, size_wh, interpolation=cv2.INTER_AREA), dtype=np.uint8)
    return crop, scale, low.astype(float)


def write_json(out: Path, content: dict[str, Any]) -> None:
    """As ``person_keypoints.json``."""
    (out / "person_keypoints.json").write_text(json.dumps(content), encoding="utf-8")


if __name__ == "__main__":
    main()
