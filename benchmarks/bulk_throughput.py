"""Bulk prediction against a plain loop on the same images: what the engine costs on one machine."""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from functools import partial
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from rich.console import Console
from rich.table import Table

from distilpose.backends.device import usable_cores
from distilpose.backends.exported import OpenVinoBackend
from distilpose.benchmark.measure import highest_peak
from distilpose.bulk.engine import max_workers, ray_session
from distilpose.bulk.inputs import BulkItem, fingerprint, items_of, list_inputs
from distilpose.bulk.options import SHARD_SIZE, BulkOptions
from distilpose.bulk.output_files import RunFolder
from distilpose.bulk.predict import predict_bulk
from distilpose.bulk.worker import ShardReport, ShardWorker
from distilpose.data.images import write_image
from distilpose.export.export import SUFFIXES, export_model
from distilpose.inference.options import OutputOptions, PredictOptions
from distilpose.inference.predict import predict_files
from distilpose.types import ImageArray

sys.path.append(str(Path(__file__).resolve().parent.parent / "examples"))
from synthetic_people import draw_people

IMAGES = 5000
DRAWN = 50  # different ones; the others are these, mirrored, brighter or darker
IMAGE_HW = (360, 480)
IMAGES_SHOW = f"JPEG files of {IMAGE_HW[1]} x {IMAGE_HW[0]}, one person each, no detector"
ROUNDS = 2
EMPTY_SHARDS = 200  # of one missing image each: they show what a shard costs the driver
DETECTOR = "whole-image"  # costs nothing, so that the engine's share of the time is the largest it can be


class BulkSpeed(NamedTuple):
    """One way of predicting the same images.

    Attributes:
        way: what was done.
        start: seconds that a run with nothing to do takes: processes and models start, and stop.
        work: seconds of everything else.
        images: how many.
    """

    way: str
    start: float
    work: float
    images: int

    @property
    def per_second(self) -> float:
        """Images a second, without the start."""
        return self.images / self.work


class BulkBenchmark(NamedTuple):
    """What `measure_bulk` found.

    Attributes:
        speeds: the plain loop; workers of one core without an engine, and the same in Ray Data; one worker with all
            cores without an engine, and the same in Ray Data.
        listed: images a second that the driver lists before anything starts.
        shards: handed out, heard of and read again, for a second of the driver's processor time.
        cores: that were used.
    """

    speeds: tuple[BulkSpeed, ...]
    listed: float
    shards: float
    cores: int

    @property
    def overhead(self) -> float:
        """Share of the work that the engine adds to the same processes without one, mean of both layouts."""
        _, bare, engine, bare_one, engine_one = self.speeds
        return (engine.work / bare.work + engine_one.work / bare_one.work) / 2 - 1


def measure_bulk(
    model: str | Path, say: Callable[[str], None] = lambda _: None, *, images: int = IMAGES
) -> BulkBenchmark:
    """Predict small JPEG files five ways, with ``model`` in OpenVINO.

    The plain loop is ``predict`` in this process, with the model on every core. Workers are processes that take one
    shard after another, from a plain pool or from Ray Data: one for each core, or one with all of them. All are
    measured in turn, in one order and then in the other, and the fastest of `ROUNDS` counts, because other programs
    can only slow them down.

    Args:
        model: name or checkpoint that `export_model` takes.
        say: told what is being done.
        images: how many.
    """
    cores = usable_cores()
    with tempfile.TemporaryDirectory() as name:
        folder, exported = Path(name) / "images", Path(name) / f"model{SUFFIXES['openvino']}"
        say(f"{images} images for bulk prediction")
        _write_images(folder, images)
        export_model(model, exported, format="openvino")
        shards = _shards(folder)
        files, rounds, shard_rates = sorted(folder.iterdir()), [], []
        for number in range(ROUNDS):
            out = Path(name) / f"round {number}"
            out.mkdir()
            say(f"bulk prediction, round {number + 1} of {ROUNDS}: the plain loop, workers alone, workers in Ray Data")
            ways: list[Callable[[], tuple[BulkSpeed, float | None]]] = [
                partial(_plain_loop, files, exported, cores, out / "plain"),
                partial(_bare_workers, shards, exported, cores, 1, out / "bare"),
                partial(_engine, folder, exported, 1, out / "engine"),
                partial(_bare_workers, shards, exported, 1, cores, out / "bare one"),
                partial(_engine, folder, exported, cores, out / "one"),
            ]
            order = range(len(ways)) if number % 2 == 0 else range(len(ways) - 1, -1, -1)
            found = {place: ways[place]() for place in order}
            rounds.append([found[place][0] for place in range(len(ways))])
            shard_rates += [rate for _, rate in found.values() if rate is not None]
        start = time.perf_counter()
        fingerprint(list_inputs(folder))
        listed = images / (time.perf_counter() - start)
    fastest = tuple(min(way, key=lambda speed: speed.work) for way in zip(*rounds, strict=True))
    return BulkBenchmark(fastest, listed, max(shard_rates), cores)


def _write_images(folder: Path, count: int) -> None:
    folder.mkdir()
    drawn = [draw_people(np.random.default_rng(number), IMAGE_HW)[0] for number in range(min(count, DRAWN))]
    for number in range(count):
        write_image(folder / f"{number:06}.jpg", _varied(drawn[number % len(drawn)], number // len(drawn)))


def _varied(image: ImageArray, number: int) -> ImageArray:
    turned = image[:, ::-1] if number % 2 else image
    return np.asarray(cv2.convertScaleAbs(turned, alpha=0.7 + 0.6 * (number % 101) / 100), dtype=np.uint8)


def _shards(folder: Path) -> list[tuple[int, list[BulkItem]]]:
    items = items_of(list_inputs(folder))
    return [(k, items[start : start + SHARD_SIZE]) for k, start in enumerate(range(0, len(items), SHARD_SIZE))]


def _plain_loop(files: Sequence[Path], model: Path, cores: int, out: Path) -> tuple[BulkSpeed, None]:
    start = time.perf_counter()
    backend = OpenVinoBackend(model, cores)
    ready = time.perf_counter()
    predict_files(PredictOptions(files, out, model=backend, detector=DETECTOR, output=OutputOptions(images=False)))
    return BulkSpeed(f"predict, {_layout(1, cores)}", ready - start, time.perf_counter() - ready, len(files)), None


_worker: ShardWorker | None = None  # of a process of the plain pool


def _begin(options: BulkOptions, all_ready: Barrier) -> None:
    global _worker
    cv2.setNumThreads(options.threads)
    _worker = ShardWorker(options)
    all_ready.wait()  # else one that is early would take what another one is to start with


def _work(shard: int, items: list[BulkItem]) -> ShardReport:
    assert _worker is not None
    return _worker.work(shard, items)


def _bare_workers(
    shards: list[tuple[int, list[BulkItem]]], model: Path, processes: int, threads: int, out: Path
) -> tuple[BulkSpeed, None]:
    folder = RunFolder(out)
    folder.start({})
    options = BulkOptions(out, folder.path, model=model, detector=DETECTOR, threads=threads)
    context = multiprocessing.get_context("spawn")
    start = time.perf_counter()
    with ProcessPoolExecutor(processes, context, _begin, (options, context.Barrier(processes))) as pool:
        list(pool.map(_work, range(-processes, 0), [[]] * processes))  # empty shards: every process has its model
        ready = time.perf_counter()
        reports = list(pool.map(_work, *zip(*shards, strict=True)))
        done = time.perf_counter()
    assert all(report.error is report.disk_error is None for report in reports)
    stop = time.perf_counter() - done
    way = f"no engine, {_layout(processes, threads)}"
    return BulkSpeed(way, ready - start + stop, done - ready, sum(report.images for report in reports)), None


def _engine(folder: Path, model: Path, threads: int, out: Path) -> tuple[BulkSpeed, float]:
    """The run, and shards for a second of the driver's processor time: what workers do for them is not in it."""
    out.mkdir()
    start = time.perf_counter()
    with ExitStack() as stack:
        stack.enter_context(ray_session(None))
        ready = time.perf_counter()
        workers = max_workers(threads)
        _empty_run(workers, model, out / "warm", threads)  # what only the first run does is in no number
        idle = _empty_run(workers, model, out / "idle", threads)
        handing_out = _empty_run(workers + EMPTY_SHARDS, model, out / "empty", threads).driver - idle.driver
        again = time.perf_counter()
        report = predict_bulk(BulkOptions(folder, out / "run", model=model, detector=DETECTOR, threads=threads))
        done = time.perf_counter()
        assert report.num_failed == 0
    stop = time.perf_counter() - done
    way = f"Ray Data, {_layout(workers, threads)}"
    speed = BulkSpeed(way, ready - start + idle.seconds + stop, done - again - idle.seconds, report.num_images)
    return speed, EMPTY_SHARDS / handing_out


def _layout(processes: int, cores: int) -> str:
    return f"{processes} {'process' if processes == 1 else 'processes'} of {cores} {'core' if cores == 1 else 'cores'}"


class _EmptyRun(NamedTuple):
    """How long a run took: ``seconds``, and ``driver`` seconds of this process's processor time."""

    seconds: float
    driver: float


def _empty_run(shards: int, model: Path, out: Path, threads: int) -> _EmptyRun:
    """A run with a missing image in each shard: processes and models start, and nothing else happens."""
    import pyarrow
    import pyarrow.parquet

    out.mkdir()
    images = out / "missing.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"path": [f"{number}.jpg" for number in range(shards)]}), images)
    start, used = time.perf_counter(), time.process_time()
    report = predict_bulk(
        BulkOptions(images, out / "run", model=model, detector=DETECTOR, shard_size=1, threads=threads)
    )
    assert report.num_failed == shards
    return _EmptyRun(time.perf_counter() - start, time.process_time() - used)


def bulk_table(found: BulkBenchmark, peak: float) -> Table:
    """One way in a row; ``peak`` in GFLOP/s."""
    images = found.speeds[0].images
    table = Table(
        title=f"{images:,} {IMAGES_SHOW}, OpenVINO float32",
        caption=f"Ray Data adds {100 * found.overhead:.0f} % to the work of the same processes, and its start and "
        f"stop; {found.shards:.0f} shards a second of the driver, {found.listed:,.0f} images listed/s; "
        f"peak {peak:.0f} GFLOP/s",
    )
    table.add_column("")
    for heading in ("start and\nstop, s", "work, s", "images/s", "of the\nplain loop"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in found.speeds:
        share = f"{100 * row.per_second / found.speeds[0].per_second:.0f} %"
        table.add_row(row.way, f"{row.start:.1f}", f"{row.work:.1f}", f"{row.per_second:.1f}", share)
    return table


def main() -> None:
    """Show the speed of bulk prediction."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", help="trained model")
    parser.add_argument("--images", type=int, default=IMAGES, help="how many; 100 for a short run")
    args = parser.parse_args()
    console, progress = Console(), Console(stderr=True)
    found = measure_bulk(args.model, progress.print, images=args.images)
    console.print(bulk_table(found, highest_peak()))


if __name__ == "__main__":
    main()
