"""Where person boxes come from when no file gives them.

What ``--detector`` takes, with the defaults of ``threshold`` (least score) and ``nms_iou`` (overlap):

- ``auto``: the detector inside the package, NanoDet-g. 0.35, 0.55. See `NanodetDetector`. Prediction and evaluation
  also keep weaker boxes whose pose is sure (`ConfirmedDetector`); ``nanodet`` goes by the score of the box alone;
- ``hf:ID_OR_FOLDER``: an object detection model of transformers. 0.5, 0.7. See `HfDetector`;
- ``onnx:FILE`` or ``onnx:FILE?key=value&...``: a detector in an ONNX file. 0.5 for the DETR layouts, else 0.3; 0.7. See
  `distilpose.detection.onnx` for the layouts and keys;
- ``whole-image``: the image is one person; prediction fits the box to the pose and looks again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from distilpose.errors import ConfigError
from distilpose.formats.boxes import PersonBoxes
from distilpose.skeletons import Skeleton
from distilpose.types import ImageArray

DEFAULT_DETECTOR = "auto"
DETECTORS = ("auto", "nanodet", "whole-image", "hf:ID_OR_FOLDER", "onnx:FILE")  # forms of a name, for messages and help
_OF_PEOPLE = ("auto", "nanodet", "hf")


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
    name: str,
    *,
    threshold: float | None = None,
    nms_iou: float | None = None,
    device: str | None = None,
    threads: int | None = None,
    tile: int | None = None,
) -> Detector:
    """Build a detector by the name that ``--detector`` takes, see the module.

    Args:
        name: one of `DETECTORS`.
        threshold: least score of a box, in [0, 1]; the detector's own when None. Without meaning for ``whole-image``.
        nms_iou: of two boxes that overlap by more, the weaker one goes, in [0, 1]; the detector's own when None.
        device: where torch runs an ``hf:`` model; the CPU when None. The others run on the CPU.
        threads: of one run of a detector in ONNX Runtime; chosen by it when None.
        tile: side in pixels of the tiles in which the built-in detector also looks, for small people in large images.

    Raises:
        ConfigError: there is no such detector, an option is out of range, a package is missing, or the model finds no
            people.
        InputError: the model is missing, broken, or cannot be downloaded.
    """
    options: dict[str, Any] = {}
    for key, label, value in (("threshold", "detection_threshold", threshold), ("nms_iou", "nms_iou", nms_iou)):
        if value is not None:
            if not (isinstance(value, int | float) and 0 <= value <= 1):
                raise ConfigError(f"{label} must be a number from 0 to 1, got {value!r}")
            options[key] = float(value)
    kind, colon, source = name.partition(":")
    known = ("hf", "onnx") if source else () if colon else ("auto", "nanodet", "whole-image")
    if kind not in known:
        gone = ": OpenCV's detector is gone, the built-in one (auto) finds far more" if kind == "hog" else ""
        raise ConfigError(f"detector must be one of {', '.join(DETECTORS)}, got {name!r}{gone}")
    if tile is not None and kind not in ("auto", "nanodet"):
        raise ConfigError(f"tiles are searched by the built-in detector, got tile {tile} and the detector {name}")
    if kind == "whole-image":
        return WholeImage()
    if kind == "hf":
        from distilpose.detection.transformers import HfDetector

        return HfDetector(source, device=device, **options)
    if kind == "onnx":
        from distilpose.detection.onnx import OnnxDetector

        return OnnxDetector(source, threads=threads, **options)
    from distilpose.detection.nanodet import NanodetDetector

    return NanodetDetector(tile=tile, threads=threads, **options)


def check_detector_fits(name: str, skeleton: Skeleton) -> None:
    """Refuse a detector that finds people for a model of something else; an ``onnx:`` file is believed.

    Raises:
        ConfigError: the skeleton is not a person's, and the detector finds nothing but people.
    """
    if not skeleton.is_person and name.partition(":")[0] in _OF_PEOPLE:
        raise ConfigError(
            f"the model finds {skeleton.name} ({', '.join(skeleton.keypoint_names[:4])}, ...), which is no person, and "
            f"the detector {name} finds people only: give boxes (--boxes FILE), --detector whole-image for images of "
            "one, or --detector onnx:FILE with a detector of these things"
        )
