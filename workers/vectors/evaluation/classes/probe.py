"""The probe's passes: moments of the training rows, and the gradient of many probes at once.

A probe is logistic regression with an L2 penalty: multinomial for one label a row; for several, binary for each class.

    Weights         of P probes: [P, D, K] and [P, K], in float32
    Moments         one pass: rows of each class by subset, mean and second moments of the vectors
    ProbeGradient   one pass: loss and gradient of every probe, each over its own training rows, without the penalty

A class that a subset lacks is left out of its probe: the probability is 0. Sums over rows of one block are float32 matrix
products, sums over blocks are float64. Axes: N rows, D components, K classes, S subsets, P probes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from workers.table.vectors import Floats
from workers.vectors.evaluation.classes.division import Division, Subset
from workers.vectors.shard_rows import ShardRows
from workers.vectors.step import Partial, Step


@dataclass(frozen=True)
class Weights:
    """Of P probes. A class that a probe does not know has the intercept -inf."""

    slopes: NDArray[np.float32]  # [P, D, K]
    intercepts: NDArray[np.float32]  # [P, K]
    several: bool  # labels a row: independent probabilities of the classes

    def logits(self, probe: int, vectors: Floats) -> Floats:
        """[N, K]"""
        return np.asarray(vectors @ self.slopes[probe] + self.intercepts[probe], np.float32)

    def one(self, probe: int) -> Weights:
        """Of one probe alone."""
        return Weights(self.slopes[probe : probe + 1], self.intercepts[probe : probe + 1], self.several)


def log_probabilities(logits: Floats, *, several: bool) -> Floats:
    """[N, K] natural logarithms, exact also where the probability underflows."""
    if several:
        return np.asarray(-np.logaddexp(np.float32(0), -logits), np.float32)
    highest = logits.max(axis=1, keepdims=True)
    sums = np.exp(logits - highest).sum(axis=1, keepdims=True)
    return np.asarray(logits - highest - np.log(sums), np.float32)


def log_odds(logits: Floats, *, several: bool) -> Floats:
    """[N, K] log(p / (1 - p)) of every class: p itself is 1 or 0 in float32 where the order of rows still differs."""
    if several or logits.shape[1] < 2:
        return logits
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    powers = np.exp(shifted)
    others = powers.sum(axis=1, keepdims=True) - powers
    best, rows = logits.argmax(axis=1), np.arange(len(logits))
    powers[rows, best] = 0  # the rest of the likeliest class is summed without it: a difference would cancel
    others[rows, best] = powers.sum(axis=1)
    with np.errstate(divide="ignore"):
        return np.asarray(shifted - np.log(others), np.float32)


@dataclass(frozen=True)
class Moments(Step):
    """Partial: `counts` [S, K] and `rows` [S] of training rows by subset; `tested` [2, K] and `tested_rows` [2] of test rows
    by division; of the first subset's vectors `sum` [D], `products` [D, D] and `rows` again.
    """

    division: Division
    subsets: tuple[Subset, ...]
    columns: tuple[str, ...]

    def of_shard(self, rows: ShardRows) -> Partial:
        used, classes = self.division.used(rows), len(self.division.classes)
        member = np.stack([subset.rows(used) for subset in self.subsets])
        first: NDArray[np.float64] | None = None
        counts, tested = np.zeros((len(self.subsets), classes)), np.zeros((2, classes))
        total = np.zeros(0)
        products = np.zeros((0, 0))
        for numbers, vectors in used.blocks(rows):
            truth = used.truth(numbers, classes)
            counts += member[:, numbers].astype(np.float32) @ truth
            tested += used.tested[:, numbers].astype(np.float32) @ truth
            mine = vectors[member[0, numbers]]
            if first is None:
                first, total = np.zeros(0), np.zeros(vectors.shape[1])
                products = np.zeros((vectors.shape[1], vectors.shape[1]))
            total += mine.sum(axis=0, dtype=np.float64)
            products += mine.T @ mine
        answer = {
            "counts": np.rint(counts).astype(np.int64),
            "tested": np.rint(tested).astype(np.int64),
            "rows": member.sum(axis=1),
            "tested_rows": used.tested.sum(axis=1),
        }
        return answer if first is None else answer | {"sum": total, "products": products}


@dataclass(frozen=True)
class ProbeGradient(Step):
    """Partial: `loss` [P] in nats, `slopes` [P, D, K] and `intercepts` [P, K]: sums over each probe's training rows."""

    division: Division
    subsets: tuple[Subset, ...]  # [P]
    weights: Weights
    columns: tuple[str, ...]

    def of_shard(self, rows: ShardRows) -> Partial:
        used, weights = self.division.used(rows), self.weights
        loss = np.zeros(len(self.subsets))
        slopes, intercepts = np.zeros(weights.slopes.shape), np.zeros(weights.intercepts.shape)
        members = [subset.rows(used) for subset in self.subsets]
        for numbers, vectors in used.blocks(rows):
            truth = used.truth(numbers, weights.slopes.shape[2])
            for probe, member in enumerate(members):
                mine = member[numbers]
                if not mine.any():
                    continue
                x, y = (vectors, truth) if mine.all() else (vectors[mine], truth[mine])
                logits = weights.logits(probe, x)
                value, rest = _loss_and_rest(logits, y, several=weights.several)
                loss[probe] += value
                slopes[probe] += x.T @ rest
                intercepts[probe] += rest.sum(axis=0, dtype=np.float64)
        return {"loss": loss, "slopes": slopes, "intercepts": intercepts}


def _loss_and_rest(logits: Floats, truth: Floats, *, several: bool) -> tuple[float, Floats]:
    """The sum of the rows' losses, and probabilities minus truth [N, K], which is the loss's derivative by the logits."""
    if several:
        known = np.isfinite(logits)
        with np.errstate(over="ignore", invalid="ignore"):
            losses = np.where(known, np.logaddexp(np.float32(0), logits) - truth * np.where(known, logits, 0), 0)
            rest = np.where(known, 1 / (1 + np.exp(-logits)) - truth, 0)
        return float(losses.sum(dtype=np.float64)), np.asarray(rest, np.float32)
    highest = logits.max(axis=1, keepdims=True)
    logits -= highest
    powers = np.exp(logits)
    sums = powers.sum(axis=1, keepdims=True)
    given = truth.argmax(axis=1)
    own = logits[np.arange(len(logits)), given]
    value = np.log(sums[:, 0]).sum(dtype=np.float64) - own.sum(dtype=np.float64)
    powers /= sums
    powers -= truth
    return float(value), powers
