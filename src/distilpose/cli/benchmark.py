"""Measure speed and accuracy of models on this machine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from distilpose.cli.command import Command

if TYPE_CHECKING:
    from distilpose.benchmark.options import BenchmarkOptions


def _benchmark(options: BenchmarkOptions) -> int:
    from rich.console import Console, Group
    from rich.live import Live

    from distilpose.benchmark.benchmark import measure, measurements_table

    console = Console()
    with Live(console=console, auto_refresh=False, vertical_overflow="visible") as live:

        def say(what: str) -> None:
            text = f"[dim]measuring {what} ...[/dim]"
            if console.is_terminal:
                live.update(Group(*shown, text), refresh=True)
            else:
                Console(stderr=True).print(text)

        shown: list[Any] = []
        for rows in measure(options, say=say):
            shown[:] = [measurements_table(rows)]
            live.update(shown[0], refresh=True)
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
