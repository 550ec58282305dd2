"""matplotlib figures as inline SVG for an HTML page: text stays text, colours come from the page, ids are unique.

    MAIN, …    colours to draw with; each becomes a CSS variable, so that one drawing serves light mode, dark mode and print
    draw()     a figure as one <svg role="img">, without prolog, metadata, comments and fonts

matplotlib is imported when the first figure is drawn, so runs without a report do not load it. Knows nothing of runs.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from html import escape
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FONT_PIXELS = 13  # at the width a chart is drawn for
TEXT, GRID, MAIN, PALE, SECOND = "#010101", "#020202", "#030303", "#040404", "#050505"
_INKS = {TEXT: "currentColor", GRID: "var(--grid)", MAIN: "var(--main)", PALE: "var(--pale)", SECOND: "var(--second)"}
"""Placeholder colours that matplotlib writes -> their names in the page's style sheet."""

_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "reembed",  # the same figures give the same bytes
    "text.parse_math": False,  # a name with two dollar signs is not a formula
    "font.family": "DejaVu Sans",  # only measures text: comes with matplotlib, and is as wide as the page's widest font
    "font.size": FONT_PIXELS,
    "text.color": TEXT,
    "axes.labelcolor": TEXT,
    "axes.edgecolor": GRID,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "xtick.color": GRID,
    "ytick.color": GRID,
    "xtick.labelcolor": TEXT,
    "ytick.labelcolor": TEXT,
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
}
_POINTS_AN_INCH = 72  # matplotlib's SVG counts in points: here a point is a pixel of the page
_NO_METADATA = dict.fromkeys(("Creator", "Date", "Format", "Type"))

_COMMENT, _SHEET = re.compile(r"<!--.*?-->", re.DOTALL), re.compile(r"<defs>\s*<style.*?</style>\s*</defs>", re.DOTALL)
_ROOT = re.compile(r"<svg\b[^>]*>")
_ID, _REFERENCE = re.compile(r' id="([^"]*)"'), re.compile(r"(?<=[(\"])#([^)\"]+)(?=[)\"])")
_PATH, _DECIMALS = re.compile(r' d="([^"]*)"'), re.compile(r"\d+\.\d+")


def draw(paint: Callable[[Figure], None], width: int, height: int, *, name: str, alt: str) -> str:
    """An <svg> of width x height pixels; `paint` draws into an empty figure.

    `name` prefixes its ids, so that they differ from those of other charts. `alt` is the alternative text.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    sink = io.StringIO()
    with mpl.rc_context():
        mpl.rcdefaults()  # ignore the matplotlib style of this machine
        mpl.rcParams.update(_STYLE)
        figure = Figure((width / _POINTS_AN_INCH, height / _POINTS_AN_INCH))
        paint(figure)
        figure.savefig(sink, format="svg", metadata=_NO_METADATA)
    return _inlined(sink.getvalue(), width, height, name, alt)


def _inlined(svg: str, width: int, height: int, name: str, alt: str) -> str:
    body = svg[_start(svg) :]
    body = _SHEET.sub("", _COMMENT.sub("", body)).replace("xlink:href", "href")
    body = re.sub(r"font-family: [^;\"]*;? ?", "", body)  # the font is set by the page
    body = re.sub(r' transform="rotate\(-0 [^)]*\)"', "", body)
    body = _PATH.sub(lambda path: f' d="{_shorter(path[1])}"', body)
    used = set(_REFERENCE.findall(body))
    body = _ID.sub(lambda match: f' id="{name}-{match[1]}"' if match[1] in used else "", body)
    body = _REFERENCE.sub(lambda match: f"#{name}-{match[1]}" if match[1] in used else match[0], body)
    for ink, colour in _INKS.items():
        body = body.replace(ink, colour)
    root = f'<svg role="img" aria-label="{escape(alt)}" viewBox="0 0 {width} {height}" stroke-linejoin="round">'
    return root + re.sub(r"\n\s*", "\n", body)


def _start(svg: str) -> int:
    """Offset of the root element's content."""
    root = _ROOT.search(svg)
    if root is None:
        raise ValueError("matplotlib gave no <svg>")
    return root.end()


def _shorter(path: str) -> str:
    """The path with coordinates rounded to a tenth of a pixel."""
    return " ".join(_DECIMALS.sub(lambda number: f"{float(number[0]):.1f}".removesuffix(".0"), path).split())
