"""Where person boxes come from when no file gives them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from distilpose.boxes_file import PersonBoxes
from distilpose.errors import ConfigError


class Detector(Protocol):
    """Finds the people in an image."""

    def __call__(self, image: NDArray[np.uint8]) -> PersonBoxes:
        """(H, W, 3) uint8 RGB -> N >= 0 boxes in its pixels."""
        ...


class WholeImage:
    """Takes the image for a picture of one person that fills it, such as a crop made elsewhere."""

    def __call__(self, image: NDArray[np.uint8]) -> PersonBoxes:
        """(H, W, 3) uint8 RGB -> one box of score 1, from edge to edge."""
        height, width = image.shape[:2]
        return PersonBoxes(np.array([[0.0, 0.0, width, height]]), np.ones(1))


DETECTORS: dict[str, Callable[[], Detector]] = {"whole-image": WholeImage}


def create_detector(name: str) -> Detector:
    """Build a detector by the name that ``--detector`` takes.

    Raises:
        ConfigError: there is no such detector.
    """
    if name not in DETECTORS:
        raise ConfigError(f"detector must be one of {', '.join(DETECTORS)}, got {name!r}")
    return DETECTORS[name]()
