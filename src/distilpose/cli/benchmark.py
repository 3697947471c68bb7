"""Measure speed and accuracy of models on this machine."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from distilpose.cli.command import Command

if TYPE_CHECKING:
    from distilpose.benchmark.options import BenchmarkOptions


def _benchmark(options: BenchmarkOptions) -> int:
    from rich.console import Console, Group
    from rich.live import Live

    from distilpose.benchmark.benchmark import Measurement, measure, measurements_table

    console = Console()
    with Live(console=console, auto_refresh=False, vertical_overflow="visible") as live:

        def say(what: str) -> None:
            if console.is_terminal:
                live.update(Group(*shown, f"[dim]measuring {what} ...[/dim]"), refresh=True)
            else:
                print(f"measuring {what} ...", file=sys.stderr, flush=True)

        shown: list[Any] = []
        before: list[Measurement] = []
        for rows in measure(options, say=say):
            shown[:] = [measurements_table(rows)]
            live.update(shown[0], refresh=True)
            if not console.is_terminal:  # the table comes at the end
                for row in (row for row in rows if row not in before):
                    times = ", ".join(
                        f"{row.milliseconds_per_crop(b):.1f} ms a crop in batches of {b}" for b in row.seconds
                    )
                    print(f"{row.model}, {row.backend}, {row.numbers}: {times}", file=sys.stderr, flush=True)
            before = rows
    return 0


BENCHMARK = Command(
    "measure speed and accuracy of models on this machine, in every backend and precision",
    (
        "",
        "--models student.safetensors student_int8.onnx --rounds 1",
        "--models distilpose_s distilpose_m distilpose_t --backends onnxruntime --json speed.json",
        "--models student.safetensors --annotations person_keypoints.json --images images --calibration other.json",
    ),
    "distilpose.benchmark.options:BenchmarkOptions",
    _benchmark,
)
