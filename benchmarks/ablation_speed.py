"""A finished `distilpose ablate` of students: accuracy against the speed measured here, and who is on the front."""

from __future__ import annotations

import argparse
import csv
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

from distilpose.backends.checkpoint import load_checkpoint
from distilpose.benchmark.complexity import measure_complexity
from distilpose.benchmark.inference_speed import ROUNDS, Job, Speed, Way, measure_in_turn, way_file
from distilpose.errors import ConfigError
from distilpose.training.ablation import TABLE_FILE, folder_name
from distilpose.training.state import LAST_NAME

WAY = Way("onnxruntime", "float32")


class SweepStep(NamedTuple):
    """A trained student.

    Attributes:
        name: of its variant.
        ap: COCO AP as a fraction, mean over the variant's seeds.
        pck: PCK@0.2 as a fraction, likewise.
        speed: of its file in ONNX Runtime, float32, one crop.
    """

    name: str
    ap: float
    pck: float
    speed: Speed

    @property
    def milliseconds(self) -> float:
        """Of one crop."""
        return self.speed.milliseconds_per_crop(1)


def measure_sweep(
    folder: Path, *, rounds: int = ROUNDS, say: Callable[[str], None] = lambda _: None
) -> list[SweepStep]:
    """Read a sweep's accuracies and time the first seed's last weights of every trained variant, in turn.

    Args:
        folder: ``out`` of the ablation.
        rounds: turns of every variant; the times are medians.
        say: told what is being done.

    Raises:
        ConfigError: the folder holds no finished trained variant.
    """
    table = folder / TABLE_FILE
    if not table.is_file():
        raise ConfigError(f"{folder} has no {TABLE_FILE}: expected the out folder of a 'distilpose ablate' run")
    with table.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    weights = {
        row["variant"]: sorted((folder / folder_name(row["variant"])).glob(f"seed*/{LAST_NAME}")) for row in rows
    }
    rows = [row for row in rows if weights[row["variant"]]]
    if not rows:
        raise ConfigError(f"{folder} has no trained variant: run 'distilpose ablate' first")
    with tempfile.TemporaryDirectory() as exports:
        jobs = []
        for row in rows:
            say(f"export of {row['variant']}")
            model = load_checkpoint(weights[row["variant"]][0])
            path = way_file(model, WAY, Path(exports) / folder_name(row["variant"]))
            jobs.append(Job(row["variant"], measure_complexity(model), path, WAY))
        speeds = measure_in_turn(jobs, (1,), rounds, say)
    return [
        SweepStep(row["variant"], float(row["AP"]), float(row["PCK@0.2"]), speed)
        for row, speed in zip(rows, speeds, strict=True)
    ]


def pareto_front(steps: Sequence[SweepStep]) -> list[SweepStep]:
    """The steps that no other beats in AP without being slower, fastest first."""
    front: list[SweepStep] = []
    for step in sorted(steps, key=lambda step: (step.milliseconds, -step.ap)):
        if not front or step.ap > front[-1].ap:
            front.append(step)
    return front


def sweep_table(steps: Sequence[SweepStep]) -> Table:
    """One student in a row, fastest first."""
    table = Table(title="accuracy and speed", caption="x 100; ONNX Runtime, float32, one crop; front: none is better")
    table.add_column("student")
    for heading in ("M\nparameters", "GMACs", "ms", "AP", "PCK\n@0.2", "front"):
        table.add_column(heading, justify="right", no_wrap=True)
    front = pareto_front(steps)
    for step in sorted(steps, key=lambda step: step.milliseconds):
        table.add_row(
            step.name,
            f"{step.speed.parameters / 1e6:.2f}",
            f"{step.speed.gmacs:.3f}",
            f"{step.milliseconds:.2f}",
            f"{100 * step.ap:.1f}",
            f"{100 * step.pck:.1f}",
            "yes" if step in front else "no",
        )
    return table


def plot_sweep(steps: Sequence[SweepStep], path: Path) -> None:
    """AP and PCK over crops per second measured here; the front is joined by a line.

    Args:
        steps: measured.
        path: image to write, of a format that matplotlib knows.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    front = pareto_front(steps)
    for axes, (label, values) in zip(
        figure.subplots(1, 2),
        {"AP": [step.ap for step in steps], "PCK@0.2": [step.pck for step in steps]}.items(),
        strict=True,
    ):
        for number, (step, value) in enumerate(zip(steps, values, strict=True)):
            place = (1000 / step.milliseconds, 100 * value)
            axes.scatter(*place, color=f"C{number}", s=45)
            axes.annotate(
                step.name, place, (0, 8), textcoords="offset points", ha="center", fontsize=8, color=f"C{number}"
            )
        if label == "AP":
            axes.plot([1000 / s.milliseconds for s in front], [100 * s.ap for s in front], color="0.6", zorder=0)
        axes.set_xlabel("crops per second here (ONNX Runtime, float32, batch 1)")
        axes.set_ylabel(f"{label} x 100")
        axes.margins(x=0.25, y=0.15)
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=150)


def main() -> None:
    """Show and draw accuracy against speed of a finished ablation."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="out folder of a finished `distilpose ablate` of students")
    parser.add_argument("--plot", type=Path, help="image to write")
    args = parser.parse_args()
    steps = measure_sweep(args.folder)
    Console().print(sweep_table(steps))
    if args.plot is not None:
        plot_sweep(steps, args.plot)


if __name__ == "__main__":
    main()
