"""The table of clusters and the report's sections: a map, and each cluster with its words and its nearest rows.

All text comes from a corpus and is untrusted: it is escaped here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from jobs.cluster.topics import Topics
from jobs.report.svg import GRID, TEXT, draw
from workers.vectors.clustering.centroids import Centroids
from workers.vectors.clustering.description import EXAMPLE
from workers.vectors.step import Partial

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHOWN = 300  # clusters of the report, the largest; the table of clusters has all
COLOURED = 10  # clusters of the map, the largest; the others are grey
_COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9", "#8c6bb1", "#a6761d", "#66a61e", "#e7298a")
_WIDTHS = {"narrow": 336, "wide": 700}  # pixels: a phone, a desktop
_LABEL_WORDS = 2
_LABEL = (0.22, 0.036)  # width and height of a label, in shares of the map
_DOT = 3e-4  # of the map's width: some renderers leave out lines of no length


@dataclass(frozen=True, slots=True)
class Clusters:
    """`described`: by place, as Described has it. `picture`: points [n, 2] and their places, and the plane's share."""

    centroids: Centroids
    described: Mapping[str, NDArray[Any]]
    picture: Partial

    @property
    def places(self) -> NDArray[np.int64]:
        """In order of numbers."""
        return np.argsort(self.centroids.numbers, kind="stable")


def cluster_table(clusters: Clusters, topics: Topics) -> pa.Table:
    """A row for each cluster, in order of numbers."""
    described, places = clusters.described, clusters.places
    rows = described["rows"][places]
    distance = described["distance"][places] / np.maximum(rows, 1)
    examples: list[list[dict[str, Any]]] = [[] for _ in places]
    for at, place in enumerate(described[EXAMPLE + "place"].tolist()):
        examples[place].append(
            {
                "id": str(described[EXAMPLE + "id"][at]),
                "distance": float(described[EXAMPLE + "distance"][at]),
                "text": topics.texts.get(at),
            }
        )
    example = pa.struct([("id", pa.string()), ("distance", pa.float32()), ("text", pa.string())])
    centroids = clusters.centroids.vectors[places]
    flat = pa.array(centroids.reshape(-1), pa.float32())
    return pa.table(
        {
            "cluster": pa.array(clusters.centroids.numbers[places], pa.int32()),
            "rows": pa.array(rows, pa.int64()),
            "mean_distance": pa.array(distance, pa.float32(), mask=rows == 0),
            "words": pa.array([topics.words[place] for place in places], pa.list_(pa.string())),
            "examples": pa.array([examples[place] for place in places], pa.list_(example)),
            "centroid": pa.FixedSizeListArray.from_arrays(flat, centroids.shape[1]),
        }
    )


def sections(clusters: Clusters, topics: Topics, table: pa.Table) -> list[tuple[str, str]]:
    """(title, HTML) of the report."""
    shown = [("Clusters", _table(table, topics))]
    if len(clusters.picture["points"]):
        shown.insert(0, ("Map", _map(clusters, table)))
    return shown


def _table(table: pa.Table, topics: Topics) -> str:
    largest = table.drop_columns(["centroid"]).take(
        pa.array(np.argsort(-table.column("rows").to_numpy(), kind="stable")[:SHOWN])
    )
    notes = [topics.note] if topics.note else []
    if topics.trouble:
        notes.append(f"Words and texts are missing, or fewer: {topics.trouble}.")
    if len(table) > SHOWN:
        notes.append(f"The {SHOWN} largest of {len(table):,} clusters; clusters.parquet has all.")
    head = "".join(
        f"<th{kind}>{name}</th>"
        for name, kind in (
            ("cluster", ""),
            ("rows", ' class="number"'),
            ("mean distance", ' class="number"'),
            ("words", ""),
            ("nearest rows", ""),
        )
    )
    body = "".join(_row(cluster) for cluster in largest.to_pylist())
    remarks = "".join(f'<p class="quiet foreign">{escape(note)}</p>' for note in notes)
    return f'{remarks}<table class="stack"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'


def _row(cluster: Mapping[str, Any]) -> str:
    distance = "" if cluster["mean_distance"] is None else f"{cluster['mean_distance']:.4f}"
    examples = "".join(
        f"<li>{escape(example['id'])}{': ' + escape(example['text']) if example['text'] else ''}</li>"
        for example in cluster["examples"]
    )
    return (
        f'<tr><th scope="row">{cluster["cluster"]}</th><td class="number" data-is="rows">{cluster["rows"]:,}</td>'
        f'<td class="number" data-is="mean distance">{distance}</td>'
        f'<td class="foreign" data-is="words">{escape(", ".join(cluster["words"]))}</td>'
        f'<td class="foreign"><details><summary>{len(cluster["examples"])}</summary><ul>{examples}</ul></details></td></tr>'
    )


def _map(clusters: Clusters, table: pa.Table) -> str:
    points, share = clusters.picture["points"], float(clusters.picture["share"])
    alt = (
        f"{len(points):,} rows on their first two principal components, which hold {share:.1%} of the variance; "
        f"the {min(COLOURED, len(table))} largest clusters are coloured"
    )
    drawn = [
        f'<div class="{size}">{draw(_painter(clusters, table), width, width * 3 // 4, name=f"map-{size}", alt=alt)}</div>'
        for size, width in _WIDTHS.items()
    ]
    return f'<figure>{"".join(drawn)}</figure><p class="quiet">{escape(alt)}.</p>'


def _painter(clusters: Clusters, table: pa.Table) -> Any:
    points = clusters.picture["points"]
    numbers = clusters.centroids.numbers[clusters.picture["places"]]
    rows = table.column("rows").to_numpy()
    coloured = np.argsort(-rows, kind="stable")[:COLOURED]
    words = table.column("words").to_pylist()

    def paint(figure: Figure) -> None:
        axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
        axes.set_axis_off()
        least, most = points.min(axis=0), points.max(axis=0)
        width = float(most[0] - least[0]) * _DOT
        axes.add_artist(_dots(points[~np.isin(numbers, coloured)], width, GRID))
        for number, colour in zip(coloured, _COLOURS, strict=False):
            axes.add_artist(_dots(points[numbers == number], width, colour))
        placed: list[NDArray[np.float64]] = []
        for number in coloured:
            here = points[numbers == number]
            if len(here):
                at = _free((np.median(here, axis=0) - least) / np.maximum(most - least, 1e-6), placed)
                label = f"{number} {' '.join(words[number][:_LABEL_WORDS])}".strip()
                x, y = (at * (most - least) + least).tolist()
                axes.text(x, y, label, color=TEXT, ha="center", va="center", fontsize=11)
        margin = np.maximum((most - least) * 0.03, 1e-6)
        axes.set_xlim(least[0] - margin[0], most[0] + margin[0])
        axes.set_ylim(least[1] - margin[1], most[1] + margin[1])

    return paint


def _free(at: NDArray[Any], placed: list[NDArray[np.float64]]) -> NDArray[np.float64]:
    """The place of a label, in shares of the map, moved down from those that are there."""
    at = np.asarray(at, np.float64)
    while any((np.abs(at - other) < _LABEL).all() for other in placed):
        at = at - np.array([0, _LABEL[1] / 2])
    placed.append(at)
    return at


def _dots(points: NDArray[np.float32], width: float, colour: str) -> Any:
    """One path for all points of a colour, with very short lines and round ends: a fifth of the bytes of markers."""
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path

    twice = np.repeat(points, 2, axis=0)
    twice[1::2, 0] += width
    codes = np.tile(np.array([Path.MOVETO, Path.LINETO], np.uint8), len(points))
    path = Path(twice, codes) if len(points) else Path(np.empty((0, 2)))
    path.should_simplify = False
    return PathPatch(path, fill=False, edgecolor=colour, linewidth=2.2, capstyle="round", joinstyle="round")
