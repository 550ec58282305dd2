"""L-BFGS that asks for values instead of calling for them, so that many problems share one pass over the data.

    search = minimise(start, ...)      a generator: yields a point, is sent (value, gradient), returns the best point
    lockstep(searches, evaluate)       runs several; every round evaluates the points of all that go on

Liu and Nocedal, "On the limited memory BFGS method for large scale optimization" (1989), two-loop recursion; the line search
is backtracking with the Armijo condition. In a convex problem it suffices: s'y > 0 holds for every step. scipy's routine
calls a function and returns when one problem is solved, so 15 problems would read the data 15 times as often.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]
Search = Generator[Vector, tuple[float, Vector], Vector]

MEMORY = 12  # pairs of steps and changes of the gradient
DECREASE = 1e-4  # of the value, as a share of what the slope promises (Armijo)
SHORTEST = 1e-8  # step; below it, rounding of the sums is all that is left


def minimise(start: Vector, *, evaluations: int, tolerance: float) -> Search:
    """Ends after so many evaluations, or when the largest component of the gradient is at most `tolerance`."""
    point = start
    value, gradient = yield point
    pairs: list[tuple[Vector, Vector, float]] = []
    left = evaluations - 1
    while left > 0 and np.abs(gradient).max() > tolerance:
        direction = -_inverse_hessian(gradient, pairs)
        slope = float(gradient @ direction)
        if slope >= 0:
            return point
        step = 1.0
        while True:
            candidate = point + step * direction
            found, there = yield candidate
            left -= 1
            if found <= value + DECREASE * step * slope:
                break
            step = _shorter(step, value, slope, found)
            if left <= 0 or step < SHORTEST:
                return point
        moved, changed = candidate - point, there - gradient
        curvature = float(moved @ changed)
        if curvature > 0:
            pairs = [*pairs[-(MEMORY - 1) :], (moved, changed, curvature)]
        point, value, gradient = candidate, found, there
    return point


def _inverse_hessian(gradient: Vector, pairs: Sequence[tuple[Vector, Vector, float]]) -> Vector:
    """The approximation times the gradient. Without pairs: the gradient, as the variables are scaled by their curvature."""
    result = gradient.copy()
    shares = []
    for moved, changed, curvature in reversed(pairs):
        share = float(moved @ result) / curvature
        result -= share * changed
        shares.append(share)
    if pairs:
        _, changed, curvature = pairs[-1]
        result *= curvature / float(changed @ changed)
    for (moved, changed, curvature), share in zip(pairs, reversed(shares), strict=True):
        result += (share - float(changed @ result) / curvature) * moved
    return result


def _shorter(step: float, value: float, slope: float, found: float) -> float:
    """The minimum of the parabola through both values and the slope, within a tenth and a half of the step."""
    bend = 2 * (found - value - step * slope)
    wanted = -slope * step * step / bend if np.isfinite(bend) and bend > 0 else 0.0
    return float(np.clip(wanted, 0.1 * step, 0.5 * step))


def lockstep(
    searches: Mapping[int, Search], evaluate: Callable[[Mapping[int, Vector]], Mapping[int, tuple[float, Vector]]]
) -> dict[int, Vector]:
    """The result of each search. `evaluate` is given the points of those that go on, once a round."""
    points = {name: next(search) for name, search in searches.items()}
    results: dict[int, Vector] = {}
    while points:
        answers = evaluate(points)
        for name in list(points):
            try:
                points[name] = searches[name].send(answers[name])
            except StopIteration as end:
                results[name] = end.value
                del points[name]
    return results
