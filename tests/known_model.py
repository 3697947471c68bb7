"""A model whose answer is known: it finds the brightest pixel of a crop."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distilpose.backends.description import ModelDescription
from distilpose.inference.options import PredictOptions
from distilpose.inference.predict import predict_files
from distilpose.inference.run import PredictReport
from distilpose.models.outputs import PoseOutput

BRIGHT_XY = (211, 143)


class BrightestPixel:
    """An inference backend: all 17 keypoints where its crop is brightest, sigma (1, 2) cells and score 0.75."""

    description = ModelDescription("brightest", "regression", (256, 192), (64, 48))

    def __init__(self, *, bare: bool = False) -> None:
        self.bare = bare  # without score and sigma
        self.batches: list[int] = []

    def __call__(self, images: NDArray[np.float32]) -> PoseOutput[NDArray[np.float32]]:
        self.batches.append(len(images))
        y, x = np.divmod(images.sum(1).reshape(len(images), -1).argmax(1), images.shape[3])
        xy_norm = np.stack([x / images.shape[3], y / images.shape[2]], axis=-1)[:, None].repeat(17, axis=1)
        if self.bare:
            return PoseOutput(xy_norm.astype(np.float32), None, None)
        sigma = np.broadcast_to(np.float32([1, 2]), xy_norm.shape)
        return PoseOutput(xy_norm.astype(np.float32), sigma, np.full(xy_norm.shape[:2], 0.75, np.float32))


def run(model: Any, out: Path, *sources: Any, **options: Any) -> PredictReport:
    """Predict these sources, with the whole image as one person unless told otherwise."""
    given = {} if "boxes" in options else {"detector": "whole-image"}
    return predict_files(PredictOptions(list(sources), out, model=model, **given | options))
