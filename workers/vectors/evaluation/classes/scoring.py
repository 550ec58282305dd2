"""What the probes say of rows that they have not seen: counts by class, histograms, bootstrap, predictions, label issues.

    FoldCounts     one pass, to choose C: hits and predictions of each candidate on the folds left out
    LogOddsSample  one pass: log-odds of some test rows, for the edges of histograms
    Scores         one pass: everything else

Axes: N rows, K classes, P probes, B bins, R replicates of the bootstrap.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from workers.table.schema import CHUNK, ID
from workers.table.vectors import Floats
from workers.vectors.evaluation.classes.division import BOOTSTRAP, DRAWN, MAIN, Division, Subset, UsedRows, hashed, uniform
from workers.vectors.evaluation.classes.gathered import SumsAndRows, text_column
from workers.vectors.evaluation.classes.probe import Weights, log_odds, log_probabilities
from workers.vectors.shard_rows import ShardRows
from workers.vectors.step import Combiner, Concatenation, Partial, Step

REPLICATES = 100
RELIABILITY_BINS = 15  # of the confidence, equally wide: as in Guo et al., "On calibration of modern neural networks" (2017)
ISSUES = 100_000  # rows of the ranking
_POISSON = np.cumsum(np.exp(-1.0) / np.cumprod([1.0, *range(1, 18)]))  # distribution function of Poisson(1)


def poisson_weights(keys: NDArray[np.uint64], replicates: range = range(REPLICATES)) -> NDArray[np.float32]:
    """[N, R] how often each row stands in each replicate: Poisson(1), from the row's key. Equal keys, equal weights.

    Hanley and MacGibbon, "Creating non-parametric bootstrap samples using Poisson frequencies" (2006).
    """
    salts = hashed(np.array(replicates, dtype=np.uint64), BOOTSTRAP)
    return np.searchsorted(_POISSON, uniform(keys[:, None] ^ salts[None, :], BOOTSTRAP), side="right").astype(np.float32)


def predictions(logits: Floats, *, several: bool) -> NDArray[np.bool_]:
    """[N, K] whether the class is predicted: the likeliest one, or all that are likelier than not."""
    if several:
        return logits > 0
    chosen = np.zeros(logits.shape, bool)
    chosen[np.arange(len(logits)), logits.argmax(axis=1)] = True
    return chosen


@dataclass(frozen=True)
class FoldCounts(Step):
    """Partial: `hits`, `predicted`, `actual` [C, K], over the training rows, each scored by the probe without its fold."""

    division: Division
    weights: Weights  # of C candidates x F folds, folds within candidates
    columns: tuple[str, ...]

    def of_shard(self, rows: ShardRows) -> Partial:
        used, folds = self.division.used(rows), self.division.folds
        candidates = len(self.weights.slopes) // folds
        counts = np.zeros((3, candidates, len(self.division.classes)), np.int64)
        for numbers, vectors in used.blocks(rows):
            for fold in range(folds):
                mine = (used.folds[numbers] == fold) & ~used.tested[MAIN, numbers]
                truth = used.truth(numbers[mine], counts.shape[2]) > 0
                for candidate in range(candidates):
                    logits = self.weights.logits(candidate * folds + fold, vectors[mine])
                    counts[:, candidate] += _counts(predictions(logits, several=self.weights.several), truth)
        return {"hits": counts[0], "predicted": counts[1], "actual": counts[2]}


def _counts(said: NDArray[np.bool_], truth: NDArray[np.bool_]) -> NDArray[np.int64]:
    """[3, K] hits, predicted, actual."""
    return np.stack([(said & truth).sum(axis=0), said.sum(axis=0), truth.sum(axis=0)])


@dataclass(frozen=True)
class LogOddsSample(Step):
    """Partial: `odds` [N, K] float32 and `truth` [N, K] uint8 of test rows that are drawn by their keys."""

    division: Division
    weights: Weights
    shares: NDArray[np.float64]  # [K] of the test rows of each class that are drawn
    columns: tuple[str, ...]

    def of_shard(self, rows: ShardRows) -> Partial:
        used, classes = self.division.used(rows), len(self.shares)
        odds, truths = [np.zeros((0, classes), np.float32)], [np.zeros((0, classes), np.uint8)]
        for numbers, vectors in used.blocks(rows):
            truth = used.truth(numbers, classes)
            chance = (truth * self.shares).max(axis=1)
            chance = np.maximum(chance, self.shares[self.shares > 0].min(initial=1.0))
            mine = used.tested[MAIN, numbers] & (uniform(used.keys[numbers], DRAWN) < chance)
            odds.append(log_odds(self.weights.logits(0, vectors[mine]), several=self.weights.several))
            truths.append(truth[mine].astype(np.uint8))
        return {"odds": np.concatenate(odds), "truth": np.concatenate(truths)}

    def combiner(self) -> Combiner:
        return Concatenation()


@dataclass(frozen=True)
class Scores(Step):
    """Partial, of P probes on the test rows of their divisions: `hits`, `predicted`, `actual` [P, K], `correct`, `rows` [P].

    Of the first alone: `confusion` [K, K] (given, predicted), `loss`, `reliability` [3, bins] (rows, confidence, correct),
    `positives` and `negatives` [K, B + 1], `bootstrap` [3, R, K] as the counts, `bootstrap_correct` [2, R] (correct, rows);
    tables `predictions` and `issues`.
    """

    division: Division
    subsets: tuple[Subset, ...]  # [P]: only their divisions matter here
    weights: Weights
    edges: NDArray[np.float32]  # [K, B] ascending
    fold_weights: Weights  # [F], for the ranking of label issues
    known: NDArray[np.bool_]  # [K] test rows of other classes are left out
    shown: float  # share of the test rows that the table of predictions holds
    columns: tuple[str, ...]

    def of_shard(self, rows: ShardRows) -> Partial:
        used, classes, several = self.division.used(rows), len(self.division.classes), self.weights.several
        probes = len(self.subsets)
        counts = np.zeros((3, probes, classes), np.int64)
        totals = np.zeros((2, probes), np.int64)
        sums = _FirstProbe(classes, self.edges, several)
        told, issues = _Rows(), _Rows()
        for numbers, vectors in used.blocks(rows):
            truth = used.truth(numbers, classes) > 0
            counted = truth[:, self.known].any(axis=1) | (several & ~truth.any(axis=1))
            for probe, subset in enumerate(self.subsets):
                mine = used.tested[subset.split, numbers] & counted
                logits = self.weights.logits(probe, vectors[mine])
                said = predictions(logits, several=several)
                counts[:, probe] += _counts(said, truth[mine])
                totals[:, probe] += (said == truth[mine]).all(axis=1).sum(), mine.sum()
                if probe == 0:
                    sums.add(logits, said, truth[mine], used.keys[numbers[mine]])
                    if not several:
                        told.add(numbers[mine], logits, used)
                        issues.add(numbers[mine], logits, used)
            if not several:
                for fold in range(self.division.folds):
                    mine = (used.folds[numbers] == fold) & ~used.tested[MAIN, numbers] & counted
                    issues.add(numbers[mine], self.fold_weights.logits(fold, vectors[mine]), used)
        answer = {"hits": counts[0], "predicted": counts[1], "actual": counts[2], "correct": totals[0], "rows": totals[1]}
        answer |= sums.partial()
        if several:
            return answer
        shown = told.where(uniform(told.keys, DRAWN) < self.shown) if self.shown < 1 else told.all()
        worst = np.sort(np.argsort(issues.own, kind="stable")[:ISSUES])
        answer |= told.columns("predictions", shown, rows, used, self.division.classes)
        return answer | issues.columns("issues", worst, rows, used, self.division.classes)

    def combiner(self) -> Combiner:
        return SumsAndRows(None if self.weights.several else ("issues", "score", ISSUES))


class _FirstProbe:
    """Sums of the first probe."""

    def __init__(self, classes: int, edges: NDArray[np.float32], several: bool) -> None:
        self._several, self._edges = several, edges
        self._confusion = np.zeros((classes, classes), np.int64)
        self._loss = 0.0
        self._reliability = np.zeros((3, RELIABILITY_BINS))
        self._bins = np.zeros((2, classes, edges.shape[1] + 1), np.int64)
        self._bootstrap = np.zeros((3, REPLICATES, classes))
        self._correct = np.zeros((2, REPLICATES))

    def add(self, logits: Floats, said: NDArray[np.bool_], truth: NDArray[np.bool_], keys: NDArray[np.uint64]) -> None:
        """Rows of a block."""
        if not len(logits):
            return
        classes, several = truth.shape[1], self._several
        if several:
            with np.errstate(invalid="ignore"):
                losses = np.logaddexp(np.float32(0), np.where(truth, -logits, logits))
            self._loss += float(losses[np.isfinite(losses)].sum(dtype=np.float64))
            chance, right = np.exp(log_probabilities(logits, several=True)).ravel(), truth.ravel()
        else:
            logs = log_probabilities(logits, several=False)
            given, chosen = truth.argmax(axis=1), logits.argmax(axis=1)
            self._loss -= float(logs[np.arange(len(logs)), given].sum(dtype=np.float64))
            np.add.at(self._confusion, (given, chosen), 1)
            chance, right = np.exp(logs[np.arange(len(logs)), chosen]), given == chosen
        bins = np.clip(np.ceil(chance * RELIABILITY_BINS).astype(int) - 1, 0, RELIABILITY_BINS - 1)
        for row, weights in enumerate((None, chance, right)):
            self._reliability[row] += np.bincount(bins, weights, RELIABILITY_BINS)
        odds = log_odds(logits, several=several)
        for label in range(classes):
            places = np.searchsorted(self._edges[label], odds[:, label], side="left")
            size = self._bins.shape[2]
            self._bins[0, label] += np.bincount(places[truth[:, label]], minlength=size)
            self._bins[1, label] += np.bincount(places[~truth[:, label]], minlength=size)
        drawn = poisson_weights(keys)
        for row, what in enumerate((said & truth, said, truth)):
            self._bootstrap[row] += drawn.T @ what.astype(np.float32)
        correct = (said == truth).all(axis=1)
        self._correct[0] += drawn[correct].sum(axis=0)
        self._correct[1] += drawn.sum(axis=0)

    def partial(self) -> Partial:
        return {
            "confusion": self._confusion,
            "loss": np.array(self._loss),
            "reliability": self._reliability,
            "positives": self._bins[0],
            "negatives": self._bins[1],
            "bootstrap": self._bootstrap,
            "bootstrap_correct": self._correct,
        }


class _Rows:
    """Rows with one label each: what was given, what is likeliest, and the log-odds of both."""

    def __init__(self) -> None:
        self._numbers: list[NDArray[np.int64]] = []
        self._likely: list[NDArray[np.int64]] = []
        self._own: list[NDArray[np.float32]] = []
        self._best: list[NDArray[np.float32]] = []
        self._keys: list[NDArray[np.uint64]] = []

    def add(self, numbers: NDArray[np.int64], logits: Floats, used: UsedRows) -> None:
        odds = log_odds(logits, several=False)
        at, given, likely = np.arange(len(odds)), used.codes[numbers], logits.argmax(axis=1)
        known = np.isfinite(logits[at, given])  # a fold may hold all rows of a class: its probe cannot judge them
        numbers, odds, given, likely, at = numbers[known], odds[known], given[known], likely[known], at[: known.sum()]
        self._numbers.append(numbers)
        self._likely.append(likely)
        self._own.append(odds[at, given])
        self._best.append(odds[at, likely])
        self._keys.append(used.keys[numbers])

    @property
    def keys(self) -> NDArray[np.uint64]:
        return np.concatenate([np.zeros(0, np.uint64), *self._keys])

    @property
    def own(self) -> NDArray[np.float32]:
        return np.concatenate([np.zeros(0, np.float32), *self._own])

    def all(self) -> NDArray[np.int64]:
        return np.arange(sum(map(len, self._numbers)))

    @staticmethod
    def where(chosen: NDArray[np.bool_]) -> NDArray[np.int64]:
        return np.flatnonzero(chosen)

    def columns(
        self, table: str, chosen: NDArray[np.int64], rows: ShardRows, used: UsedRows, classes: tuple[str, ...]
    ) -> Partial:
        """The chosen rows as columns of a table: id, chunk where there is one, given, likely, score, confidence, key."""
        numbers = np.concatenate([np.zeros(0, np.int64), *self._numbers])[chosen]
        likely = np.concatenate([np.zeros(0, np.int64), *self._likely])[chosen]
        best = np.concatenate([np.zeros(0, np.float32), *self._best])[chosen]
        places = pa.array(used.positions[numbers])
        names = pa.array(classes, pa.string())
        answer = text_column(f"{table}.id", _plain(rows.column(ID).take(places)))
        if CHUNK in rows.columns.column_names:
            answer[f"{table}.chunk"] = rows.column(CHUNK).take(places).to_numpy()
        answer |= text_column(f"{table}.given", names.take(pa.array(used.codes[numbers])))
        answer |= text_column(f"{table}.likely", names.take(pa.array(likely)))
        answer[f"{table}.score"] = self.own[chosen]
        answer[f"{table}.confidence"] = np.asarray(1 / (1 + np.exp(-best.astype(np.float64))), np.float32)
        answer[f"{table}.key"] = self.keys[chosen]
        return answer


def _plain(cells: pa.ChunkedArray) -> pa.Array:
    return pa.concat_arrays(cells.chunks) if cells.num_chunks else pa.array([], cells.type)
