"""Person crops to calibrate int8 with."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from distilpose.data.images import list_images, read_image
from distilpose.data.preprocess import crop_image
from distilpose.errors import ConfigError, InputError
from distilpose.evaluation.evaluation_set import EvaluationSet
from distilpose.geometry import CropTransform
from distilpose.skeletons import Skeleton
from distilpose.types import ImageArray

CALIBRATION_CROPS = 300
FEWEST_CROPS = 8


def calibration_crops(
    source: str | Path,
    input_size_hw: tuple[int, int],
    skeleton: Skeleton,
    *,
    images: str | Path | None = None,
    count: int = CALIBRATION_CROPS,
) -> ImageArray:
    """Person crops (N, H, W, 3) uint8, spread evenly over a data set.

    Args:
        source: a folder of images of one person each, or a COCO keypoint file.
        input_size_hw: (H, W) of a crop.
        skeleton: of the model.
        images: folder of a COCO file's images; ``images`` beside it when None.
        count: how many crops, or all there are if they are fewer.

    Raises:
        ConfigError: ``source`` is neither file nor folder, or ``count`` is too small.
        InputError: there are too few crops, or an image cannot be read.
        DatasetError: the annotations or their images are unusable.
    """
    source = Path(source)
    if count < FEWEST_CROPS:
        raise ConfigError(f"calibration needs at least {FEWEST_CROPS} crops, got {count}")
    if source.is_dir():
        crops = _from_folder(source, input_size_hw, count)
    elif source.is_file():
        folder = source.parent / "images" if images is None else Path(images)
        people = EvaluationSet.load(source, folder, input_size_hw=input_size_hw, skeleton=skeleton)
        crops = list(people.crops(_spread(len(people), count)))
    else:
        raise ConfigError(
            f"{source} is neither a folder nor a file: calibrate with a folder of images of one person each, or "
            "with a COCO keypoint file"
        )
    if len(crops) < FEWEST_CROPS:
        raise InputError(f"{source} gives {len(crops)} crops, calibration needs at least {FEWEST_CROPS}: add images")
    return np.stack(crops)


def _from_folder(folder: Path, input_size_hw: tuple[int, int], count: int) -> list[ImageArray]:
    paths = list_images([folder])
    images = (read_image(paths[index]) for index in _spread(len(paths), count))
    return [
        crop_image(image, CropTransform.from_box((0, 0, image.shape[1], image.shape[0]), input_size_hw))
        for image in images
    ]


def _spread(total: int, count: int) -> list[int]:
    return sorted({int(index) for index in np.linspace(0, total - 1, min(count, total)).round()})
