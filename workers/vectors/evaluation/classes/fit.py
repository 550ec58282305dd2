"""Fitting probes: the driver's half. L-BFGS over passes, in variables that are scaled by their curvature.

    Geometry    mean and principal axes of the training vectors
    Problem     one probe to fit: its training rows, its C, the rows of each class
    fit         problems -> Weights; all problems that are not done ride in one pass

Multinomial regression on text embeddings is badly conditioned: L-BFGS on plain weights takes some 200 to 400 passes. Here
the weights are expressed along the principal axes of the vectors, each divided by the root of its estimated curvature:

    n * q_k * lambda_j + 1 / C        lambda_j: variance along axis j; q_k: sqrt(p_k (1 - p_k) / K), p_k: share of the class

The Hessian where all rows have the classes' shares is p_k (1 - p_k) lambda_j on its diagonal; where rows are told apart it
is smaller for frequent classes, hence the geometric mean with 1 / K. A rotation leaves the penalty |w|^2 what it is, and a
scaling of variables does not move an optimum: the result is scikit-learn's, after 30 to 50 passes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from workers.vectors.evaluation.classes.division import Division, Subset
from workers.vectors.evaluation.classes.lbfgs import Vector, lockstep, minimise
from workers.vectors.evaluation.classes.probe import ProbeGradient, Weights
from workers.vectors.step import Partial, Step

Array = NDArray[np.float64]
SMALL_VARIANCE = 1e-12  # of the largest: an axis along which the vectors do not differ


@dataclass(frozen=True)
class Geometry:
    """Of the training vectors. D components."""

    mean: Array  # [D]
    axes: Array  # [D, D] columns
    variances: Array  # [D]
    length2: float  # mean squared length: C is meant for vectors of length 1

    @classmethod
    def of(cls, moments: Partial) -> Geometry:
        """`sum`, `products` and `rows` of a Moments pass."""
        rows = float(moments["rows"][0])
        mean = moments["sum"] / rows
        products = moments["products"] / rows
        variances, axes = np.linalg.eigh(products - np.outer(mean, mean))
        # A fixed sign of each axis: LAPACK's may differ between processors, and a resumed driver must make equal steps.
        axes *= np.where(axes[np.abs(axes).argmax(axis=0), np.arange(len(axes))] < 0, -1.0, 1.0)
        return cls(
            mean, axes, np.maximum(variances, SMALL_VARIANCE * variances.max(initial=1e-300)), float(np.trace(products))
        )


@dataclass(frozen=True)
class Problem:
    """One probe. `counts` [K]: its training rows by class; `rows`: in all (more than their sum: rows without labels)."""

    subset: Subset
    c: float
    counts: NDArray[np.int64]
    rows: int


@dataclass(frozen=True)
class Fitted:
    """Probes and what became of them."""

    slopes: Array  # [P, D, K]
    intercepts: Array  # [P, K], -inf: the class is not known
    losses: Array  # [P] mean loss a row, penalty included
    passes: int

    def weights(self, *, several: bool) -> Weights:
        return Weights(self.slopes.astype(np.float32), self.intercepts.astype(np.float32), several)


class _Scaled:
    """A problem's variables: z -> slopes along the axes -> slopes; and gradients the other way."""

    def __init__(self, problem: Problem, geometry: Geometry, several: bool) -> None:
        self.known = problem.counts > 0
        classes = int(self.known.sum())
        share = problem.counts[self.known] / problem.rows
        spread = np.maximum(share * (1 - share), 1 / problem.rows)
        curvature = problem.rows * np.sqrt(spread * (0.25 if several else 1 / classes))
        # Two classes of one label: scikit-learn fits one vector u, here there are -u/2 and u/2, half of u's penalty.
        self.penalty = geometry.length2 / problem.c * (2.0 if classes == 2 and not several else 1.0)
        self.rows, self._geometry = problem.rows, geometry
        self._shape = (len(geometry.mean), classes)
        self._scale = 1 / np.sqrt(curvature[None, :] * geometry.variances[:, None] + self.penalty)
        self._shift = 1 / np.sqrt(curvature)
        likely = np.clip(share, 0.5 / problem.rows, 1 - 0.5 / problem.rows)
        self._start = np.log(likely / (1 - likely)) if several else np.log(likely)

    def first(self, slopes: Array | None, intercepts: Array | None) -> Vector:
        """The variables of these weights [D, K], [K], or of a probe that knows the classes' shares alone."""
        if slopes is None or intercepts is None:
            return np.concatenate([np.zeros(self._scale.size), self._start / self._shift])
        mine = slopes[:, self.known]
        centred = intercepts[self.known] + self._geometry.mean @ mine
        centred = np.where(np.isfinite(centred), centred, self._start)
        return np.concatenate([(self._geometry.axes.T @ mine / self._scale).ravel(), centred / self._shift])

    def weights(self, point: Vector) -> tuple[Array, Array, float]:
        """Slopes [D, K], intercepts [K] and the penalty."""
        along = point[: self._scale.size].reshape(self._shape) * self._scale
        mine = self._geometry.axes @ along
        slopes, intercepts = np.zeros((self._shape[0], len(self.known))), np.full(len(self.known), -np.inf)
        slopes[:, self.known] = mine
        intercepts[self.known] = point[self._scale.size :] * self._shift - self._geometry.mean @ mine
        return slopes, intercepts, 0.5 * self.penalty * float((along * along).sum())

    def gradient(self, point: Vector, slopes: Array, intercepts: Array) -> Vector:
        """Of the loss and the penalty by the variables."""
        there = intercepts[self.known]
        along = self._geometry.axes.T @ (slopes[:, self.known] - np.outer(self._geometry.mean, there))
        along += self.penalty * self._scale * point[: self._scale.size].reshape(self._shape)
        return np.concatenate([(along * self._scale).ravel(), there * self._shift])


def fit(
    problems: Sequence[Problem],
    geometry: Geometry,
    division: Division,
    columns: tuple[str, ...],
    run: Callable[[Step], Partial],
    *,
    several: bool,
    evaluations: int,
    tolerance: float,
    starts: Mapping[int, tuple[Array, Array]] | None = None,
) -> Fitted:
    """Args:
    run: carries out a pass.
    evaluations: passes at most.
    tolerance: a probe is done when no component of its scaled gradient is above this share of its rows.
    starts: slopes [D, K] and intercepts [K] to begin with, by the problem's number.
    """
    scaled = [_Scaled(problem, geometry, several) for problem in problems]
    classes = len(division.classes)
    losses, passes = np.zeros(len(problems)), 0

    def evaluate(points: Mapping[int, Vector]) -> dict[int, tuple[float, Vector]]:
        nonlocal passes
        passes += 1
        numbers = list(points)
        made = {number: scaled[number].weights(points[number]) for number in numbers}
        weights = Weights(
            np.stack([made[number][0] for number in numbers]).astype(np.float32),
            np.stack([made[number][1] for number in numbers]).astype(np.float32),
            several,
        )
        subsets = tuple(problems[number].subset for number in numbers)
        total = run(ProbeGradient(division, subsets, weights, columns))
        answers = {}
        for place, number in enumerate(numbers):
            value = float(total["loss"][place]) + made[number][2]
            gradient = scaled[number].gradient(points[number], total["slopes"][place], total["intercepts"][place])
            losses[number] = value / problems[number].rows
            answers[number] = (value, gradient)
        return answers

    begun = starts or {}
    searches = {
        number: minimise(
            one.first(*begun.get(number, (None, None))), evaluations=evaluations, tolerance=tolerance * one.rows
        )
        for number, one in enumerate(scaled)
    }
    found = lockstep(searches, evaluate)
    made = [scaled[number].weights(found[number]) for number in range(len(problems))]
    slopes = np.stack([one[0] for one in made]) if made else np.zeros((0, len(geometry.mean), classes))
    intercepts = np.stack([one[1] for one in made]) if made else np.zeros((0, classes))
    return Fitted(slopes, intercepts, losses, passes)
