"""A matplotlib figure as SVG that lives inside an HTML page: text stays text, colours follow the page, ids are its own.

    MAIN, …    colours to draw with; each becomes a CSS variable, so that light, dark and print need one drawing
    draw()     a figure of so many pixels as one <svg role="img">, without prolog, metadata, comments and fonts

matplotlib is imported when something is drawn: runs without a report do without it. Knows nothing of runs.
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
"""Stand-ins that pass through matplotlib, and what the page's style sheet calls them."""

_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "reembed",  # the same figures give the same bytes
    "text.parse_math": False,  # a name with two dollars is no formula
    "font.family": "DejaVu Sans",  # comes with matplotlib, and is as wide as a page's font gets: only measured with
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
    """`paint` fills an empty figure of width x height pixels. `name` sets its ids apart from other charts'; `alt` tells the
    figures to those who cannot see it."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    sink = io.StringIO()
    with mpl.rc_context():
        mpl.rcdefaults()  # whatever style sheet this machine has
        mpl.rcParams.update(_STYLE)
        figure = Figure((width / _POINTS_AN_INCH, height / _POINTS_AN_INCH))
        paint(figure)
        figure.savefig(sink, format="svg", metadata=_NO_METADATA)
    return _inlined(sink.getvalue(), width, height, name, alt)


def _inlined(svg: str, width: int, height: int, name: str, alt: str) -> str:
    body = svg[_start(svg) :]
    body = _SHEET.sub("", _COMMENT.sub("", body)).replace("xlink:href", "href")
    body = re.sub(r"font-family: [^;\"]*;? ?", "", body)  # the page's own
    body = re.sub(r' transform="rotate\(-0 [^)]*\)"', "", body)
    body = _PATH.sub(lambda path: f' d="{_shorter(path[1])}"', body)
    used = set(_REFERENCE.findall(body))
    body = _ID.sub(lambda found: f' id="{name}-{found[1]}"' if found[1] in used else "", body)
    body = _REFERENCE.sub(lambda found: f"#{name}-{found[1]}" if found[1] in used else found[0], body)
    for ink, colour in _INKS.items():
        body = body.replace(ink, colour)
    root = f'<svg role="img" aria-label="{escape(alt)}" viewBox="0 0 {width} {height}" stroke-linejoin="round">'
    return root + re.sub(r"\n\s*", "\n", body)


def _start(svg: str) -> int:
    """Where the root's content begins."""
    root = _ROOT.search(svg)
    if root is None:
        raise ValueError("matplotlib gave no <svg>")
    return root.end()


def _shorter(path: str) -> str:
    """A tenth of a pixel is enough."""
    return " ".join(_DECIMALS.sub(lambda number: f"{float(number[0]):.1f}".removesuffix(".0"), path).split())
