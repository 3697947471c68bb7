"""The processes of a run: started by torch's elastic launcher, joined, and what they exchange."""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import sys
import uuid
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, distributed

from distilpose.backends.device import usable_cores
from distilpose.errors import ConfigError, DistilPoseError

_LOST_PROCESS = ("gloo", "NCCL", "Connection closed by peer", "Connection reset by peer")
_PR_SET_PDEATHSIG = 1
LAUNCHED = "DISTILPOSE_LAUNCHED"  # set in the processes that `launch` starts


class Processes(NamedTuple):
    """How a run is spread."""

    total: int
    machines: int


def find_processes(devices: int) -> Processes:
    """What torchrun has started, where this process is one of its; else ``devices`` processes on this machine.

    Raises:
        ConfigError: torchrun has started another number than ``devices``, which is not the default.
    """
    if not was_launched():
        return Processes(devices, 1)
    of_machine, total = int(os.environ["LOCAL_WORLD_SIZE"]), int(os.environ["WORLD_SIZE"])
    if devices not in (1, of_machine):
        raise ConfigError(
            f"torchrun has started {of_machine} processes on a machine, devices is {devices}: leave devices out"
        )
    return Processes(total, total // of_machine)


def was_launched() -> bool:
    """Whether torchrun, or `launch`, has started this process."""
    return distributed.is_available() and distributed.is_torchelastic_launched()


def launch(count: int, out: Path) -> None:
    """Run this very command in ``count`` processes of this machine and wait for them; one that ends ends all.

    Raises:
        DistilPoseError: a process failed.
        KeyboardInterrupt: this process was interrupted or told to end; the others have ended.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, usable_cores() // count)))
    os.environ[LAUNCHED] = "1"
    config = LaunchConfig(
        min_nodes=1, max_nodes=1, nproc_per_node=count, run_id=uuid.uuid4().hex, rdzv_backend="c10d",
        rdzv_endpoint="127.0.0.1:0", max_restarts=0, monitor_interval=0.2,
    )  # fmt: skip
    try:
        elastic_launch(config, sys.executable)(*sys.orig_argv[1:])
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        code = failure.exitcode
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
        raise DistilPoseError(
            f"process {rank} of {count} {how} (its own output says why; a lack of memory leaves no word): --resume "
            f"goes on from the last whole epoch in {out}"
        ) from error
    except SignalException as error:
        raise KeyboardInterrupt from error
    finally:
        del os.environ[LAUNCHED]


@contextmanager
def joined(processes: Processes, device: torch.device) -> Generator[None]:
    """This process as one of a run's, ready to exchange tensors; a `DistilPoseError` if another one is lost."""
    if processes.total == 1:
        yield
        return
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the launcher hears it and ends its processes
    if sys.platform == "linux":  # they end with the launcher, too, however that ends
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield
    except RuntimeError as error:
        if not has_lost_process(error):
            raise
        raise DistilPoseError(
            f"process {rank()} of {processes.total} has lost another one: --resume goes on from the last whole epoch"
        ) from error
    finally:
        distributed.destroy_process_group()


def has_lost_process(error: RuntimeError) -> bool:
    """Whether communication failed; some backends say so by nothing but the text."""
    return isinstance(error, distributed.DistError) or any(word in str(error) for word in _LOST_PROCESS)


def rank() -> int:
    """Of this process in the run; 0 is the one that evaluates and writes."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def mean_over_ranks(value: Tensor) -> Tensor:
    """The mean of a tensor over all processes of the run."""
    if not distributed.is_initialized():
        return value
    value = value.clone()
    distributed.all_reduce(value)
    return value / distributed.get_world_size()


def wait_for_all() -> None:
    """Until every process of the run is here."""
    if distributed.is_initialized():
        distributed.barrier()


def check_same_start(epoch: int) -> None:
    """Refuse, by a `ConfigError`, output folders in which the processes find different epochs to go on from."""
    if not distributed.is_initialized():
        return
    epochs: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(epochs, epoch)
    if len(set(epochs)) > 1:
        raise ConfigError(
            f"the processes of this run find different epochs to go on from ({', '.join(map(str, epochs))}, by rank): "
            "the output folder must be one that all machines see"
        )
