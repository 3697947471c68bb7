"""An HTML page that needs nothing but itself: style, sections, tables. Plain text is escaped here."""

from __future__ import annotations

import html
from collections.abc import Sequence

# Kinds of error have the colors of Okabe and Ito, which the color-blind can tell apart.
STYLE = """
:root {
  color-scheme: light dark;
  --page: #f6f7f9; --card: #ffffff; --ink: #1b1f27; --soft: #5b6472; --rule: #dde1e8;
  --blue: #2f6fde; --good: #009e73; --jitter: #56b4e9; --inversion: #e69f00; --swap: #cc79a7; --miss: #d55e00;
}
@media (prefers-color-scheme: dark) {
  :root { --page: #12151b; --card: #1b2029; --ink: #e7eaf0; --soft: #a0a9b8; --rule: #333b48; --blue: #7aa7ff; }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); font: 16px/1.5 system-ui, sans-serif; }
main { max-width: 68rem; margin: 0 auto; padding: 1.5rem 1rem 4rem; }
h1 { font-size: 1.6rem; line-height: 1.2; margin: 0 0 1rem; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 0 0 .5rem; }
h3 { font-size: 1rem; margin: 0 0 .25rem; }
section, .tiles div { background: var(--card); border: 1px solid var(--rule); border-radius: 10px; }
section { padding: 1.1rem; margin: 0 0 1rem; min-width: 0; }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr)); column-gap: 1rem; }
p { margin: 0 0 .8rem; max-width: 46rem; color: var(--soft); }
.columns { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 20rem), 1fr)); gap: 1rem 2rem; }
.columns > div { min-width: 0; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(6.5rem, 1fr)); gap: .6rem; margin: 0 0 1rem; }
.tiles div { padding: .5rem .8rem; }
.tiles b { display: block; font-size: 1.4rem; line-height: 1.3; font-variant-numeric: tabular-nums; }
.tiles span { color: var(--soft); font-size: .85rem; }
.scroll { overflow-x: auto; margin: 0 0 .8rem; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .5rem; border-bottom: 1px solid var(--rule); text-align: right; white-space: nowrap; }
th { font-weight: 600; }
tbody th { font-weight: 400; }
th:first-child { text-align: left; padding-left: 0; }
.facts th, .facts td { white-space: normal; overflow-wrap: anywhere; }
details { margin: 0 0 .8rem; }
summary { cursor: pointer; color: var(--blue); }
.chart { display: block; width: 100%; max-width: 36rem; margin: 0 0 .5rem; }
.chart text { fill: var(--soft); font-size: 12px; }
.grid { stroke: var(--rule); stroke-width: 1; }
.diagonal { stroke: var(--soft); stroke-width: 1.2; stroke-dasharray: 5 4; }
.blue { --color: var(--blue); } .good { --color: var(--good); } .jitter { --color: var(--jitter); }
.inversion { --color: var(--inversion); } .swap { --color: var(--swap); } .miss { --color: var(--miss); }
rect, circle { fill: var(--color); }
polyline { fill: none; stroke: var(--color); stroke-width: 2; stroke-linejoin: round; }
.legend { list-style: none; display: flex; flex-wrap: wrap; gap: .2rem 1.1rem; margin: 0 0 .8rem; padding: 0; }
.legend li { font-size: .9rem; }
.legend li::before { content: ""; display: inline-block; width: .8em; height: .8em; margin-right: .4em;
  border-radius: 2px; background: var(--color); }
.people { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 15rem), 1fr)); gap: .8rem;
  margin: 0 0 1rem; }
figure { margin: 0; min-width: 0; }
figure svg { display: block; width: 100%; border-radius: 6px; background: #000; }
figure line { stroke: var(--color); stroke-width: 2; }
figure circle { fill: none; stroke: var(--color); stroke-width: 2; }
figcaption { font-size: .85rem; color: var(--soft); overflow-wrap: anywhere; }
figcaption b { color: var(--ink); }
@media (max-width: 30rem) { main { padding: 1rem .6rem 3rem; } section { padding: .8rem; } }
"""

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<main>
<h1>{title}</h1>
{content}
</main>
</body>
</html>
"""


def escape(text: str) -> str:
    """Plain text -> markup that shows it, in content and in quoted attributes."""
    return html.escape(text, quote=True)


def page(title: str, *parts: str) -> str:
    """A whole page.

    Args:
        title: plain text.
        parts: markup.
    """
    return _PAGE.format(title=escape(title), style=STYLE, content="\n".join(parts))


def section(title: str, *parts: str) -> str:
    """Markup under a heading in plain text."""
    return "\n".join(["<section>", f"<h2>{escape(title)}</h2>", *parts, "</section>"])


def pair(*sections: str) -> str:
    """Sections side by side where the screen is wide enough."""
    return "\n".join(['<div class="pair">', *sections, "</div>"])


def columns(*parts: str) -> str:
    """Markup within a section side by side where the screen is wide enough."""
    return "\n".join(['<div class="columns">', *(f"<div>{part}</div>" for part in parts), "</div>"])


def heading(text: str) -> str:
    """A small heading in plain text."""
    return f"<h3>{escape(text)}</h3>"


def paragraph(text: str) -> str:
    """Plain text as a paragraph."""
    return f"<p>{escape(text)}</p>"


def folded(summary: str, content: str) -> str:
    """Markup that shows when its summary, in plain text, is clicked."""
    return f"<details><summary>{escape(summary)}</summary>{content}</details>"


def table(header: Sequence[str], rows: Sequence[Sequence[str]], kind: str = "numbers") -> str:
    """Plain text in rows and columns; the first column names the row.

    Args:
        header: of the columns.
        rows: as long as the header.
        kind: "numbers", or "facts" for text that may wrap.
    """
    head = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in header)
    body = [
        f'<tr><th scope="row">{escape(name)}</th>{"".join(f"<td>{escape(cell)}</td>" for cell in cells)}</tr>'
        for name, *cells in rows
    ]
    opening = f'<div class="scroll"><table class="{escape(kind)}"><thead><tr>{head}</tr></thead><tbody>'
    return "\n".join([opening, *body, "</tbody></table></div>"])


def tiles(values: Sequence[tuple[str, str]]) -> str:
    """Names and their values in large type, all plain text."""
    cells = [f"<div><b>{escape(value)}</b><span>{escape(name)}</span></div>" for name, value in values]
    return "\n".join(['<div class="tiles">', *cells, "</div>"])


def legend(entries: Sequence[tuple[str, str]]) -> str:
    """Colors and what they stand for, in plain text."""
    items = [f'<li class="{escape(color)}">{escape(text)}</li>' for color, text in entries]
    return "\n".join(['<ul class="legend">', *items, "</ul>"])
