"""Which precisions are tried on which device, and their tolerances."""

from __future__ import annotations

import numpy as np
import pytest

from workers.config import Precision
from workers.engine.precision import TOLERANCES, candidates, difference, out_of_tolerance
from workers.errors import UsageError

F32, F16, BF16, INT8 = Precision.FLOAT32, Precision.FLOAT16, Precision.BFLOAT16, Precision.INT8


@pytest.mark.parametrize(
    ("cuda", "bfloat16_cpu", "expected"),
    [(True, True, (F16, BF16, F32)), (True, False, (F16, BF16, F32)), (False, True, (BF16, F32)), (False, False, (F32,))],
)
def test_auto_tries_the_fastest_first(cuda: bool, bfloat16_cpu: bool, expected: tuple[Precision, ...]) -> None:
    assert candidates(Precision.AUTO, cuda=cuda, bfloat16_cpu=bfloat16_cpu) == expected


@pytest.mark.parametrize("cuda", [True, False])
@pytest.mark.parametrize("wanted", [F32, F16, BF16])
def test_what_is_asked_for_has_no_substitute(wanted: Precision, cuda: bool) -> None:
    assert candidates(wanted, cuda=cuda, bfloat16_cpu=False) == (wanted,)


def test_int8_is_for_cpus() -> None:
    assert candidates(INT8, cuda=False, bfloat16_cpu=True) == (INT8,)
    with pytest.raises(UsageError, match=r"model\.precision=int8 .*cluster\.gpus_per_replica=0"):
        candidates(INT8, cuda=True, bfloat16_cpu=True)


@pytest.mark.parametrize("precision", [F32, F16, BF16, INT8])
def test_least_and_mean_both_count(precision: Precision) -> None:
    tolerance = TOLERANCES[precision]
    good = np.full(100, (1 + tolerance.mean) / 2)
    assert out_of_tolerance(precision, good) is None
    one_bad = good.copy()
    one_bad[7] = tolerance.least - 1e-6
    assert one_bad.mean() > tolerance.mean
    reason = out_of_tolerance(precision, one_bad)
    assert reason is not None
    assert f"golden texts in {precision.value} have cosines of {tolerance.least - 1e-6:.6f} and more" in reason
    just_enough = np.full(100, tolerance.least + 1e-9)
    assert (out_of_tolerance(precision, just_enough) is None) == (tolerance.least >= tolerance.mean)


def test_only_auto_has_no_tolerance() -> None:
    assert set(TOLERANCES) == set(Precision) - {Precision.AUTO}
    ordered = [TOLERANCES[precision].least for precision in (F32, F16, BF16, INT8)]
    assert ordered == sorted(ordered, reverse=True)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_vectors_that_are_not_finite(bad: float) -> None:
    cosines = np.ones(26)
    cosines[[3, 4]] = bad
    assert out_of_tolerance(F16, cosines) == "2 of 26 golden texts gave no finite vector in float16"


def test_differences_are_relative_and_what_is_not_finite_in_one_alone_is_infinitely_far() -> None:
    reference = np.array([[1, -4], [np.nan, np.nan]], np.float32)
    vectors = np.array([[1.5, -4], [np.nan, 7]], np.float32)
    assert difference(reference, reference) == 0.0
    assert difference(vectors, reference) == 0.125
    assert difference(np.full_like(reference, np.nan), reference) == np.inf
    assert difference(vectors[:1], reference) == np.inf
