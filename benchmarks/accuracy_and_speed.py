"""Draw accuracy against speed from files that `distilpose benchmark --json` wrote.

python benchmarks/accuracy_and_speed.py speed.json --plot speed.png
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter

from distilpose.models import MODEL_CARDS

MARKERS = {"torch": "o", "onnxruntime": "s", "openvino": "^"}


def average_precision(row: dict[str, Any]) -> float | None:
    """As evaluated in the same run, else as published for a preset (on COCO val2017)."""
    if "AP" in row["accuracy"]:
        return 100 * float(row["accuracy"]["AP"])
    card = MODEL_CARDS.get(row["model"])
    return None if card is None else card.published_ap


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """AP over crops per second at batch 1; a color per model, a marker per backend, open where it is not float32."""
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    shown = [(row, ap) for row in rows if (ap := average_precision(row)) is not None]
    names = list(dict.fromkeys(row["model"] for row, _ in shown))
    for row, ap in shown:
        color, speed = f"C{names.index(row['model'])}", 1 / row["seconds"]["1"]
        filled = color if row["numbers"] == "float32" else "none"
        axes.scatter(speed, ap, marker=MARKERS[row["backend"]], facecolor=filled, edgecolor=color, s=45)
    for number, name in enumerate(names):
        points = [(1 / row["seconds"]["1"], ap) for row, ap in shown if row["model"] == name]
        axes.annotate(name, max(points), (8, -3), textcoords="offset points", color=f"C{number}")
    for backend, marker in MARKERS.items():
        axes.scatter([], [], marker=marker, color="0.4", label=backend)
    figure.legend(loc="outside lower center", ncols=3, fontsize=8)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set(xlabel="crops per second on this machine, batch 1", ylabel="AP x 100")
    axes.margins(x=0.25, y=0.2)
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=150)


def main() -> None:
    """Read the files and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", type=Path, nargs="+", help="written by distilpose benchmark --json")
    parser.add_argument("--plot", type=Path, default=Path("speed.png"), help="image to write")
    args = parser.parse_args()
    plot([row for file in args.files for row in json.loads(file.read_text())], args.plot)


if __name__ == "__main__":
    main()
