"""Small charts as SVG for a page: bars and curves. Colors are class names of `page.STYLE`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from distilpose.evaluation.report.page import escape
from distilpose.types import FloatArray

# Units of the view box. Narrow, so that letters stay readable where a phone shrinks the chart to its width.
_WIDTH = 360
_BAR_LEFT, _BAR_RIGHT, _BAR_STEP, _BAR_HEIGHT = 100, 320, 18, 12
_PLOT_LEFT, _PLOT_RIGHT, _PLOT_TOP, _PLOT_BOTTOM = 42, 348, 8, 208
_TICKS = (0.0, 0.25, 0.5, 0.75, 1.0)


class Bar(NamedTuple):
    """One line of a bar chart.

    Attributes:
        label: left of the bar.
        parts: color, share of the whole length in [0, 1] and explanation of each part, left to right.
        value: right of the bar.
    """

    label: str
    parts: Sequence[tuple[str, float, str]]
    value: str


class Curve(NamedTuple):
    """One line of a curve chart.

    Attributes:
        color: of the line.
        xy: (M, 2) points in [0, 1] x [0, 1].
        dots: explanation of each point, which then shows as a dot; empty for a bare line.
    """

    color: str
    xy: FloatArray
    dots: Sequence[str] = ()


def bar_chart(title: str, bars: Sequence[Bar]) -> str:
    """Horizontal bars over a common scale from 0 to 1.

    Args:
        title: what it shows, for those who cannot see it.
        bars: top to bottom.
    """
    height = _BAR_STEP * len(bars) + 6
    ticks = [_line(_bar_x(tick), 0, _bar_x(tick), height, "grid") for tick in _TICKS]
    rows = [_bar_row(bar, 3 + row * _BAR_STEP) for row, bar in enumerate(bars)]
    return _chart(title, height, [*ticks, *rows])


def curve_chart(title: str, curves: Sequence[Curve], x_label: str, y_label: str, *, diagonal: bool = False) -> str:
    """Curves over the unit square.

    Args:
        title: what it shows, for those who cannot see it.
        curves: the last is drawn on top.
        x_label: below the axis.
        y_label: along the axis.
        diagonal: draw y = x to compare with.
    """
    grid = []
    for tick in _TICKS:
        x, y = _plot_x(tick), _plot_y(tick)
        grid += [_line(x, _PLOT_TOP, x, _PLOT_BOTTOM, "grid"), _line(_PLOT_LEFT, y, _PLOT_RIGHT, y, "grid")]
        grid += [_text(x, _PLOT_BOTTOM + 14, f"{tick:g}", "middle"), _text(_PLOT_LEFT - 5, y + 4, f"{tick:g}", "end")]
    middle_x, middle_y = (_PLOT_LEFT + _PLOT_RIGHT) / 2, (_PLOT_TOP + _PLOT_BOTTOM) / 2
    axes = [
        _text(middle_x, _PLOT_BOTTOM + 30, x_label, "middle"),
        f'<g transform="translate(10 {middle_y:.1f}) rotate(-90)">{_text(0, 0, y_label, "middle")}</g>',
    ]
    if diagonal:
        axes.append(_line(_plot_x(0), _plot_y(0), _plot_x(1), _plot_y(1), "diagonal"))
    return _chart(title, _PLOT_BOTTOM + 38, [*grid, *axes, *map(_curve, curves)])


def _bar_row(bar: Bar, top: float) -> str:
    baseline = top + _BAR_HEIGHT - 2
    parts = [_text(_BAR_LEFT - 6, baseline, bar.label, "end"), _text(_WIDTH, baseline, bar.value, "end")]
    start = 0.0
    for color, share, explanation in bar.parts:
        left, right = _bar_x(start), _bar_x(start + share)
        if right > left:
            parts.append(
                f'<rect class="{escape(color)}" x="{left:.1f}" y="{top:.1f}" width="{right - left:.1f}" '
                f'height="{_BAR_HEIGHT}"><title>{escape(explanation)}</title></rect>'
            )
        start += share
    return "".join(parts)


def _curve(curve: Curve) -> str:
    points = [(_plot_x(x), _plot_y(y)) for x, y in curve.xy.tolist()]
    line = f'<polyline points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in points)}"/>'
    dots = [
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5"><title>{escape(dot)}</title></circle>'
        for (x, y), dot in zip(points, curve.dots, strict=bool(curve.dots))
    ]
    return f'<g class="{escape(curve.color)}">{line}{"".join(dots)}</g>'


def _chart(title: str, height: float, content: Iterable[str]) -> str:
    head = f'<svg class="chart" viewBox="0 0 {_WIDTH} {height:g}" role="img" aria-label="{escape(title)}">'
    return "\n".join([head, *content, "</svg>"])


def _line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    return f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _bar_x(share: float) -> float:
    return _BAR_LEFT + share * (_BAR_RIGHT - _BAR_LEFT)


def _plot_x(x: float) -> float:
    return _PLOT_LEFT + x * (_PLOT_RIGHT - _PLOT_LEFT)


def _plot_y(y: float) -> float:
    return _PLOT_BOTTOM - y * (_PLOT_BOTTOM - _PLOT_TOP)
