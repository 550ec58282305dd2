"""The report's sections of task classify: figures, learning curve, ROC and PR curves, confusion, classes, labels.

Names of classes and ids come from corpora and are untrusted: every text is escaped here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from jobs.evaluate.classes.facts import Evaluation
from jobs.report.charts import NARROW, WIDE
from jobs.report.svg import FONT_PIXELS, MAIN, PALE, SECOND, draw
from workers.vectors.evaluation.classes.curves import precision_recall_points, roc_points

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WORST = 20  # classes of the confusion matrix
LINES, MARKED = 60, 3  # curves drawn, and those of them that are named: the worst
ISSUES = 20
_CURVE_POINTS = 60
_SHADES = (0.12, 0.3, 0.5, 0.75, 1.0)  # of a cell of the confusion matrix, by its share of the row
_CHARACTER = 0.64 * FONT_PIXELS


def sections(found: Evaluation, facts: Mapping[str, Any], issues: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """(title, HTML). `issues`: rows of the table label_issues, the worst first."""
    made = [("What the vectors are worth", _figures(facts)), ("Learning curve", _learning_curve(facts))]
    if "against" in facts:
        made.insert(1, ("Against the other evaluation", _against(facts["against"])))
    if any(each["auc"] is not None for each in facts["classes"].values()):
        made.append(("ROC", _curves(found, "roc")))
        made.append(("Precision and recall", _curves(found, "precision_recall")))
    if not found.several:
        made.append((f"Confusion of the worst {WORST} classes", _confusion(found)))
    made.append(("Classes, the worst first", _classes(facts)))
    if issues:
        made.append(("Labels to look at", _issues(issues)))
    return made


def _figures(facts: Mapping[str, Any]) -> str:
    intervals = facts["intervals"]
    rows = [
        (name, _shown(facts[key]), _between(intervals.get(key)))
        for name, key in (
            ("macro-F1", "macro_f1"),
            ("accuracy", "accuracy"),
            ("micro-F1", "micro_f1"),
            ("weighted F1", "weighted_f1"),
            ("macro AUC", "macro_auc"),
            ("macro average precision", "macro_average_precision"),
            ("calibration error", "calibration_error"),
            ("macro-F1 of 5 nearest neighbours", "knn_macro_f1"),
        )
    ]
    leak = facts["split"].get("random")
    if leak is not None:
        rows.append(("macro-F1 by a random split, which leaks", _shown(leak["macro_f1"]), ""))
        rows.append(("the same of nearest neighbours", _shown(leak["knn_macro_f1"]), ""))
    notes = "".join(f'<p class="quiet foreign">{escape(note)}</p>' for note in facts["notes"])
    told = f"{facts['training_rows']:,} rows trained the probe, {facts['rows']:,} tested it; C = {facts['probe']['c']:g}."
    return f"<p>{escape(told)}</p>{_table(('', 'value', '95% interval'), rows)}{notes}"


def _against(other: Mapping[str, Any]) -> str:
    low, high = other["macro_f1_interval"]
    told = (
        f"{other['verdict'].capitalize()}: macro-F1 {other['macro_f1']:.4f} against {other['other_macro_f1']:.4f} of "
        f"{other['run_id']}, on the same {other['rows']:,} rows; 95% interval of the difference {low:+.4f} to {high:+.4f}."
    )
    classes = [(each["class"], _shown(each["f1"]), _shown(each["other_f1"])) for each in other["lost_classes"]]
    rows = [(each["id"], each["given"], each["predicted"]) for each in other["lost_rows"]]
    worse = _table(("class that lost most", "F1", "was"), classes) if classes else ""
    return f'<p class="foreign">{escape(told)}</p>{worse}' + (
        _table(("row that only the other has right", "given", "predicted"), rows) if rows else ""
    )


def _learning_curve(facts: Mapping[str, Any]) -> str:
    points = facts["learning_curve"]
    rows, scores = [point["training_rows"] for point in points], [point["macro_f1"] for point in points]

    def paint(figure: Figure, width: int) -> None:
        axes = _axes(figure, width, 220)
        axes.plot(rows, scores, color=MAIN, marker="o", linewidth=2)
        axes.set_xscale("log")
        axes.set_xticks(rows, [f"{count:,}" for count in rows])
        axes.minorticks_off()
        axes.set_xlabel("training rows")
        axes.set_title("macro-F1", loc="left", fontsize=FONT_PIXELS, pad=8)

    told = "; ".join(f"{count:,} rows {score:.3f}" for count, score in zip(rows, scores, strict=True))
    gain = scores[-1] - scores[-2] if len(scores) > 1 else 0.0
    advice = f"The last doubling of the labelled rows was worth {gain:+.3f} of macro-F1."
    return f"{_figure('learning', f'Macro-F1 by training rows: {told}.', paint, 220)}<p>{advice}</p>"


def _curves(found: Evaluation, kind: str) -> str:
    """One line a class; the worst are named."""
    order = found.shown[np.argsort(found.curves.auc[found.shown])]
    order = order[np.isfinite(found.curves.auc[order])][:LINES]
    points: Callable[..., tuple[NDArray[np.float64], NDArray[np.float64]]]
    if kind == "roc":
        points, value, x, y = roc_points, found.curves.auc, "false positive rate", "true positive rate"
    else:
        points, value, x, y = precision_recall_points, found.curves.average_precision, "recall", "precision"
        order = order[np.argsort(value[order])]
    names = found.division.classes
    worst = list(order[:MARKED])

    def paint(figure: Figure, width: int) -> None:
        axes = _axes(figure, width, 320)
        for at in order[::-1]:
            xs, ys = points(found.scored["positives"][at], found.scored["negatives"][at], _CURVE_POINTS)
            named = at in worst
            style = ("-", "--", ":")[worst.index(at)] if named else "-"
            label = f"{_clipped(names[at])} {value[at]:.3f}" if named else None
            axes.plot(xs, ys, style, color=SECOND if named else PALE, linewidth=2 if named else 0.8, label=label)
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1.02)
        axes.set_xlabel(x)
        axes.set_title(y, loc="left", fontsize=FONT_PIXELS, pad=8)
        axes.legend(frameon=False, loc="lower right" if kind == "roc" else "upper right")

    figure = "AUC" if kind == "roc" else "average precision"
    told = "; ".join(f"{names[at]} {value[at]:.3f}" for at in worst)
    alt = f"{y.capitalize()} by {x} of {len(order)} classes. Lowest {figure}: {told}."
    note = f'<p class="quiet">A line is a class against all others; the named ones have the lowest {figure}.</p>'
    return _figure(kind, alt, paint, 320) + note


def _confusion(found: Evaluation) -> str:
    """Rows: given; columns: predicted; a cell's shade is its share of the row."""
    f1, actual = found.by_class.f1[0], found.scored["actual"][0]
    there = np.flatnonzero(actual)
    chosen = there[np.argsort(f1[there], kind="stable")][:WORST]
    matrix = found.scored["confusion"][np.ix_(chosen, chosen)]
    shares = matrix / np.maximum(actual[chosen], 1)[:, None]
    names = [_clipped(found.division.classes[at]) for at in chosen]
    height = 22 * len(chosen) + 110

    def paint(figure: Figure, width: int) -> None:
        left, bottom = _CHARACTER * 14 + 8, 100
        axes = figure.add_axes((left / width, bottom / height, (width - left - 8) / width, (height - bottom - 8) / height))
        for row, column in zip(*np.nonzero(matrix), strict=True):
            shade = _SHADES[min(int(shares[row, column] * len(_SHADES)), len(_SHADES) - 1)]
            ink = MAIN if row == column else SECOND
            axes.add_patch(_cell(column, row, ink, shade))
            if width == WIDE:
                axes.annotate(f"{matrix[row, column]}", (column, row), ha="center", va="center", fontsize=FONT_PIXELS - 3)
        axes.set_xlim(-0.5, len(names) - 0.5)
        axes.set_ylim(len(names) - 0.5, -0.5)
        axes.set_yticks(range(len(names)), names)
        axes.set_xticks(range(len(names)), names, rotation=90)
        axes.tick_params(length=0)

    errors = [(int(matrix[at, to]), at, to) for at, to in zip(*np.nonzero(matrix), strict=True) if at != to]
    told = "; ".join(f"{names[at]} as {names[to]} {count}" for count, at, to in sorted(errors, reverse=True)[:5])
    alt = f"Given classes by predicted ones, of the {len(names)} with the lowest F1. Most frequent: {told or 'no error'}."
    note = "Rows are given, columns predicted. Blue: right. Rows predicted as other classes are not shown here."
    return _figure("confusion", alt, paint, height) + f'<p class="quiet">{note}</p>'


def _cell(column: int, row: int, ink: str, shade: float) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle((column - 0.5, row - 0.5), 1, 1, facecolor=ink, alpha=shade, linewidth=0)


def _classes(facts: Mapping[str, Any]) -> str:
    order = sorted(facts["classes"].items(), key=lambda item: (item[1]["f1"], item[0]))
    rows = [
        (
            name,
            f"{each['rows']:,}",
            _shown(each["precision"]),
            _shown(each["recall"]),
            _shown(each["f1"]),
            _between(each["f1_interval"]),
            _shown(each["auc"]),
        )
        for name, each in order[:100]
    ]
    more = f'<p class="quiet">{len(order) - 100:,} more in scores.parquet.</p>' if len(order) > 100 else ""
    return _table(("class", "rows", "precision", "recall", "F1", "95% interval", "AUC"), rows) + more


def _issues(issues: Sequence[Mapping[str, Any]]) -> str:
    rows = [(each["id"], each["given"], each["likely"], f"{each['score']:.1f}") for each in issues[:ISSUES]]
    note = (
        "Rows whose label a probe that has not seen them finds least likely (log-odds). A ranking, no verdict: the first "
        "are worth a look. All are in label_issues.parquet."
    )
    return f'<p class="quiet">{note}</p>' + _table(("id", "given", "likelier", "score"), rows)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """The first column names the row."""
    top = "".join(f'<th scope="col"{_number(at)}>{escape(name)}</th>' for at, name in enumerate(head))
    body = "".join(
        f'<tr><th scope="row" class="foreign">{escape(row[0])}</th>'
        + "".join(
            f'<td class="number foreign" data-is="{escape(head[at])}">{escape(row[at])}</td>' for at in range(1, len(row))
        )
        + "</tr>"
        for row in rows
    )
    return f'<table class="stack"><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>'


def _number(at: int) -> str:
    return ' class="number"' if at else ""


def _axes(figure: Figure, width: int, height: int) -> Axes:
    box = (4 * _CHARACTER / width, 44 / height, (width - 6 * _CHARACTER) / width, (height - 72) / height)
    axes = figure.add_axes(box)
    axes.grid(axis="both")
    return axes


def _figure(name: str, alt: str, paint: Callable[[Figure, int], None], height: int) -> str:
    def drawn(width: int) -> str:
        return draw(lambda figure: paint(figure, width), width, height, name=f"{name}{width}", alt=alt)

    return f'<figure><div class="narrow">{drawn(NARROW)}</div><div class="wide">{drawn(WIDE)}</div></figure>'


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _between(interval: Sequence[float] | None) -> str:
    return "" if interval is None else f"{interval[0]:.3f} to {interval[1]:.3f}"


def _clipped(name: str) -> str:
    return name if len(name) <= 14 else f"{name[:13]}…"
