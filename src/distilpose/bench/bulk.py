"""Bulk prediction against a plain loop on the same pictures: what the engine costs on one machine."""

from __future__ import annotations

import multiprocessing
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from distilpose.bulk import SHARD_SIZE
from distilpose.bulk.cost import BulkRates
from distilpose.bulk.engine import most_workers, ray_session, usable_cores
from distilpose.bulk.inputs import BulkItem, items_of, list_inputs
from distilpose.bulk.output_files import RunFolder
from distilpose.bulk.predict import predict_bulk
from distilpose.bulk.worker import Job, ShardReport, ShardWorker
from distilpose.data.synthetic import draw_people
from distilpose.export.export import SUFFIXES, export_model
from distilpose.images import write_image
from distilpose.inference.options import OutputOptions
from distilpose.inference.predict import predict_files
from distilpose.runtimes import OpenVinoRunner

PICTURES = 5000
DRAWN = 50  # different ones; the others are these, mirrored, brighter or darker
PICTURE_HW = (360, 480)
ROUNDS = 2
EMPTY_SHARDS = 200  # of one missing picture each: they show what a shard costs the driver
DETECTOR = "whole-image"  # costs nothing, so that the engine's share of the time is the largest it can be


class BulkSpeed(NamedTuple):
    """One way of predicting the same pictures.

    Attributes:
        way: what was done.
        start: seconds that a run with nothing to do takes: processes and models start, and stop.
        work: seconds of everything else.
        pictures: how many.
    """

    way: str
    start: float
    work: float
    pictures: int

    @property
    def per_second(self) -> float:
        """Pictures a second, without the start."""
        return self.pictures / self.work


class BulkBenchmark(NamedTuple):
    """What `measure_bulk` found.

    Attributes:
        speeds: the plain loop; workers of one core without an engine; the same in Ray Data; in Ray Data one worker with
            all cores.
        rates: for the cost model.
        cores: that were used.
    """

    speeds: tuple[BulkSpeed, ...]
    rates: BulkRates
    cores: int

    @property
    def overhead(self) -> float:
        """Share of the work that the engine adds to the same processes without one, mean of both layouts."""
        plain, bare, engine, one_worker = self.speeds
        return (engine.work / bare.work + one_worker.work / plain.work) / 2 - 1


def measure_bulk(
    model: str | Path, say: Callable[[str], None] = lambda _: None, *, pictures: int = PICTURES
) -> BulkBenchmark:
    """Predict small JPEG files four ways, with ``model`` in OpenVINO.

    The plain loop is ``predict`` in this process, with the model on every core. Workers are processes that take one
    shard after another, from a plain pool or from Ray Data: one for each core, or one with all of them. All are
    measured in turn, and the fastest of `ROUNDS` counts, because other programs can only slow them down.

    Args:
        model: name or checkpoint that `export_model` takes.
        say: told what is being done.
        pictures: how many.
    """
    cores = usable_cores()
    with tempfile.TemporaryDirectory() as name:
        folder, exported = Path(name) / "pictures", Path(name) / f"model{SUFFIXES['openvino']}"
        say(f"{pictures} pictures for bulk prediction")
        _write_pictures(folder, pictures)
        export_model(model, exported, format="openvino")
        shards = _shards(folder)
        files, rounds, shard_rates = sorted(folder.iterdir()), [], []
        for number in range(ROUNDS):
            out = Path(name) / f"round {number}"
            out.mkdir()
            say(f"bulk prediction, round {number + 1} of {ROUNDS}: the plain loop, workers alone, workers in Ray Data")
            engine, shard_rate = _engine(folder, exported, out / "engine", 1)
            shard_rates.append(shard_rate)
            plain = _plain_loop(files, exported, cores, out / "plain")
            bare = _bare_workers(shards, exported, cores, out / "bare")
            rounds.append((plain, bare, engine, _engine(folder, exported, out / "one", cores)[0]))
        start = time.perf_counter()
        list_inputs(folder)
        listed = pictures / (time.perf_counter() - start)
    fastest = tuple(min(way, key=lambda speed: speed.work) for way in zip(*rounds, strict=True))
    per_core = max(speed.per_second for speed in fastest[2:]) / cores
    return BulkBenchmark(fastest, BulkRates(per_core, listed, max(shard_rates)), cores)


def _write_pictures(folder: Path, count: int) -> None:
    folder.mkdir()
    drawn = [draw_people(np.random.default_rng(number), PICTURE_HW)[0] for number in range(min(count, DRAWN))]
    for number in range(count):
        write_image(folder / f"{number:06}.jpg", _varied(drawn[number % len(drawn)], number // len(drawn)))


def _varied(image: NDArray[np.uint8], number: int) -> NDArray[np.uint8]:
    turned = image[:, ::-1] if number % 2 else image
    return np.asarray(cv2.convertScaleAbs(turned, alpha=0.7 + 0.6 * (number % 101) / 100), dtype=np.uint8)


def _shards(folder: Path) -> list[tuple[int, list[BulkItem]]]:
    items = items_of(list_inputs(folder))
    return [(k, items[start : start + SHARD_SIZE]) for k, start in enumerate(range(0, len(items), SHARD_SIZE))]


def _plain_loop(files: Sequence[Path], model: Path, cores: int, out: Path) -> BulkSpeed:
    start = time.perf_counter()
    runner = OpenVinoRunner(model, cores)
    ready = time.perf_counter()
    predict_files(files, out, model=runner, detector=DETECTOR, output=OutputOptions(pictures=False))
    return BulkSpeed(f"predict, {_layout(1, cores)}", ready - start, time.perf_counter() - ready, len(files))


_worker: ShardWorker | None = None  # of a process of the plain pool


def _begin(job: Job) -> None:
    global _worker
    cv2.setNumThreads(job.threads)
    _worker = ShardWorker(job)


def _work(shard: int, items: list[BulkItem]) -> ShardReport:
    assert _worker is not None
    return _worker.work(shard, items)


def _bare_workers(shards: list[tuple[int, list[BulkItem]]], model: Path, cores: int, out: Path) -> BulkSpeed:
    folder = RunFolder(out)
    folder.start({})
    job = Job(str(folder.path), str(model), "int64", DETECTOR)
    start = time.perf_counter()
    with ProcessPoolExecutor(cores, multiprocessing.get_context("spawn"), _begin, (job,)) as pool:
        list(pool.map(_work, range(-cores, 0), [[]] * cores))  # empty shards: every process has its model
        ready = time.perf_counter()
        reports = list(pool.map(_work, *zip(*shards, strict=True)))
        done = time.perf_counter()
    assert all(report.error is report.disk_error is None for report in reports)
    stop = time.perf_counter() - done
    way = f"no engine, {_layout(cores, 1)}"
    return BulkSpeed(way, ready - start + stop, done - ready, sum(report.images for report in reports))


def _engine(folder: Path, model: Path, out: Path, threads: int) -> tuple[BulkSpeed, float]:
    """The run, and shards a second when there is nothing in them."""
    out.mkdir()
    start = time.perf_counter()
    with ExitStack() as stack:
        stack.enter_context(ray_session(None))
        ready = time.perf_counter()
        workers = most_workers(threads)
        idle = _empty_run(workers, model, out / "idle", threads)
        handing_out = _empty_run(workers + EMPTY_SHARDS, model, out / "empty", threads) - idle
        again = time.perf_counter()
        report = predict_bulk(folder, out / "run", model=model, detector=DETECTOR, threads=threads)
        done = time.perf_counter()
        assert report.num_failed == 0
    stop = time.perf_counter() - done
    way = f"Ray Data, {_layout(workers, threads)}"
    speed = BulkSpeed(way, ready - start + idle + stop, done - again - idle, report.num_images)
    return speed, EMPTY_SHARDS / handing_out


def _layout(processes: int, cores: int) -> str:
    return f"{processes} {'process' if processes == 1 else 'processes'} of {cores} {'core' if cores == 1 else 'cores'}"


def _empty_run(shards: int, model: Path, out: Path, threads: int) -> float:
    """Seconds of a run with a missing picture in each shard: processes and models start, and nothing else happens."""
    import pyarrow
    import pyarrow.parquet

    out.mkdir()
    pictures = out / "missing.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"path": [f"{number}.jpg" for number in range(shards)]}), pictures)
    start = time.perf_counter()
    report = predict_bulk(pictures, out / "run", model=model, detector=DETECTOR, shard_size=1, threads=threads)
    assert report.num_failed == shards
    return time.perf_counter() - start


def bulk_table(found: BulkBenchmark, peak: float) -> Table:
    """One way in a row; ``peak`` in GFLOP/s."""
    pictures = found.speeds[0].pictures
    table = Table(
        title=f"{pictures:,} JPEG files of {PICTURE_HW[1]} x {PICTURE_HW[0]}, one person each, OpenVINO float32",
        caption=f"Ray Data adds {100 * found.overhead:.0f} % to the work of the same processes, and its start and "
        f"stop; {found.rates.shards:.0f} empty shards/s, {found.rates.listed:,.0f} pictures listed/s; "
        f"peak {peak:.0f} GFLOP/s",
    )
    table.add_column("")
    for heading in ("start and\nstop, s", "work, s", "pictures/s", "of the\nplain loop"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in found.speeds:
        share = f"{100 * row.per_second / found.speeds[0].per_second:.0f} %"
        table.add_row(row.way, f"{row.start:.1f}", f"{row.work:.1f}", f"{row.per_second:.1f}", share)
    return table
