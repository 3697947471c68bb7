"""An image of accuracy against speed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from distilpose.benchmark.inference_speed import Speed
from distilpose.errors import ConfigError
from distilpose.models import MODEL_CARDS

MARKERS = {"torch": "o", "onnxruntime": "s", "openvino": "^"}


def plot_accuracy_against_speed(speeds: Sequence[Speed], path: Path, batch: int = 1) -> None:
    """Published AP over crops per second measured here, one line per model through its runtimes.

    Args:
        speeds: measured.
        path: image to write, of a format that matplotlib knows.
        batch: whose speed.

    Raises:
        ConfigError: none of the models has a published AP.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter

    published = {name: card.published_ap for name, card in MODEL_CARDS.items() if card.published_ap is not None}
    names = [name for name in published if any(speed.model == name for speed in speeds)]
    if not names:
        raise ConfigError(f"the plot needs one of {', '.join(published)}, which have a published AP: add it")
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for number, name in enumerate(names):
        points = [speed for speed in speeds if speed.model == name and speed.variant in ("float32", "int8")]
        x = [batch / point.seconds[batch] for point in points]
        axes.plot(sorted(x), [published[name]] * len(x), color=f"C{number}", linewidth=0.8, alpha=0.5)
        for point, speed in zip(points, x, strict=True):
            filled = f"C{number}" if point.variant == "float32" else "none"
            axes.scatter(
                speed, published[name], marker=MARKERS[point.runtime], facecolor=filled, edgecolor=f"C{number}", s=45
            )
        axes.annotate(name, (max(x), published[name]), textcoords="offset points", xytext=(8, -3), color=f"C{number}")
    for runtime, marker in MARKERS.items():
        axes.scatter([], [], marker=marker, color="0.4", label=runtime)
    axes.scatter([], [], marker="o", facecolor="none", edgecolor="0.4", label="int8 (AP published for float32)")
    figure.legend(loc="outside lower center", ncols=4, fontsize=8)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.margins(x=0.25, y=0.2)
    axes.set_xlabel(f"crops per second on this machine, batch {batch}")
    axes.set_ylabel("AP on COCO val2017, as published")
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=150)
