"""Where person boxes come from when no file gives them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from distilpose.boxes_file import PersonBoxes
from distilpose.errors import ConfigError


class Detector(Protocol):
    """Finds the people in images."""

    def __call__(self, images: Sequence[NDArray[np.uint8]]) -> list[PersonBoxes]:
        """(H, W, 3) uint8 RGB each, of any sizes -> for each N >= 0 boxes in its pixels, best score first."""
        ...


class WholeImage:
    """Takes the image for a picture of one person that fills it, such as a crop made elsewhere."""

    def __call__(self, images: Sequence[NDArray[np.uint8]]) -> list[PersonBoxes]:
        """(H, W, 3) uint8 RGB each -> one box of score 1 each, from edge to edge."""
        return [PersonBoxes(np.array([[0.0, 0.0, image.shape[1], image.shape[0]]]), np.ones(1)) for image in images]


DETECTORS: dict[str, Callable[[], Detector]] = {"whole-image": WholeImage}


def create_detector(name: str) -> Detector:
    """Build a detector by the name that ``--detector`` takes.

    Raises:
        ConfigError: there is no such detector.
    """
    if name not in DETECTORS:
        raise ConfigError(f"detector must be one of {', '.join(DETECTORS)}, got {name!r}")
    return DETECTORS[name]()
