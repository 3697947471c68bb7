"""Where person boxes come from when no file gives them.

What ``--detector`` takes, with the defaults of ``threshold`` (least score) and ``nms_iou`` (overlap):

- ``auto``: ``hf:`` with `AUTO_MODEL` where transformers is installed and the model is in the local cache or can be
  downloaded, else ``hog``, with a warning;
- ``hog``: standing people, by OpenCV; nothing to install or download. 0.5, 0.5. See `hog_detector`;
- ``hf:ID_OR_FOLDER``: an object detection model of transformers. 0.5, 0.7. See `hf_detector`;
- ``onnx:FILE`` or ``onnx:FILE?key=value&...``: a detector in an ONNX file. 0.5 for the DETR layouts, else 0.3; 0.7. See
  `onnx_detector` for the layouts and keys;
- ``whole-image``: the image is one person.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from distilpose.detection.filtering import check_fraction
from distilpose.errors import ConfigError, DistilPoseError
from distilpose.formats.boxes import PersonBoxes
from distilpose.skeletons import Skeleton
from distilpose.types import ImageArray

logger = logging.getLogger(__name__)

# Apache-2.0, 20 million parameters, trained on COCO: the smallest RT-DETRv2.
AUTO_MODEL = "PekingU/rtdetr_v2_r18vd"


class Detector(Protocol):
    """Finds the people in images. Threads may call it at the same time."""

    def __call__(self, images: Sequence[ImageArray]) -> list[PersonBoxes]:
        """(H, W, 3) uint8 RGB each, of any sizes -> for each N >= 0 boxes in its pixels, best score first."""
        ...


class WholeImage:
    """Takes the image for an image of one person that fills it, such as a crop made elsewhere."""

    def __call__(self, images: Sequence[ImageArray]) -> list[PersonBoxes]:
        """(H, W, 3) uint8 RGB each -> one box of score 1 each, from edge to edge."""
        return [PersonBoxes(np.array([[0.0, 0.0, image.shape[1], image.shape[0]]]), np.ones(1)) for image in images]


def create_detector(
    name: str, *, threshold: float | None = None, nms_iou: float | None = None, device: str | None = None
) -> Detector:
    """Build a detector by the name that ``--detector`` takes, see the module.

    Args:
        name: what comes before a colon is one of `DETECTORS`.
        threshold: least score of a box, in [0, 1]; the detector's own when None. Without meaning for ``whole-image``.
        nms_iou: of two boxes that overlap by more, the weaker one goes, in [0, 1]; the detector's own when None.
        device: where torch runs an ``hf:`` model; the CPU when None. The others run on the CPU.

    Raises:
        ConfigError: there is no such detector, an option is out of range, a package is missing, or the model finds no
            people.
        InputError: the model is missing, broken, or cannot be downloaded.
    """
    kind, colon, source = name.partition(":")
    options = {
        key: check_fraction(label, value)
        for key, label, value in (("threshold", "detection_threshold", threshold), ("nms_iou", "nms_iou", nms_iou))
        if value is not None
    }
    plain = kind in _PLAIN and not colon
    if not plain and not (kind in _WITH_SOURCE and source):
        raise ConfigError(f"detector must be one of {', '.join(DETECTORS)}, got {name!r}")
    return _PLAIN[kind](options, device) if plain else _WITH_SOURCE[kind](source, options, device)


def check_detector_fits(name: str, skeleton: Skeleton) -> None:
    """Refuse a detector that finds people for a model of something else.

    Args:
        name: what `create_detector` takes. An ``onnx:`` file may find anything and is believed.
        skeleton: of the model.

    Raises:
        ConfigError: the skeleton is not a person's, and the detector finds nothing but people.
    """
    if not skeleton.is_person and name.partition(":")[0] in _OF_PEOPLE:
        raise ConfigError(
            f"the model finds {skeleton.name} ({', '.join(skeleton.keypoint_names[:4])}, ...), which is no person, and "
            f"the detector {name} finds people only: give boxes (--boxes FILE), --detector whole-image for images of "
            "one, or --detector onnx:FILE with a detector of these things"
        )


def _whole_image(options: dict[str, float], device: str | None) -> Detector:
    return WholeImage()


def _hog(options: dict[str, float], device: str | None) -> Detector:
    from distilpose.detection.hog import HogDetector

    return HogDetector(**options)


def _hf(source: str, options: dict[str, float], device: str | None) -> Detector:
    from distilpose.detection.transformers import HfDetector

    return HfDetector(source, **options, device=device)


def _onnx(source: str, options: dict[str, float], device: str | None) -> Detector:
    from distilpose.detection.onnx import OnnxDetector

    return OnnxDetector(source, **options)


def _auto(options: dict[str, float], device: str | None) -> Detector:
    """A model that is there but broken is an error, not a reason to take another detector."""
    from distilpose.detection.transformers import find_model_folder, need_transformers

    try:
        need_transformers(AUTO_MODEL)
        find_model_folder(AUTO_MODEL)
    except DistilPoseError as error:
        logger.warning(
            "People are looked for by OpenCV's HOG detector, which finds standing people only and many things that are "
            "none, because the better one is not available (%s). --detector onnx:FILE, --detector hf:FOLDER and "
            "--boxes FILE work without the network.",
            error,
        )
        return _hog(options, device)
    return _hf(AUTO_MODEL, options, device)


_PLAIN: dict[str, Callable[[dict[str, float], str | None], Detector]] = {
    "auto": _auto,
    "hog": _hog,
    "whole-image": _whole_image,
}
_WITH_SOURCE: dict[str, Callable[[str, dict[str, float], str | None], Detector]] = {"hf": _hf, "onnx": _onnx}

_OF_PEOPLE = ("auto", "hog", "hf")

# The forms of a detector's name, for messages and help.
DETECTORS = (*_PLAIN, "hf:ID_OR_FOLDER", "onnx:FILE")
