"""The charts of a run's report, as SVG. Each is drawn twice: for a phone's width and for a desktop column.

    charts(facts) -> {name: Chart}; a chart without data is left out

The two colours differ in lightness, and figures are written beside the bars, so that charts can be read in greyscale and by
colour-blind readers. The alternative text of each chart states the same figures for screen readers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jobs.report.facts import Lengths, ReportFacts, RowOrigins, Stages
from jobs.report.svg import FONT_PIXELS, MAIN, PALE, SECOND, TEXT, draw
from jobs.report.timeline import Pause, Throughput, Timeline

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NARROW, WIDE = 336, 552  # pixels: a phone of 390 less its margins, half a desktop page
_CHARACTER = 0.64 * FONT_PIXELS  # upper estimate of the mean width of one, in pixels
_BAR_ROW = 26  # pixels from one labelled bar to the next


@dataclass(frozen=True, slots=True)
class Chart:
    narrow: str  # SVG
    wide: str
    alt: str


def charts(facts: ReportFacts) -> dict[str, Chart]:
    """The charts for which there is data, by name: rows, throughput, timeline, stages, lengths."""
    drawn: dict[str, Chart] = {}
    if facts.origins.carried or facts.origins.reused or facts.origins.repeated:
        drawn["rows"] = _rows(facts.origins)
    if facts.throughput is not None:
        drawn["throughput"] = _throughput(facts.throughput, facts.pauses)
        drawn["timeline"] = _timeline(facts.timeline, facts.pauses)
    if facts.stages.encoder_seconds:
        drawn["stages"] = _stages(facts.stages)
    if facts.lengths.counted:
        drawn["lengths"] = _lengths(facts.lengths)
    return drawn


def _rows(origins: RowOrigins) -> Chart:
    counts = {
        "carried over": origins.carried,
        "reused": origins.reused,
        "repeated": origins.repeated,
        "embedded": origins.embedded,
        "quarantined": origins.quarantined,
    } | ({"left out": origins.excluded} if origins.excluded else {})
    whole = sum(counts.values())
    notes = [f"{count:,} · {count / whole:.1%}" for count in counts.values()]
    return _bars("rows", "Rows by the origin of their vectors", list(counts), list(counts.values()), notes)


def _stages(stages: Stages) -> Chart:
    shares = stages.shares
    notes = [f"{shares[name]:.1%} · {seconds:,.1f} s" for name, seconds in stages.seconds.items()]
    what = "Seconds of each stage as a share of the encoder's time"
    return _bars("stages", what, list(stages.seconds), list(stages.seconds.values()), notes, second=("wait",))


def _lengths(lengths: Lengths) -> Chart:
    filled = [place for place, count in enumerate(lengths.documents) if count]
    shown = range(filled[0], filled[-1] + 1)
    notes = [f"{lengths.documents[at]:,} · {lengths.documents[at] / lengths.counted:.1%}" for at in shown]
    labels, counts = [lengths.labels[at] for at in shown], [lengths.documents[at] for at in shown]
    return _bars("lengths", "Documents by number of tokens", labels, counts, notes)


def _bars(
    name: str, what: str, labels: Sequence[str], values: Sequence[float], notes: Sequence[str], second: Sequence[str] = ()
) -> Chart:
    """Horizontal bars with their labels on the left and `notes` on the right; `second` names bars in the second colour."""

    def paint(figure: Figure, width: int) -> None:
        left, right = _CHARACTER * max(map(len, labels)) + 8, _CHARACTER * max(map(len, notes)) + 8
        axes = figure.add_axes((left / width, 0.0, (width - left - right) / width, 1.0))
        inks = [SECOND if label in second else MAIN for label in labels]
        axes.barh(range(len(labels)), values, height=0.62, color=inks)
        axes.set_ylim(len(labels) - 0.5, -0.5)
        axes.set_xlim(0, max(*values, 1e-9))
        axes.set_yticks(range(len(labels)), labels)
        axes.tick_params(length=0)
        axes.xaxis.set_visible(False)
        axes.spines["bottom"].set_visible(False)
        for row, (value, note) in enumerate(zip(values, notes, strict=True)):
            axes.annotate(note, (value, row), (6, 0), textcoords="offset points", va="center", annotation_clip=False)

    described = "; ".join(f"{label} {note}" for label, note in zip(labels, notes, strict=True))
    return _chart(name, f"{what}: {described}.", paint, _BAR_ROW * len(labels))


def _throughput(rates: Throughput, pauses: Sequence[Pause]) -> Chart:
    seconds = rates.bin_seconds * len(rates.tokens_per_second)
    unit, scale = _time_unit(seconds)
    panels = (("tokens a second", rates.tokens_per_second, MAIN), ("documents a second", rates.documents_per_second, SECOND))

    def paint(figure: Figure, width: int) -> None:
        left, right = 6.4 * _CHARACTER, 2 * _CHARACTER
        for row, (label, values, ink) in enumerate(panels):
            box = (left / width, (168 - 124 * row) / 284, (width - left - right) / width, 92 / 284)
            axes = figure.add_axes(box)
            edges = [at * rates.bin_seconds / scale for at in range(len(values) + 1)]
            axes.stairs(values, edges, fill=True, color=ink)
            axes.set_title(label, loc="left", fontsize=FONT_PIXELS, pad=8)
            axes.set_ylim(0, max(*values, 1e-9) * 1.05)
            axes.yaxis.set_major_formatter(lambda value, _: _compact(value))
            axes.locator_params(axis="y", nbins=4)
            axes.grid(axis="y")
            _time_axis(axes, seconds / scale, pauses, scale, unit if row else None)

    alt = " ".join(
        f"{label.capitalize()}: {sum(values) / len(values):,.1f} on average, {min(values):,.1f} to {max(values):,.1f}."
        for label, values, _ in panels
    )
    return _chart("throughput", f"{alt} Over {seconds / scale:,.1f} {unit} of work.", paint, 284)


def _timeline(timeline: Timeline, pauses: Sequence[Pause]) -> Chart:
    unit, scale = _time_unit(timeline.seconds)
    pitch = 24 if len(timeline.lanes) <= 12 else 10
    every = -(-(FONT_PIXELS + 3) // pitch)  # label every n-th lane, so that labels do not overlap
    top, bottom = 18, 44
    height = top + bottom + pitch * len(timeline.lanes)

    def paint(figure: Figure, width: int) -> None:
        names = [_clipped(lane.replica) for lane in timeline.lanes]
        left, right = _CHARACTER * max(map(len, names)) + 8, 2 * _CHARACTER
        box = (left / width, bottom / height, (width - left - right) / width, (height - top - bottom) / height)
        axes = figure.add_axes(box)
        for row, lane in enumerate(timeline.lanes):
            for first, ink in enumerate((MAIN, PALE)):  # alternating colours separate neighbouring shards
                _blocks(axes, [(bar.start / scale, bar.end / scale) for bar in lane.bars[first::2]], row, ink)
        axes.set_ylim(len(timeline.lanes) - 0.5, -0.5)
        axes.set_yticks(range(0, len(names), every), names[::every])
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="x")
        _time_axis(axes, timeline.seconds / scale, pauses, scale, unit)

    busy = [lane.busy_seconds / timeline.seconds for lane in timeline.lanes]
    alt = (
        f"{timeline.shards:,} shards on {timeline.replicas:,} replicas over {timeline.seconds / scale:,.1f} {unit}; "
        f"replicas at work between {min(busy):.0%} and {max(busy):.0%} of the time."
    )
    return _chart("timeline", alt, paint, height)


def _blocks(axes: Axes, spans: Sequence[tuple[float, float]], row: int, ink: str) -> None:
    """The bars of one lane as one path: an SVG element for each bar would make the page large."""
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path

    corners = [
        point
        for start, end in spans
        for point in ((start, row - 0.38), (end, row - 0.38), (end, row + 0.38), (start, row + 0.38), (start, row - 0.38))
    ]
    codes = [Path.MOVETO, Path.LINETO, Path.LINETO, Path.LINETO, Path.CLOSEPOLY] * len(spans)
    if corners:
        axes.add_patch(PathPatch(Path(corners, codes), facecolor=ink, linewidth=0))


def _time_axis(axes: Axes, end: float, pauses: Sequence[Pause], scale: float, unit: str | None) -> None:
    axes.set_xlim(0, end)
    axes.locator_params(axis="x", nbins=5)
    axes.spines["left"].set_visible(False)
    if unit is None:
        axes.tick_params(axis="x", labelbottom=False)
    else:
        axes.set_xlabel(f"{unit} of work", labelpad=4)
    for pause in pauses:
        axes.axvline(pause.at / scale, color=TEXT, linestyle=(0, (4, 3)), linewidth=1)


def _chart(name: str, alt: str, paint: Callable[[Figure, int], None], height: int) -> Chart:
    def drawn(width: int) -> str:
        return draw(lambda figure: paint(figure, width), width, height, name=f"{name}{width}", alt=alt)

    return Chart(drawn(NARROW), drawn(WIDE), alt)


def _time_unit(seconds: float) -> tuple[str, float]:
    return ("seconds", 1.0) if seconds < 180 else ("minutes", 60.0) if seconds < 3 * 3600 else ("hours", 3600.0)


def _compact(value: Any) -> str:
    """1,500,000 -> 1.5M: short enough for an axis label."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g}{letter}"
    return f"{value:.3g}"


def _clipped(name: str) -> str:
    return name if len(name) <= 14 else f"{name[:13]}…"
