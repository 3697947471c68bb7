"""Models in torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from distilpose.backends.base import NumpyOutput, check_network_input
from distilpose.backends.description import ModelDescription
from distilpose.backends.device import Compute, RuntimeInfo, check_settings, log_runtime, torch_device
from distilpose.data.preprocess import NetworkInput
from distilpose.errors import ConfigError

if TYPE_CHECKING:
    import torch
    from torch import nn


class TorchBackend:
    """A torch model as an `InferenceBackend`: evaluation mode, into which it is put, and no gradients.

    The model returns `PoseOutput` or `HeatmapOutput`. It runs on ``device``, see `torch_device`, or where its weights
    are when None. ``threads`` are those of torch on the CPU, for the whole process. ``compute`` of ``"bfloat16"`` and
    ``"float16"`` runs under autocast: faster on GPUs, and not the same numbers.

    Raises:
        ConfigError: the device is not there, or ``compute`` does not run on it.
    """

    def __init__(
        self,
        model: nn.Module,
        description: ModelDescription,
        device: str | None = None,
        *,
        threads: int | None = None,
        compute: Compute = "float32",
    ) -> None:
        check_settings(threads, compute)
        self._model = (model if device is None else model.to(torch_device(device))).eval()
        self.description = description
        self._compute: Compute = compute
        if compute == "float16" and next(self._model.parameters()).device.type == "cpu":
            raise ConfigError("compute float16 is for GPUs: on the CPU take bfloat16 or float32")
        if threads is not None:
            import torch

            torch.set_num_threads(threads)
        log_runtime(description.model, self.describe())

    def describe(self) -> RuntimeInfo:
        """What runs it."""
        return torch_runtime(next(self._model.parameters()).device, self._compute)

    def __call__(self, images: NetworkInput) -> NumpyOutput:
        """(B, 3, H, W) normalized crops -> the model's output as float32 arrays."""
        import torch

        check_network_input(images, self.description)
        parameter = next(self._model.parameters())
        dtype = None if self._compute == "float32" else getattr(torch, self._compute)
        with torch.inference_mode(), torch.autocast(parameter.device.type, dtype, enabled=dtype is not None):
            # Channels last: convolutions run up to 1.4 times as fast.
            batch = torch.from_numpy(images).to(parameter.device, parameter.dtype, memory_format=torch.channels_last)
            output: Any = self._model(batch)
        arrays = [None if value is None else value.float().cpu().numpy() for value in output]
        numpy_output: NumpyOutput = type(output)(*arrays)
        return numpy_output


def torch_runtime(device: torch.device, compute: Compute = "float32") -> RuntimeInfo:
    """What runs a network of torch on a device."""
    import torch

    threads = torch.get_num_threads() if device.type == "cpu" else None
    return RuntimeInfo(f"torch {torch.__version__.split('+')[0]}", str(device), threads, compute)
