"""Models in torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from distilpose.backends.base import (
    NumpyOutput,
)
from distilpose.backends.description import ModelDescription
from distilpose.data.preprocess import NetworkInput

if TYPE_CHECKING:
    from torch import nn


class TorchBackend:
    """A torch model as an `InferenceBackend`: evaluation mode, no gradients.

    Args:
        model: a module returning `PoseOutput` or `HeatmapOutput`. It is put into evaluation mode.
        description: of the model.
        device: where to run; where the weights are when None.
    """

    def __init__(self, model: nn.Module, description: ModelDescription, device: str | None = None) -> None:
        self._model = (model if device is None else model.to(device)).eval()
        self._description = description

    @property
    def description(self) -> ModelDescription:
        """What the model expects and returns."""
        return self._description

    def __call__(self, images: NetworkInput) -> NumpyOutput:
        """(B, 3, H, W) normalized crops -> the model's output as float32 arrays."""
        import torch

        parameter = next(self._model.parameters())
        with torch.inference_mode():
            # Channels last: convolutions run up to 1.4 times as fast.
            batch = torch.from_numpy(images).to(parameter.device, parameter.dtype, memory_format=torch.channels_last)
            output: Any = self._model(batch)
        arrays = [None if value is None else value.float().cpu().numpy() for value in output]
        numpy_output: NumpyOutput = type(output)(*arrays)
        return numpy_output
