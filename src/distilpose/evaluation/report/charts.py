"""Charts of a report as images: bars by joint, and curves over the unit square."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from distilpose.evaluation.metrics.diagnosis import ERROR_KINDS
from distilpose.types import FloatArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Kinds of error have the colors of Okabe and Ito, which the color-blind can tell apart.
KIND_COLORS = dict(zip(ERROR_KINDS, ("#009e73", "#56b4e9", "#e69f00", "#cc79a7", "#d55e00"), strict=True))
BLUE = "#3b7ddd"
_INK = "#7b8494"  # can be read on a light and on a dark page
_SETTINGS: Any = {
    "svg.fonttype": "none",  # letters of the page, small and searchable
    "svg.hashsalt": "distilpose",  # equal evaluations give equal pages
    "font.size": 9,
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "axes.edgecolor": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": _INK,
    "grid.alpha": 0.25,
}


class Curve(NamedTuple):
    """One line of a curve chart."""

    label: str
    color: str
    xy: FloatArray  # (M, 2) points in [0, 1] x [0, 1]
    sizes: FloatArray | None = None  # (M,) how much each point counts, shown as the area of a dot


def bar_chart(labels: Sequence[str], shares: FloatArray, colors: Sequence[str], values: Sequence[str]) -> str:
    """N horizontal bars of (N, parts) shares from 0 to 1, top to bottom, as a data address of an SVG image.

    ``colors`` are those of the parts; ``values`` stand at the end of each bar.
    """

    def draw(axes: Axes) -> None:
        left = np.zeros(len(shares))
        for part, color in zip(np.nan_to_num(shares).T, colors, strict=True):
            axes.barh(range(len(labels)), part, left=left, color=color, height=0.72)
            left = left + part
        axes.set_yticks(range(len(labels)), labels)
        axes.set(xlim=(0, 1), ylim=(len(labels) - 0.4, -0.6), xticks=np.linspace(0, 1, 5))
        axes.xaxis.set_major_formatter(lambda share, _: f"{100 * share:g}")
        axes.grid(axis="x")
        axes.tick_params(left=False)
        for row, value in enumerate(values):
            axes.text(1.02, row, value, va="center")

    return _chart((5.2, 0.9 + 0.22 * len(labels)), draw)


def curve_chart(curves: Sequence[Curve], x_label: str, y_label: str, *, diagonal: bool = False) -> str:
    """Curves over the unit square, with y = x to compare with if asked for, as a data address of an SVG image."""

    def draw(axes: Axes) -> None:
        if diagonal:
            axes.plot([0, 1], [0, 1], color=_INK, linestyle="--", linewidth=1)
        for curve in curves:
            x, y = curve.xy.T
            axes.plot(x, y, color=curve.color, label=curve.label, linewidth=1.8)
            if curve.sizes is not None and len(curve.sizes):
                axes.scatter(x, y, s=10 + 90 * curve.sizes / curve.sizes.max(), color=curve.color, alpha=0.7)
        axes.set(xlim=(0, 1.02), ylim=(0, 1.02), xlabel=x_label, ylabel=y_label)
        axes.grid()
        axes.figure.legend(loc="outside lower center", ncols=1, frameon=False)

    return _chart((5.2, 4.2), draw)


def _chart(size: tuple[float, float], draw: Callable[[Axes], None]) -> str:
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_SETTINGS):
        figure = Figure(figsize=size, layout="constrained")
        draw(figure.subplots())
        content = io.BytesIO()
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(content, format="svg", metadata=nothing, transparent=True)
    return f"data:image/svg+xml;base64,{base64.b64encode(content.getvalue()).decode()}"
