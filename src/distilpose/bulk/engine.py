"""Shards shared out among worker processes by Ray Data, on this machine or a cluster: one block, one report each."""

from __future__ import annotations

import logging
import os
import queue
import socket
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2

from distilpose.backends.device import usable_cores
from distilpose.bulk.inputs import items_of
from distilpose.bulk.options import BulkOptions
from distilpose.bulk.worker import ATTEMPTS, ShardReport, ShardWorker
from distilpose.errors import ConfigError, InputError
from distilpose.inference.interruption import terminated_as_interrupted

if TYPE_CHECKING:
    import pyarrow

SHARD_COLUMN = "shard"
_CONNECT_SECONDS = 10.0
_WATCH_SECONDS = 0.5  # between looks at Ray's own processes
_OBJECT_STORE_BYTES = 256 * 2**20  # of a cluster of this machine: lists of names, no images


def check_address(address: str | None) -> None:
    """Refuse what Ray's address cannot be.

    Raises:
        ConfigError: it is of Ray Client, which cannot run workers that keep their model.
    """
    named = os.environ.get("RAY_ADDRESS", "auto") if address == "auto" else address
    if (named or "").startswith("ray://"):
        raise ConfigError(
            f"{named} is of Ray Client, which cannot run bulk prediction: run the command on a machine of the cluster "
            "with --address auto, or give the address that ray start was told, HEAD:6379"
        )


@contextmanager
def ray_session(address: str | None) -> Generator[None]:
    """Connect to Ray, and leave nothing behind.

    A cluster of this machine, for an ``address`` of None, listens on loopback addresses only, and its token file is
    this user's alone. A program that is connected already stays so, whatever ``address`` says.

    Raises:
        InputError: there is no cluster at ``address``, or it does not let this user in.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # its remarks would run through the bar
    if address is None:
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")  # read when ray is imported: loopback only
    import ray

    if ray.is_initialized():
        yield
        return
    _check_answers(address)
    options: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    try:
        if address is None:
            options |= {"num_cpus": usable_cores(), "object_store_memory": _OBJECT_STORE_BYTES}
            with _quiet_start():
                ray.init("local", include_dashboard=False, **options)
        else:
            ray.init(address, **options)
    except (ConnectionError, ValueError, RuntimeError, ray.exceptions.RayError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"there is no Ray cluster to use at {address or 'this machine'} ({reason}): see ray status; "
            "a cluster with a token needs it on this machine as well"
        ) from error
    try:
        with terminated_as_interrupted():  # Ray ends the process with the number of the signal
            yield
    finally:
        node = _own_node()
        if node is not None and node.dead_processes():  # an orderly end would wait for them for a minute
            node.kill_all_processes(check_alive=False, allow_graceful=False)
        else:
            ray.shutdown()


def _own_node() -> Any:
    """Ray's processes that this process has started; None where it has only connected."""
    import ray

    return ray._private.worker.global_worker.node


@contextmanager
def _quiet_start() -> Generator[None]:
    """Keep Ray's token from other users, and its dashboard's process, which asks servers in the network, away."""
    from ray._private.node import Node

    folder, start = Path.home() / ".ray", Node.start_api_server
    with suppress(OSError):
        folder.mkdir(mode=0o700, exist_ok=True)
        folder.chmod(0o700)
    Node.start_api_server = lambda *_, **__: None  # type: ignore[method-assign]
    try:
        yield
    finally:
        Node.start_api_server = start  # type: ignore[method-assign]
        with suppress(OSError):
            (folder / "auth_token").chmod(0o600)  # Ray leaves it readable by all


def max_workers(threads: int) -> int:
    """How many workers of ``threads`` cores the machines of the session hold; none reaches over two machines.

    Raises:
        ConfigError: no machine has so many cores.
    """
    import ray

    alive = [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    cores = [(int(node["Resources"].get("CPU", 0)), node["NodeManagerHostname"]) for node in alive]
    count = sum(of_node // threads for of_node, _ in cores)
    if count == 0:
        largest, name = max(cores, default=(0, "none"))
        raise ConfigError(
            f"no machine has {threads} cores for a worker, the largest is {name} with {largest}: lower "
            "threads (--threads)"
        )
    return count


def _check_answers(address: str | None) -> None:
    """Ask whether anything listens there: Ray itself would look for minutes."""
    host, colon, port = (address or "").rpartition(":")
    if not colon or not port.isdecimal():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), _CONNECT_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise InputError(f"no Ray cluster answers at {address} ({error}): see ray status on its head") from error


def work_in_ray(
    options: BulkOptions, id_type: str, shards: list[tuple[int, pyarrow.Table]], workers: int
) -> Iterator[ShardReport]:
    """Do every shard, given by its number and rows; reports come as shards are finished, in any order.

    A worker reads images and writes results itself, so that none passes through Ray's object store. A killed worker is
    started again, and its shard done again, as often as it takes: it is `ShardWorker` that finds the image that kills
    its workers. One that dies while it starts is not started for ever. Each has ``options.threads`` cores to itself.

    Raises:
        InputError: Ray cannot go on, because a machine lacks a package, for instance.
    """
    import pyarrow as pa
    import ray.data

    logging.getLogger("ray.data").setLevel(logging.ERROR)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.max_consecutive_actor_init_deaths = ATTEMPTS
    blocks = [table.append_column(SHARD_COLUMN, pa.array([shard] * len(table), pa.int64())) for shard, table in shards]
    done = ray.data.from_arrow(blocks).map_batches(
        _RayWorker,
        fn_constructor_kwargs={"options": options, "id_type": id_type},
        batch_size=None,
        batch_format="pyarrow",
        num_cpus=options.threads,
        compute=ray.data.ActorPoolStrategy(size=workers, max_tasks_in_flight_per_actor=1),
    )
    yield from _watched(done.iter_rows)


def _watched(rows: Callable[[], Iterable[dict[str, Any]]]) -> Iterator[ShardReport]:
    """The reports, read in a thread of their own, so that the death of Ray's control process is seen at once."""
    import ray

    found: queue.SimpleQueue[ShardReport | BaseException | None] = queue.SimpleQueue()

    def read() -> None:
        try:
            for row in rows():
                found.put(ShardReport(**row))
            found.put(None)
        except BaseException as error:
            found.put(error)

    threading.Thread(target=read, name="ray-reports", daemon=True).start()
    node = _own_node()
    while True:
        try:
            report = found.get(timeout=_WATCH_SECONDS)
        except queue.Empty:
            dead = [] if node is None else [name for name, _ in node.dead_processes()]
            if not dead:
                continue
            report = ChildProcessError(f"its process {dead[0]} died")
        if report is None:
            return
        if isinstance(report, ray.exceptions.RayError | ChildProcessError):
            reason = str(report).strip().splitlines() or [type(report).__name__]
            raise InputError(
                f"Ray cannot go on ({reason[-1]}): the same command goes on after the finished shards"
            ) from report
        if isinstance(report, BaseException):
            raise report
        yield report


class _RayWorker:
    """A `ShardWorker` as Ray Data calls it: rows of one shard, or of several that it joined -> a report of each."""

    def __init__(self, options: BulkOptions, id_type: str) -> None:
        cv2.setNumThreads(options.threads)
        self._worker = ShardWorker(options, id_type)

    def __call__(self, block: pyarrow.Table) -> pyarrow.Table:
        import pyarrow as pa

        reports = []
        for shard in block.column(SHARD_COLUMN).unique().to_pylist():
            rows = block.filter(pa.compute.field(SHARD_COLUMN) == shard).drop_columns([SHARD_COLUMN])
            reports.append(self._worker.work(shard, items_of(rows))._asdict())
        kinds = {"shard": pa.int64(), "images": pa.int64(), "disk_error": pa.string(), "error": pa.string()}
        return pa.Table.from_pylist(reports, schema=pa.schema(kinds))
