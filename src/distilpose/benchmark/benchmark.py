"""Measure models in every backend and precision: time, memory, size, share of the machine used, accuracy."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cache, partial
from itertools import groupby
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from rich.markup import escape
from rich.table import Table

from distilpose.backends.address import split_address
from distilpose.backends.checkpoint import describe, save_checkpoint
from distilpose.backends.description import ModelDescription, Precision
from distilpose.backends.device import Compute
from distilpose.backends.exported import LiteRtBackend, OpenVinoBackend
from distilpose.backends.loading import SHIPPED_WEIGHTS, as_backend, load_model
from distilpose.backends.torch import TorchBackend
from distilpose.benchmark.measure import Complexity, highest_peak, measure_complexity
from distilpose.benchmark.options import BenchmarkOptions
from distilpose.errors import DistilPoseError
from distilpose.evaluation.evaluate import evaluate_set
from distilpose.evaluation.evaluation_set import EvaluationSet
from distilpose.export.export import SUFFIXES, Format, calibration_crops, check_export_packages, export_model
from distilpose.files import write_file_atomically
from distilpose.models import PoseModel, create_model, list_models
from distilpose.types import ImageArray

logger = logging.getLogger(__name__)

BATCHES = (1, 8)
DEFAULT_BACKENDS = ("torch", "onnxruntime", "openvino")
NOISE_CROPS = 48  # that int8 is calibrated with where no images are given
FORMATS: dict[str, Format] = {"onnxruntime": "onnx", "openvino": "openvino", "litert": "litert"}
_BACKENDS: dict[type, str] = {OpenVinoBackend: "openvino", LiteRtBackend: "litert", TorchBackend: "torch"}
# Backend and numbers of what is exported here; the first needs no export and so is there at once.
VARIANTS = (
    ("torch", "float32"),
    *(("onnxruntime", numbers) for numbers in ("float32", "float16", "int8")),
    *(("openvino", numbers) for numbers in ("float32", "float16", "bfloat16", "int8")),
    *(("litert", numbers) for numbers in ("float32", "float16", "int8")),
)


@dataclass(frozen=True)
class Measurement:
    """One model in one backend and precision."""

    model: str  # name or file
    backend: str  # "torch", "onnxruntime", "openvino" or "litert"
    numbers: str  # "float32", "float16" (of the weights), "int8", or "bfloat16" (of the arithmetic)
    complexity: Complexity | None  # of the model; None for a file of another origin
    file_megabytes: float = 0  # size of the file in 1e6 bytes
    peak_megabytes: float | None = None  # most memory its process held; None where the system does not say
    seconds: dict[int, float] = field(default_factory=dict)  # median of a run by batch size
    peak: float = 0  # GFLOP/s of a float32 matrix product in the same turn, in the fastest library; median
    accuracy: dict[str, float | None] = field(default_factory=dict)  # AP, AR, PCK@0.2 as fractions, if evaluated

    def milliseconds_per_crop(self, batch: int) -> float:
        """Of one crop in a batch."""
        return 1000 * self.seconds[batch] / batch

    def share_of_peak(self, batch: int) -> float | None:
        """Arithmetic over the highest float32 product; None where the arithmetic is another or not known."""
        if self.complexity is None or self.numbers in ("int8", "bfloat16"):
            return None
        return 2 * self.complexity.gmacs * batch / self.seconds[batch] / self.peak

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready, derived figures included."""
        return {
            **asdict(self),
            "complexity": self.complexity and self.complexity._asdict(),
            "milliseconds_per_crop": {batch: self.milliseconds_per_crop(batch) for batch in self.seconds},
            "share_of_peak": {batch: self.share_of_peak(batch) for batch in self.seconds},
        }


@dataclass
class _Job:
    """What is to be measured; ``file`` names what runs, which is written when it is first asked for."""

    row: Measurement  # without numbers
    description: ModelDescription
    file: Callable[[], str | Path]
    trained: bool = True
    exported_here: bool = True
    turns: list[tuple[float, dict[str, Any]]] = field(default_factory=list)

    def __str__(self) -> str:
        return f"{self.row.model}, {self.row.backend}, {self.row.numbers}"

    @property
    def compute(self) -> Compute:
        return "bfloat16" if self.row.numbers == "bfloat16" else "float32"

    def measure(self, batches: Sequence[int], peak: float, options: BenchmarkOptions) -> Measurement:
        """One more turn, and the medians of all so far."""
        place = {"device": options.device, "threads": options.threads}
        answer = run_worker(self.file(), batches, compute=self.compute, **place)
        if not self.turns:
            logger.info("%s runs in %s", self.file(), answer["runtime"])
        self.turns.append((peak, answer))
        answers = [answer for _, answer in self.turns]
        path = Path(split_address(str(self.file()))[0])
        files = (path, path.with_suffix(".bin"))  # OpenVINO's weights lie beside the graph
        return replace(
            self.row,
            file_megabytes=sum(file.stat().st_size for file in files if file.is_file()) / 1e6,
            peak_megabytes=answers[0]["peak_megabytes"],
            seconds={batch: median(answer["seconds"][str(batch)] for answer in answers) for batch in batches},
            peak=median(peak for peak, _ in self.turns),
        )

    def evaluate(self, people: EvaluationSet, options: BenchmarkOptions) -> dict[str, float | None]:
        """AP, AR and PCK@0.2, in ground-truth boxes, without flip test."""
        backend = as_backend(self.file(), options.device, threads=options.threads, compute=self.compute)
        result = evaluate_set(backend, people)
        return {"AP": result.metrics["AP"], "AR": result.metrics["AR"], "PCK@0.2": result.per_joint["all"].pck}


def measure(
    options: BenchmarkOptions, *, say: Callable[[str], None] = lambda _: None, batches: Sequence[int] = BATCHES
) -> Iterator[list[Measurement]]:
    """Measure each model in its turn, several times, so that a slow minute meets all of them; then evaluate them.

    ``say`` is told what is being done; ``batches`` are numbers of crops at once.

    Yields:
        All rows so far, after every turn.

    Raises:
        ConfigError: a model is neither a file nor a name.
        CheckpointError, DatasetError, InputError: a file is unusable.
        DistilPoseError: an export or a timing process failed.
    """
    rows: dict[int, Measurement] = {}
    with tempfile.TemporaryDirectory() as folder:
        places = [(str(model), Path(folder) / str(number)) for number, model in enumerate(options.models)]
        jobs = [job for model, place in places for job in _jobs(model, options, place)]
        for lap in range(options.rounds):
            say("the matrix product of this machine")
            peak = highest_peak()
            for number, job in enumerate(jobs):
                say(f"{job} ({lap + 1}/{options.rounds})")
                rows[number] = job.measure(batches, peak, options)
                yield _written(rows, options)
        sets: dict[Any, EvaluationSet] = {}
        for number, job in enumerate(jobs):
            if options.annotations is None or options.images is None or not job.trained:
                continue
            if job.row.numbers == "int8" and job.exported_here and not options.calibration:
                continue  # it is calibrated on noise
            say(f"accuracy of {job}")
            inside = job.description
            key = inside.input_size_hw, inside.skeleton, inside.padding, inside.udp
            if key not in sets:
                files = Path(options.annotations), Path(options.images)
                sets[key] = EvaluationSet.load(*files, inside, keep_crops=True)
            rows[number] = replace(rows[number], accuracy=job.evaluate(sets[key], options))
            yield _written(rows, options)


def _jobs(name: str, options: BenchmarkOptions, folder: Path) -> list[_Job]:
    """An exported file in its backend; anything else in all of them."""
    known = name in SHIPPED_WEIGHTS or Path(name).exists()
    preset = not known and name in list_models()
    model = create_model(name).eval() if preset else load_model(name, exported=False)
    if not isinstance(model, PoseModel):
        inside, backend = model.description, _BACKENDS.get(type(model), "onnxruntime")
        listed = inside.model in list_models()
        cost = measure_complexity(create_model(inside.model, **inside.options)) if listed else None
        return [_Job(Measurement(name, backend, inside.precision, cost), inside, lambda: name, exported_here=False)]
    variants = [variant for variant in VARIANTS if variant[0] in (options.backends or DEFAULT_BACKENDS)]
    for backend, numbers in variants:
        if backend in FORMATS:  # told now, not after minutes of measuring
            check_export_packages(FORMATS[backend], _precision(numbers))
    inside, cost = describe(model), measure_complexity(model)
    crops = cache(partial(_calibration_crops, inside, options.calibration))

    def job(backend: str, numbers: str) -> _Job:
        file = partial(_export, model, backend, numbers, folder, crops)
        return _Job(Measurement(name, backend, numbers, cost), inside, file, not preset)

    return [job(backend, numbers) for backend, numbers in variants]


def _export(model: PoseModel, backend: str, numbers: str, folder: Path, crops: Callable[[], ImageArray]) -> Path:
    """The file of a model, written once."""
    folder.mkdir(exist_ok=True)
    precision = _precision(numbers)
    path = folder / f"{precision}{SUFFIXES[FORMATS[backend]] if backend in FORMATS else '.safetensors'}"
    if path.exists():
        return path
    if backend == "torch":
        return save_checkpoint(model, path)
    calibration = crops() if precision == "int8" else None
    export_model(model, path, format=FORMATS[backend], precision=precision, calibration=calibration)
    return path


def _precision(numbers: str) -> Precision:
    """Of the file that is computed in these numbers."""
    return "float32" if numbers == "bfloat16" else numbers  # type: ignore[return-value]


def _calibration_crops(description: ModelDescription, images: str | Path | None) -> ImageArray:
    if images is not None:
        return calibration_crops(images, description)
    # Speed and size do not depend on what the crops show.
    return np.random.default_rng(0).integers(0, 256, (NOISE_CROPS, *description.input_size_hw, 3), dtype=np.uint8)


def run_worker(path: str | Path, batches: Sequence[int], **settings: Any) -> dict[str, Any]:
    """Time a file in a process of its own, see `worker.measure`; the keys of ``seconds`` are strings.

    ``settings`` are ``compute``, ``device`` and ``threads`` of `as_backend`.

    Raises:
        DistilPoseError: the process failed.
    """
    job = {"file": str(path), "batches": list(batches), **settings}
    command = [sys.executable, "-m", "distilpose.benchmark.worker", json.dumps(job)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - ourselves
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no output"])[-1]
        raise DistilPoseError(f"timing {path} failed ({last}): see if the file predicts")
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def _written(rows: dict[int, Measurement], options: BenchmarkOptions) -> list[Measurement]:
    """The rows in order, written where the options say."""
    found = [rows[number] for number in sorted(rows)]
    if options.json is not None:
        with write_file_atomically(options.json) as part:
            part.write_text(json.dumps([row.to_dict() for row in found], indent=2) + "\n", encoding="utf-8")
    return found


def measurements_table(rows: Sequence[Measurement]) -> Table:
    """Every model, backend and precision in a row."""
    peaks, batches = [row.peak for row in rows], list(rows[0].seconds)
    accuracy = list(dict.fromkeys(name for row in rows for name in row.accuracy))
    table = Table(
        title=f"float32 matrix product of this run {min(peaks):.0f} to {max(peaks):.0f} GFLOP/s",
        caption="b: crops in a batch; ms of one crop; peak: share of the highest product of any library here, float32 "
        "only; MB: of the file, and most memory of the process; accuracy x 100, ground-truth boxes, no flip test",
    )
    table.add_column("model and backend", no_wrap=True)
    headings = [f"{unit}\nb {batch}" for batch in batches for unit in ("ms", "peak")]
    for heading in (*headings, "file\nMB", "mem\nMB", *accuracy):
        table.add_column(heading, justify="right", no_wrap=True)
    for model, of_model in groupby(rows, key=lambda row: row.model):
        some = list(of_model)
        cost = some[0].complexity
        size = "" if cost is None else f", {cost.parameters / 1e6:.1f} M, {cost.gmacs:.2f} GMACs"
        table.add_section()
        table.add_row(f"[bold]{escape(model)}[/bold]{size}")
        for row in some:
            cells = [f"  {row.backend}, {row.numbers}"]
            for batch in batches:
                cells += [f"{row.milliseconds_per_crop(batch):.1f}", _cell(row.share_of_peak(batch), "{:.0f} %", 100)]
            cells += [f"{row.file_megabytes:.1f}", _cell(row.peak_megabytes, "{:.0f}")]
            table.add_row(*cells, *(_cell(row.accuracy.get(name), "{:.1f}", 100) for name in accuracy))
    return table


def _cell(value: float | None, form: str, factor: float = 1) -> str:
    return "-" if value is None else form.format(factor * value)
