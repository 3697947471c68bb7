"""Bulk prediction against a plain loop on the same pictures: what the engine costs on one machine."""

from __future__ import annotations

import multiprocessing
import os
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

from distilpose.bulk.cost import BulkRates
from distilpose.bulk.engine import ray_session
from distilpose.bulk.inputs import BulkItem, items_of, list_inputs
from distilpose.bulk.output_files import RunFolder
from distilpose.bulk.predict import SHARD_SIZE, predict_bulk
from distilpose.bulk.worker import Job, ShardReport, ShardWorker
from distilpose.data.synthetic import draw_people
from distilpose.export.export import SUFFIXES, export_model
from distilpose.images import write_image
from distilpose.inference.predict import OutputOptions, predict_files
from distilpose.runtimes import OpenVinoRunner

PICTURES = 5000
DRAWN = 50  # different ones; the others are these, mirrored, brighter or darker
PICTURE_HW = (360, 480)
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
        speeds: the plain loop; the workers without an engine; the workers in Ray Data.
        rates: for the cost model.
        cores: that were used.
    """

    speeds: tuple[BulkSpeed, ...]
    rates: BulkRates
    cores: int

    @property
    def overhead(self) -> float:
        """Share of the work that the engine adds to the same workers without one."""
        _, bare, engine = self.speeds
        return engine.work / bare.work - 1


def measure_bulk(
    model: str | Path, say: Callable[[str], None] = lambda _: None, *, pictures: int = PICTURES
) -> BulkBenchmark:
    """Predict small JPEG files three ways, with ``model`` in OpenVINO.

    The plain loop is ``predict`` in this process, with the model on every core. The workers, a core each, are processes
    that take one shard after another, first from a plain pool, then from Ray Data.

    Args:
        model: name or checkpoint that `export_model` takes.
        say: told what is being done.
        pictures: how many.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with tempfile.TemporaryDirectory() as name:
        folder, exported = Path(name) / "pictures", Path(name) / f"model{SUFFIXES['openvino']}"
        say(f"{pictures} pictures for bulk prediction")
        _write_pictures(folder, pictures)
        export_model(model, exported, format="openvino")
        shards = _shards(folder)
        say("the plain loop")
        plain = _plain_loop(sorted(folder.iterdir()), exported, cores, Path(name) / "plain")
        say("the workers without an engine")
        bare = _bare_workers(shards, exported, cores, Path(name) / "bare")
        say("the workers in Ray Data")
        engine, shard_rate = _engine(folder, exported, Path(name), pictures)
        start = time.perf_counter()
        list_inputs(folder)
        listed = pictures / (time.perf_counter() - start)
    return BulkBenchmark((plain, bare, engine), BulkRates(engine.per_second / cores, listed, shard_rate), cores)


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
    return BulkSpeed(f"predict, one process of {cores} cores", ready - start, time.perf_counter() - ready, len(files))


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
    way = f"{cores} processes of one core, no engine"
    return BulkSpeed(way, ready - start + stop, done - ready, sum(report.images for report in reports))


def _engine(folder: Path, model: Path, out: Path, pictures: int) -> tuple[BulkSpeed, float]:
    """The run, and shards a second when there is nothing in them."""
    start = time.perf_counter()
    with ExitStack() as stack:
        cores = stack.enter_context(ray_session(None))
        ready = time.perf_counter()
        idle = _empty_run(cores, model, out / "idle")
        handing_out = _empty_run(cores + EMPTY_SHARDS, model, out / "empty") - idle
        again = time.perf_counter()
        report = predict_bulk(folder, out / "engine", model=model, detector=DETECTOR)
        done = time.perf_counter()
        assert (report.num_images, report.num_failed) == (pictures, 0)
    stop = time.perf_counter() - done
    way = f"{cores} workers of one core, Ray Data"
    return BulkSpeed(way, ready - start + idle + stop, done - again - idle, pictures), EMPTY_SHARDS / handing_out


def _empty_run(shards: int, model: Path, out: Path) -> float:
    """Seconds of a run with a missing picture in each shard: processes and models start, and nothing else happens."""
    import pyarrow
    import pyarrow.parquet

    out.mkdir()
    pictures = out / "missing.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"path": [f"{number}.jpg" for number in range(shards)]}), pictures)
    start = time.perf_counter()
    report = predict_bulk(pictures, out / "run", model=model, detector=DETECTOR, shard_size=1)
    assert report.num_failed == shards
    return time.perf_counter() - start


def bulk_table(found: BulkBenchmark) -> Table:
    """One way in a row."""
    pictures = found.speeds[0].pictures
    table = Table(
        title=f"{pictures:,} JPEG files of {PICTURE_HW[1]} x {PICTURE_HW[0]}, one person each, OpenVINO float32",
        caption=f"Ray Data adds {100 * found.overhead:.0f} % to the work of the same workers, and its start and stop; "
        f"{found.rates.shards:.0f} empty shards/s, {found.rates.listed:,.0f} pictures listed/s",
    )
    table.add_column("")
    for heading in ("start and\nstop, s", "work, s", "pictures/s", "of the\nplain loop"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in found.speeds:
        share = f"{100 * row.per_second / found.speeds[0].per_second:.0f} %"
        table.add_row(row.way, f"{row.start:.1f}", f"{row.work:.1f}", f"{row.per_second:.1f}", share)
    return table
