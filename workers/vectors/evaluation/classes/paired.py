"""Two evaluations of the same rows, compared row by row: is one set of vectors better, or is it chance?

The rows that both have predicted are drawn again, both predictions of a row together (a paired Poisson bootstrap). The
interval of the difference is much narrower than the two intervals suggest, because most rows are easy or hard for both.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from workers.vectors.evaluation.classes.scoring import poisson_weights
from workers.vectors.evaluation.figures import ByClass, interval

REPLICATES = 500
SHOWN = 5  # classes and rows that are named
_AT_ONCE = 50  # replicates: weights of 200,000 rows are 40 MB


@dataclass(frozen=True, slots=True)
class Comparison:
    """Figures of both over the rows that both have; differences are this one's minus the other's."""

    rows: int
    macro_f1: float
    other_macro_f1: float
    accuracy: float
    other_accuracy: float
    macro_f1_interval: tuple[float, float]  # 95%, of the difference
    accuracy_interval: tuple[float, float]
    lost: tuple[tuple[str, float, float], ...]  # classes whose F1 fell most: name, this one's, the other's
    examples: tuple[tuple[str, str, str], ...]  # rows that only the other has right: id, given, predicted here

    @property
    def verdict(self) -> str:
        """`better`, `worse` or `undecided`, by macro-F1."""
        low, high = self.macro_f1_interval
        return "better" if low > 0 else "worse" if high < 0 else "undecided"


def compare(this: pa.Table, other: pa.Table) -> Comparison | None:
    """Args: tables of predictions: id, chunk where there is one, given, likely, key. None: they share no row."""
    row = ["id", *(["chunk"] if "chunk" in this.column_names and "chunk" in other.column_names else [])]
    theirs = other.select([*row, "given", "likely"]).rename_columns([*row, "their_given", "theirs"])
    both = this.select([*row, "given", "likely", "confidence", "key"]).join(theirs, row, join_type="inner")
    both = both.filter(pc.equal(both["given"], both["their_given"])).sort_by([(name, "ascending") for name in row])
    if not both.num_rows:
        return None
    names = {name for column in ("given", "likely", "theirs") for name in pc.unique(both[column]).to_pylist()}
    known = pa.array(sorted(names))
    given, mine, their = (_codes(both[column], known) for column in ("given", "likely", "theirs"))
    keys = both["key"].to_numpy().astype(np.uint64)
    whole = np.ones((len(keys), 1), np.float32)
    (f1, accuracy), (other_f1, other_accuracy) = (_scores(given, said, whole, len(known)) for said in (mine, their))
    drawn = []
    for first in range(0, REPLICATES, _AT_ONCE):
        weights = poisson_weights(keys, range(first, first + _AT_ONCE))
        ours, others = (_scores(given, said, weights, len(known)) for said in (mine, their))
        drawn.append(np.stack([ours[0] - others[0], ours[1] - others[1]]))
    differences = np.concatenate(drawn, axis=1)
    return Comparison(
        len(keys), float(f1[0]), float(other_f1[0]), float(accuracy[0]), float(other_accuracy[0]),
        interval(differences[0]), interval(differences[1]), _lost(given, mine, their, known), _examples(both),
    )  # fmt: skip


def _lost(
    given: NDArray[np.int64], mine: NDArray[np.int64], their: NDArray[np.int64], known: pa.Array
) -> tuple[tuple[str, float, float], ...]:
    here, there = (
        ByClass.of(*(np.bincount(each, minlength=len(known)) for each in (given[given == said], said, given))).f1
        for said in (mine, their)
    )
    order = np.argsort(here - there, kind="stable")[:SHOWN]
    return tuple((known[at].as_py(), float(here[at]), float(there[at])) for at in order if here[at] < there[at])


def _examples(both: pa.Table) -> tuple[tuple[str, str, str], ...]:
    """Those that this one is surest of."""
    wrong = pc.and_(pc.not_equal(both["given"], both["likely"]), pc.equal(both["given"], both["theirs"]))
    sure = both.filter(wrong).sort_by([("confidence", "descending"), ("id", "ascending")]).slice(0, SHOWN)
    return tuple((row["id"], row["given"], row["likely"]) for row in sure.to_pylist())


def _codes(cells: pa.ChunkedArray, known: pa.Array) -> NDArray[np.int64]:
    return np.asarray(pc.index_in(cells, value_set=known).to_numpy(), np.int64)


def _scores(
    given: NDArray[np.int64], said: NDArray[np.int64], weights: NDArray[np.float32], classes: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Macro-F1 and accuracy [R] of each replicate."""
    counts = np.zeros((3, weights.shape[1], classes))
    right = given == said
    for replicate, drawn in enumerate(weights.T):
        counts[0, replicate] = np.bincount(given[right], drawn[right], classes)
        counts[1, replicate] = np.bincount(said, drawn, classes)
        counts[2, replicate] = np.bincount(given, drawn, classes)
    accuracy = counts[0].sum(axis=1) / np.maximum(counts[2].sum(axis=1), 1)
    return ByClass.of(*counts).macro_f1, accuracy
