"""Every model in every runtime and precision: latency, throughput, memory, and the share of the machine used."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np
from rich.table import Table

from distilpose.backends.checkpoint import save_checkpoint
from distilpose.backends.description import Precision
from distilpose.backends.loading import as_backend
from distilpose.benchmark.complexity import Complexity, measure_complexity
from distilpose.benchmark.measure import Peaks, measure_peaks
from distilpose.data.synthetic import write_synthetic_dataset
from distilpose.errors import DistilPoseError
from distilpose.export.calibration import calibration_crops
from distilpose.export.export import SUFFIXES, Format, export_model
from distilpose.models import PoseModel, create_model
from distilpose.skeletons import COCO_17

BATCHES = (1, 8)
ROUNDS = 3
CALIBRATION_IMAGES = 48


@dataclass(frozen=True)
class Way:
    """One way of running a model.

    Attributes:
        runtime: "torch", "onnxruntime" or "openvino".
        variant: number format, or what else is special.
        precision: of the file.
        bfloat16: compute in bfloat16.
    """

    runtime: str
    variant: str
    precision: Precision = "float32"
    bfloat16: bool = False


WAYS = (
    Way("torch", "float32"),
    Way("onnxruntime", "float32"),
    Way("onnxruntime", "int8", "int8"),
    Way("openvino", "float32"),
    Way("openvino", "bfloat16", bfloat16=True),
    Way("openvino", "int8", "int8"),
)
FORMATS: dict[str, Format] = {"onnxruntime": "onnx", "openvino": "openvino"}
RUNTIMES = {SUFFIXES[format]: runtime for runtime, format in FORMATS.items()}


@dataclass(frozen=True)
class Speed:
    """One model run one way.

    Attributes:
        model: preset.
        runtime: see `Way`.
        variant: see `Way`.
        parameters: of the model.
        gmacs: 1e9 multiply-accumulates of a crop, attention products included.
        file_megabytes: size of the file in 1e6 bytes.
        peak_megabytes: most memory its process held; None where the system does not say.
        seconds: median of a run by batch size.
        peaks: matrix products of the libraries right before.
    """

    model: str
    runtime: str
    variant: str
    parameters: int
    gmacs: float
    file_megabytes: float
    peak_megabytes: float | None
    seconds: dict[int, float]
    peaks: Peaks

    def milliseconds_per_crop(self, batch: int) -> float:
        """Of one crop in a batch."""
        return 1000 * self.seconds[batch] / batch

    def share_of_peak(self, batch: int) -> float | None:
        """Arithmetic over the highest float32 product; None in other number formats, which have other peaks."""
        if self.variant in ("int8", "bfloat16"):
            return None
        return 2 * self.gmacs * batch / self.seconds[batch] / self.peaks.highest

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready, derived figures included."""
        derived = {
            "milliseconds_per_crop": {batch: self.milliseconds_per_crop(batch) for batch in self.seconds},
            "crops_per_second": {batch: batch / seconds for batch, seconds in self.seconds.items()},
            "share_of_peak": {batch: self.share_of_peak(batch) for batch in self.seconds},
        }
        return {**asdict(self), "peaks": self.peaks._asdict(), **derived}


class Job(NamedTuple):
    """A file to time.

    Attributes:
        name: of its model.
        cost: of its model.
        path: the file.
        way: how it is run.
    """

    name: str
    cost: Complexity
    path: Path
    way: Way


def measure_speeds(
    models: Sequence[str],
    *,
    runtimes: Sequence[str] = (),
    batches: Sequence[int] = BATCHES,
    rounds: int = ROUNDS,
    say: Callable[[str], None] = lambda _: None,
) -> list[Speed]:
    """Export presets with fresh weights every way and time each file in a process of its own.

    Args:
        models: presets.
        runtimes: those to run; all when empty.
        batches: numbers of crops at once.
        rounds: times that every way gets its turn; the figures are medians.
        say: told what is being done.
    """
    jobs = []
    with tempfile.TemporaryDirectory() as folder:
        annotations = write_synthetic_dataset(Path(folder) / "people", CALIBRATION_IMAGES)
        for name in models:
            model = create_model(name).eval()
            crops = calibration_crops(annotations, model.input_size_hw, COCO_17)
            cost = measure_complexity(model)
            say(f"exports of {name}")
            for way in WAYS:
                if not runtimes or way.runtime in runtimes:
                    jobs.append(Job(name, cost, way_file(model, way, Path(folder) / name, crops), way))
        return measure_in_turn(jobs, batches, rounds, say)


def measure_files(
    files: Sequence[Path],
    *,
    batches: Sequence[int] = BATCHES,
    rounds: int = ROUNDS,
    say: Callable[[str], None] = lambda _: None,
) -> list[Speed]:
    """Time checkpoints and exported files, each in the runtime of its suffix.

    Args:
        files: what `load_model` takes.
        batches: numbers of crops at once.
        rounds: as in `measure_speeds`.
        say: told what is being done.

    Raises:
        CheckpointError: a file is unusable.
    """
    jobs = []
    for file in files:
        description = as_backend(file).description
        way = Way(RUNTIMES.get(file.suffix, "torch"), description.precision, description.precision)
        cost = measure_complexity(create_model(description.model, **description.options))
        jobs.append(Job(file.name, cost, file, way))
    return measure_in_turn(jobs, batches, rounds, say)


def measure_in_turn(
    jobs: Sequence[Job], batches: Sequence[int], rounds: int, say: Callable[[str], None] = lambda _: None
) -> list[Speed]:
    """Every file in turn and that several times, so that a slow minute meets all of them.

    Args:
        jobs: the files.
        batches: numbers of crops at once.
        rounds: turns of every file; the figures are medians.
        say: told what is being done.
    """
    laps: list[list[tuple[Peaks, dict[str, Any]]]] = [[] for _ in jobs]
    for number in range(rounds):
        for job, of_job in zip(jobs, laps, strict=True):
            say(f"{job.name}, {job.way.runtime}, {job.way.variant} ({number + 1}/{rounds})")
            of_job.append((measure_peaks(), run_worker(job.path, job.way, batches)))
    return [
        Speed(
            model=job.name,
            runtime=job.way.runtime,
            variant=job.way.variant,
            parameters=job.cost.parameters,
            gmacs=job.cost.gmacs,
            file_megabytes=file_bytes(job.path) / 1e6,
            peak_megabytes=of_job[0][1]["peak_megabytes"],
            seconds={batch: median(answer["seconds"][str(batch)] for _, answer in of_job) for batch in batches},
            peaks=Peaks(*(median(values) for values in zip(*(peaks for peaks, _ in of_job), strict=True))),
        )
        for job, of_job in zip(jobs, laps, strict=True)
    ]


def way_file(
    model: PoseModel, way: Way, folder: Path, crops: np.ndarray[Any, np.dtype[np.uint8]] | None = None
) -> Path:
    """The file of a way, written unless another way has the same; int8 is calibrated with ``crops``."""
    if way.runtime == "torch":
        path = folder / "model.safetensors"
        return path if path.exists() else save_checkpoint(model, path)
    format = FORMATS[way.runtime]
    path = folder / f"{format}_{way.precision}{SUFFIXES[format]}"
    if not path.exists():
        calibration = crops if way.precision == "int8" else None
        export_model(model, path, format=format, precision=way.precision, calibration=calibration)
    return path


def file_bytes(path: Path) -> int:
    """Size of a model file, OpenVINO's weights beside it included."""
    return sum(file.stat().st_size for file in (path, path.with_suffix(".bin")) if file.exists())


def run_worker(path: Path, way: Way, batches: Sequence[int]) -> dict[str, Any]:
    """Time a file in a process of its own, see `worker.measure`; the keys of ``seconds`` are strings.

    Raises:
        DistilPoseError: the process failed.
    """
    job = {"file": str(path), "batches": list(batches), "bfloat16": way.bfloat16}
    command = [sys.executable, "-m", "distilpose.benchmark.worker", json.dumps(job)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - ourselves
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no output"])[-1]
        raise DistilPoseError(f"timing {path.name} in {way.runtime} failed ({last}): see if the file predicts")
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def speeds_table(speeds: Sequence[Speed]) -> Table:
    """Every model and way in a row."""
    batches = list(speeds[0].seconds)
    peaks = [speed.peaks.highest for speed in speeds]
    table = Table(
        title=f"inference; float32 matrix product of this run {min(peaks):.0f} to {max(peaks):.0f} GFLOP/s",
        caption="b: crops in a batch; ms of one crop; peak: share of the highest product of any library here, float32 "
        "only; MB: of the file, and most memory of the process at the largest batch",
    )
    table.add_column("model and runtime", no_wrap=True)
    headings = [f"{unit}\nb {batch}" for batch in batches for unit in ("ms", "peak")]
    for heading in (*headings, "file\nMB", "mem\nMB"):
        table.add_column(heading, justify="right", no_wrap=True)
    for model, rows in groupby(speeds, key=lambda speed: speed.model):
        table.add_section()
        for number, speed in enumerate(rows):
            if number == 0:
                table.add_row(f"[bold]{model}[/bold], {speed.parameters / 1e6:.1f} M, {speed.gmacs:.2f} GMACs")
            cells = []
            for batch in batches:
                share = speed.share_of_peak(batch)
                cells += [f"{speed.milliseconds_per_crop(batch):.1f}", "-" if share is None else f"{100 * share:.0f} %"]
            memory = "-" if speed.peak_megabytes is None else f"{speed.peak_megabytes:.0f}"
            name = f"  {speed.runtime}, {speed.variant}"
            table.add_row(name, *cells, f"{speed.file_megabytes:.0f}", memory)
    return table
