"""Parts that the tests of teachers share."""

from collections.abc import Callable

import torch
from torch import Tensor

from distilpose.data.dataset import Batch
from distilpose.models.outputs import HeatmapOutput
from distilpose.skeletons import COCO_17
from distilpose.teachers.base import SourceSpec

K = COCO_17.num_keypoints


class Source:
    """A function as a source; keeps what it was fed last."""

    def __init__(self, function: Callable[[Tensor], Tensor], spec: SourceSpec) -> None:
        self.function, self.spec = function, spec
        self.fed = torch.empty(0)

    def __call__(self, images: Tensor) -> HeatmapOutput[Tensor]:
        self.fed = images
        return HeatmapOutput(self.function(images))


def batch_of(images: Tensor, num_keypoints: int = K) -> Batch:
    """Images without labels."""
    count = len(images)
    nothing, index = torch.zeros(count, num_keypoints), torch.zeros(count, dtype=torch.int64)
    return Batch(images, nothing[..., None].expand(-1, -1, 2), nothing, nothing > 0, index, index)
