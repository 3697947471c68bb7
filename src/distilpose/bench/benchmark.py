"""Speed on this machine, every figure beside the matrix-product peak of the same run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from distilpose.bench.complexity import measure_complexity
from distilpose.bench.data_throughput import measure_data_throughput
from distilpose.bench.measure import Measurement, measure_peak, median_seconds
from distilpose.bench.training_speed import PARTS, VARIANTS, measure_step, measure_with_data
from distilpose.models import create_model

TRAINING_SIZES_HW = ((128, 96), (256, 192))


def benchmark(json_file: str | Path | None = None, *, progress: Console | None = None) -> list[Table]:
    """Measure data loading, inference and distillation steps.

    Args:
        json_file: also write the numbers here.
        progress: where to say what is being measured.

    Returns:
        The tables to print: speeds, and where the time of a distillation step goes.
    """

    def say(what: str) -> None:
        if progress is not None:
            progress.print(f"measuring {what} ...", style="dim")

    say("data loading")
    data = measure_data_throughput()
    measurements = [
        Measurement("training crops from files, per core", data.from_files, 0, measure_peak()),
        Measurement("training crops from memory, per core", data.from_cache, 0, measure_peak()),
    ]
    for name in ("distilpose_s", "tokenpose_s"):
        for batch in (1, 8):
            say(f"{name}, batch {batch}")
            measurements.append(measure_inference(name, batch))
    parts: dict[str, dict[str, tuple[float, ...]]] = {}
    for height, width in TRAINING_SIZES_HW:
        of_size = parts[f"{height} x {width}"] = {}
        for variant, options in VARIANTS.items():
            name = f"step {height} x {width}, {variant}"
            say(name)
            times = measure_step(name, (height, width), options)
            measurements.append(times.speed)
            of_size[variant] = times.seconds
    say("distillation with data loading")
    height, width = TRAINING_SIZES_HW[0]
    peak = measure_peak()
    for name, speed in zip(("from files", "bare, in turn with it"), measure_with_data((height, width)), strict=True):
        measurements.append(Measurement(f"step {height} x {width}, {name}", speed, 0, peak))
    if json_file is not None:
        content = {
            "threads": torch.get_num_threads(),
            "figures": [{**asdict(m), "share_of_peak": m.share_of_peak} for m in measurements],
            "step_seconds": {
                f"{size}, {variant}": dict(zip(PARTS, seconds, strict=True))
                for size, of_size in parts.items()
                for variant, seconds in of_size.items()
            },
        }
        Path(json_file).write_text(json.dumps(content, indent=2) + "\n")
    return [_speed_table(measurements), *(_parts_table(size, of_size) for size, of_size in parts.items())]


def measure_inference(name: str, batch: int) -> Measurement:
    """Crops per second of a preset in eager torch, float32."""
    model = create_model(name).eval()
    images = torch.randn(batch, 3, *model.input_size_hw)
    peak = measure_peak()
    with torch.inference_mode():
        seconds = median_seconds(lambda: model(images))
    return Measurement(f"{name}, torch, batch {batch}", batch / seconds, measure_complexity(model).gmacs, peak)


def _speed_table(measurements: list[Measurement]) -> Table:
    table = Table(title=f"speed with {torch.get_num_threads()} threads, median of 5 runs; step: of distillation")
    table.add_column("what")  # the names fold on a narrow terminal, the figures never
    for heading in ("per\nsecond", "of\npeak", "peak\nGFLOP/s"):
        table.add_column(heading, justify="right", no_wrap=True)
    for m in measurements:
        share = "-" if m.share_of_peak is None else f"{100 * m.share_of_peak:.0f} %"
        table.add_row(m.name, f"{m.per_second:.1f}", share, f"{m.peak_gflops:.0f}")
    return table


def _parts_table(size: str, parts: Mapping[str, tuple[float, ...]]) -> Table:
    table = Table(title=f"where the time of a {size} distillation step goes")
    table.add_column("what")
    for heading in ("ms", *(part.replace(" ", "\n") for part in PARTS)):
        table.add_column(heading, justify="right", no_wrap=True)
    for variant, seconds in parts.items():
        total = sum(seconds)
        table.add_row(variant, f"{1000 * total:.0f}", *(f"{100 * lap / total:.0f} %" for lap in seconds))
    return table
