"""Speed on this machine, every figure beside the matrix-product peak of the same run."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from distilpose.bench.complexity import measure_complexity
from distilpose.bench.data_throughput import measure_data_throughput
from distilpose.losses import DistillationOptions, distillation_losses
from distilpose.models import create_model
from distilpose.models.distilpose import DistilPose

TRAINING_SIZES_HW = ((128, 96), (256, 192))
TRAINING_BATCH = 16
PEAK_SIDE = 2048


@dataclass(frozen=True)
class Measurement:
    """One figure.

    Attributes:
        name: what was done.
        per_second: how often, median of several runs; crops, or steps times batch size.
        gmacs: 1e9 multiply-accumulates of one, 0 where that is not the point.
        peak_gflops: matrix-product peak measured right before.
    """

    name: str
    per_second: float
    gmacs: float
    peak_gflops: float

    @property
    def share_of_peak(self) -> float | None:
        """Useful arithmetic over the peak; None where arithmetic is not the point."""
        return 2 * self.gmacs * self.per_second / self.peak_gflops if self.gmacs else None


def benchmark(json_file: str | Path | None = None, *, progress: Console | None = None) -> list[Table]:
    """Measure data loading, inference and distillation steps.

    Args:
        json_file: also write the numbers here.
        progress: where to say what is being measured.

    Returns:
        One table to print.
    """

    def say(what: str) -> None:
        if progress is not None:
            progress.print(f"measuring {what} ...", style="dim")

    measurements = []
    say("data loading")
    data = measure_data_throughput()
    measurements.append(Measurement("training crops from files, per core", data.from_files, 0, measure_peak()))
    measurements.append(Measurement("training crops from memory, per core", data.from_cache, 0, measure_peak()))
    for name in ("distilpose_s", "tokenpose_s"):
        for batch in (1, 8):
            say(f"{name}, batch {batch}")
            measurements.append(measure_inference(name, batch))
    for size_hw in TRAINING_SIZES_HW:
        say(f"distillation at {size_hw[0]} x {size_hw[1]}")
        measurements.append(measure_distillation(size_hw))
    if json_file is not None:
        rows = [{**asdict(m), "share_of_peak": m.share_of_peak} for m in measurements]
        Path(json_file).write_text(json.dumps({"threads": torch.get_num_threads(), "figures": rows}, indent=2) + "\n")
    return [_table(measurements)]


def measure_peak() -> float:
    """GFLOP/s of a float32 matrix product, best of three: what this machine can do right now."""
    a = torch.randn(PEAK_SIDE, PEAK_SIDE)
    return 2 * PEAK_SIDE**3 / min(_seconds(lambda: a @ a) for _ in range(3)) / 1e9


def measure_inference(name: str, batch: int) -> Measurement:
    """Crops per second of a preset in eager torch, float32."""
    model = create_model(name).eval()
    images = torch.randn(batch, 3, *model.input_size_hw)
    peak = measure_peak()
    with torch.inference_mode():
        seconds = _median_seconds(lambda: model(images))
    return Measurement(f"{name}, torch, batch {batch}", batch / seconds, measure_complexity(model).gmacs, peak)


def measure_distillation(size_hw: tuple[int, int]) -> Measurement:
    """Samples per second of bare distillation steps (no data loading), small teacher to small student, float32.

    The arithmetic that a step cannot avoid is counted: three times the student's forward pass, once the teacher's.
    """
    student = create_model("distilpose_s", input_size_hw=size_hw)
    teacher = create_model("tokenpose_s", input_size_hw=size_hw).eval().requires_grad_(False)
    assert isinstance(student, DistilPose)
    gmacs = 3 * measure_complexity(student).gmacs + measure_complexity(teacher).gmacs
    for model in (student, teacher):
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stub lacks it
    adam = torch.optim.Adam(student.parameters(), fused=True)
    images = torch.randn(TRAINING_BATCH, 3, *size_hw).contiguous(memory_format=torch.channels_last)
    target, weight = torch.rand(TRAINING_BATCH, 17, 2), torch.ones(TRAINING_BATCH, 17)

    def step() -> None:
        with torch.no_grad():
            heatmaps = teacher(images)
        losses = distillation_losses(student(images), heatmaps, target, weight, weight > 0, DistillationOptions())
        adam.zero_grad()
        losses.total.backward()  # type: ignore[no-untyped-call]
        adam.step()

    peak = measure_peak()
    seconds = _median_seconds(step)
    height, width = size_hw
    name = f"distillation step, {height} x {width}, batch {TRAINING_BATCH}"
    return Measurement(name, TRAINING_BATCH / seconds, gmacs, peak)


def _median_seconds(work: Callable[[], object], runs: int = 5) -> float:
    work()  # warm up
    return statistics.median(_seconds(work) for _ in range(runs))


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _table(measurements: list[Measurement]) -> Table:
    table = Table(title=f"speed with {torch.get_num_threads()} threads, median of 5 runs")
    table.add_column("what", no_wrap=True)
    for heading in ("per second", "of peak", "peak GFLOP/s"):
        table.add_column(heading, justify="right")
    for m in measurements:
        share = "-" if m.share_of_peak is None else f"{100 * m.share_of_peak:.0f} %"
        table.add_row(m.name, f"{m.per_second:.1f}", share, f"{m.peak_gflops:.0f}")
    return table
