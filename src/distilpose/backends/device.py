"""Where a model runs: one set of device names for torch, ONNX Runtime and OpenVINO."""

from __future__ import annotations

import contextlib
import logging
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple, get_args

from distilpose.errors import ConfigError
from distilpose.options import check_count

logger = logging.getLogger(__name__)

Compute = Literal["float32", "bfloat16", "float16"]  # what a model computes in
AUTO = "auto"
_PATTERN = re.compile(r"(auto|cpu|mps|coreml|(?:cuda|tensorrt|directml)(?::\d{1,3})?|openvino(?::[\w.]{1,20})?)")
# Device -> provider of ONNX Runtime.
PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
    "mps": "CoreMLExecutionProvider",
    "coreml": "CoreMLExecutionProvider",
    "directml": "DmlExecutionProvider",
}
_SIBLINGS = "/sys/devices/system/cpu/cpu{}/topology/thread_siblings_list"
_MAX_THREADS = 4  # more gain little on networks of this size


class Device(NamedTuple):
    """A device by kind and number."""

    kind: str  # auto, cpu, cuda, mps, tensorrt, coreml, directml or openvino
    which: str  # behind the colon: a number, or for OpenVINO a name such as GPU; "" without one

    @property
    def number(self) -> int:
        """Number of a GPU: the named one, else that of this process in a run of several (``LOCAL_RANK``)."""
        return int(self.which or os.environ.get("LOCAL_RANK", "0"))

    def __str__(self) -> str:
        return f"{self.kind}:{self.which}" if self.which else self.kind


class RuntimeInfo(NamedTuple):
    """What runs a model: library and version, device, threads of one run (None: the library decides), number format."""

    backend: str
    device: str
    threads: int | None
    compute: Compute

    def __str__(self) -> str:
        threads = "" if self.threads is None else f", {self.threads} threads"
        return f"{self.backend} on {self.device}{threads}, {self.compute}"


def log_runtime(network: object, runtime: RuntimeInfo) -> RuntimeInfo:
    """Tell the log what runs a network, which ``--verbose`` shows."""
    logger.info("%s runs in %s", network, runtime)
    return runtime


def parse_device(device: str) -> Device:
    """Read the name of a device; anything else is a `ConfigError`."""
    text = str(device).strip()
    if not _PATTERN.fullmatch(text):
        raise ConfigError(
            "device must be auto, cpu, cuda, cuda:1, mps, openvino:GPU, tensorrt, coreml or directml, got "
            f"{text[:100]!r}"
        )
    kind, _, which = text.partition(":")
    return Device(kind, which)


def check_settings(threads: int | None, compute: str = "float32") -> None:
    """Refuse a number of threads that no run can have, and an unknown number format, by a `ConfigError`."""
    if threads is not None:
        check_count(threads, "threads", high=1024)
    if compute not in get_args(Compute):
        raise ConfigError(f"compute must be one of {', '.join(get_args(Compute))}, got {compute!r}")


def torch_device(device: str) -> str:
    """The torch device of a name, ``auto`` resolved; a `ConfigError` if this machine or build does not have it."""
    import torch

    wanted = parse_device(device)
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    mps = torch.backends.mps.is_available()
    if wanted.kind == AUTO:
        return f"cuda:{wanted.number % gpus}" if gpus else "mps" if mps else "cpu"
    if wanted.kind == "cpu" or (wanted.kind == "mps" and mps):
        return wanted.kind
    if wanted.kind == "cuda" and wanted.number < gpus:
        return f"cuda:{wanted.number}"
    there = ["cpu", *(f"cuda:{i}" for i in range(gpus)), *(["mps"] if mps else [])]
    raise not_there(wanted, f"torch {torch.__version__}", there)


def onnx_provider(wanted: Device, providers: Sequence[str]) -> str:
    """The device, a key of `PROVIDERS`, for ONNX Runtime; ``auto`` takes CUDA if it is there, else the CPU."""
    there = [kind for kind, provider in PROVIDERS.items() if provider in providers]
    if wanted.kind == AUTO:
        return "cuda" if "cuda" in there else "cpu"
    if wanted.kind not in there:
        raise not_there(wanted, "ONNX Runtime", [kind for kind in there if kind != "coreml" or "mps" not in there])
    return wanted.kind


def not_there(wanted: Device, runtime: str, there: Sequence[str]) -> ConfigError:
    """The error for a device that a runtime does not have."""
    return ConfigError(f"device {wanted} is not there for {runtime}: it has {', '.join(there)} here")


def usable_cores() -> int:
    """Cores that this process may use; a container or ``taskset`` may allow fewer than there are."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS and Windows
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def run_threads(threads: int | None, compute: str = "float32") -> int:
    """Threads of one run on the CPU, `default_threads` for None; refuses what `check_settings` does."""
    check_settings(threads, compute)
    return threads or default_threads()


def default_threads() -> int:
    """Threads of one run on the CPU: one for each physical core that this process may use, at most four."""
    cores = usable_cores()
    if hasattr(os, "sched_getaffinity"):
        with contextlib.suppress(OSError):  # a container may hide it
            cores = len({Path(_SIBLINGS.format(cpu)).read_text() for cpu in os.sched_getaffinity(0)})
    return max(1, min(cores, _MAX_THREADS))
