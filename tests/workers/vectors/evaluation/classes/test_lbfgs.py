"""The minimum of a convex function, by several searches that go on together."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit

from workers.vectors.evaluation.classes.lbfgs import lockstep, minimise


def test_searches_in_lockstep_find_what_scipy_finds() -> None:
    draw = np.random.default_rng(0)
    matrices = [draw.standard_normal((60, 20)) * np.logspace(0, 1.5, 20) for _ in range(3)]

    def loss(number: int, x: np.ndarray) -> tuple[float, np.ndarray]:
        margins = matrices[number] @ x
        return float(np.logaddexp(0, margins).sum() + x @ x), matrices[number].T @ expit(margins) + 2 * x

    rounds: list[int] = []

    def evaluate(points: Mapping[int, np.ndarray]) -> dict[int, tuple[float, np.ndarray]]:
        rounds.append(len(points))
        return {number: loss(number, point) for number, point in points.items()}

    start = np.ones(20)
    searches = {number: minimise(start, evaluations=400, tolerance=10.0 ** -(number + 4)) for number in range(3)}
    found = lockstep(searches, evaluate)
    assert rounds[0] == 3
    assert rounds[-1] < 3, "those that are done drop out"
    for number in range(3):
        expected = minimize(lambda x, at=number: loss(at, x), start, jac=True, method="L-BFGS-B", tol=1e-14)
        assert loss(number, found[number])[0] <= expected.fun + 1e-6
        np.testing.assert_allclose(found[number], expected.x, atol=1e-3)


def test_it_stops_at_the_limit() -> None:
    calls = []

    def evaluate(points: Mapping[int, np.ndarray]) -> dict[int, tuple[float, np.ndarray]]:
        calls.append(1)
        return {0: (float((points[0] ** 4).sum()), 4 * points[0] ** 3)}

    lockstep({0: minimise(np.full(3, 50.0), evaluations=7, tolerance=0.0)}, evaluate)
    assert len(calls) == 7
