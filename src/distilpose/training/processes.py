"""The processes of a run on this machine: started, and watched, so that the end of one ends all with a clear error."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.fabric.plugins.environments.lightning import LightningEnvironment

from distilpose.errors import ConfigError, DistilPoseError

PERIOD = 0.5  # seconds between looks at the others
GRACE = 5.0  # seconds for the main thread to find out by itself
_SHOW_CURSOR = "\x1b[?25h"
_PARENT = "DISTILPOSE_PARENT_PID"


class Watch(threading.Thread):
    """Ends this process when another one has ended, whatever the main thread is waiting for.

    Over gloo a lost process is an error of the next exchange; over NCCL, or in a long evaluation, nothing happens for
    minutes. So the main thread has `GRACE` seconds to fail by itself; then the process says what was lost and ends,
    because a thread that waits in a library cannot be reached. What is on the disk is whole at any time.

    Args:
        find_lost: says which process has ended and how; None as long as all run.
        describe: makes the message of it.
    """

    def __init__(self, find_lost: Callable[[], str | None], describe: Callable[[str | None], str]) -> None:
        super().__init__(name="watch-processes", daemon=True)
        self._find_lost = find_lost
        self._describe = describe
        self._over = threading.Event()

    def run(self) -> None:
        """Look until a process is lost or `stop` is called."""
        while not self._over.wait(PERIOD):
            lost = self._find_lost()
            if lost is None:
                continue
            if not self._over.wait(GRACE):
                cursor = _SHOW_CURSOR if sys.stderr.isatty() else ""  # the progress bar hides it
                sys.stderr.write(f"{cursor}\nerror: {self._describe(lost)}\n")
                sys.stderr.flush()
                os._exit(1)
            return

    def stop(self) -> None:
        """The main thread has done what may wait for others."""
        self._over.set()

    def error(self) -> DistilPoseError:
        """What the main thread raises when it has lost another process."""
        return DistilPoseError(self._describe(self._find_lost()))


@contextmanager
def companions(trainer: Trainer, count: int, describe: Callable[[str | None], str]) -> Generator[Watch]:
    """Start the other processes of this machine, where nobody else does, and watch them.

    They run the same command as this one, and know their rank by the variables that Lightning reads; they watch this
    process in turn. Those that still run when the body fails are killed.

    Args:
        trainer: of this process.
        count: processes of this machine.
        describe: see `Watch`.
    """
    environment = getattr(trainer.strategy, "cluster_environment", None)
    is_first = isinstance(environment, LightningEnvironment) and not environment.creates_processes_externally
    others: list[subprocess.Popen[bytes]] = []
    saved = dict(os.environ)
    if count > 1 and is_first:
        shared = {
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(_free_port()),
            "NODE_RANK": "0",
            "WORLD_SIZE": str(count),
        }
        os.environ.update({**shared, "LOCAL_RANK": "0"})
        others = [_start_again(rank) for rank in range(1, count)]
    watch = Watch(lambda: _find_ended(others) if others else _find_orphaned(), describe)
    if others or _PARENT in os.environ:
        watch.start()
    try:
        yield watch
    except BaseException:
        for process in others:
            process.kill()
        raise
    finally:
        watch.stop()
        for process in others:
            process.wait()
        if others:
            os.environ.clear()
            os.environ.update(saved)


def _start_again(rank: int) -> subprocess.Popen[bytes]:
    """This very command as another rank."""
    env = {**os.environ, "LOCAL_RANK": str(rank), _PARENT: str(os.getpid())}
    return subprocess.Popen([sys.executable, *sys.orig_argv[1:]], env=env)  # noqa: S603  # our own command


def _find_ended(processes: Sequence[subprocess.Popen[bytes]]) -> str | None:
    for rank, process in enumerate(processes, start=1):
        code = process.poll()
        if code:
            how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
            return f"process {rank}, which {how}"
    return None


def _find_orphaned() -> str | None:
    parent = os.environ.get(_PARENT)
    return None if parent is None or os.getppid() == int(parent) else "process 0, which was killed or failed"


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


class SameStart(Callback):
    """Refuses a run whose processes do not resume from the same epoch, as when each machine has its own output folder.

    Args:
        state: that this process resumes from; None for a start from the beginning.
    """

    def __init__(self, state: Path | None) -> None:
        self._state = state

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Compare, before anything is restored.

        Raises:
            ConfigError: they differ.
        """
        epoch = None
        if self._state is not None:
            epoch = int(torch.load(self._state, map_location="cpu", mmap=True, weights_only=False)["epoch"]) + 1
        epochs: list[Any] = [None] * trainer.world_size
        torch.distributed.all_gather_object(epochs, epoch)
        if len(set(epochs)) > 1:
            found = ", ".join("none" if each is None else str(each) for each in epochs)
            raise ConfigError(
                f"the processes of this run find different epochs to go on from ({found}, by rank): the output folder "
                "must be one that all machines see"
            )
