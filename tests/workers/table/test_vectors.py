"""Stored vector types: how close they come back, and what must never be written."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.workers.output_samples import list_of, unit_vectors
from workers.config import VectorType
from workers.errors import UsageError
from workers.table.vectors import as_float32, bad_rows, calibrate_scale, column_type, cosines, to_arrow, to_arrow_lists


def test_float32_comes_back_bit_for_bit_also_from_slices_and_chunks() -> None:
    vectors = unit_vectors(10, 24)
    column, clipped = to_arrow(vectors, VectorType.FLOAT32)
    assert (column.type, clipped) == (list_of(pa.float32(), 24), 0)
    chunked = pa.chunked_array([column.slice(2, 3), column.slice(7)])
    np.testing.assert_array_equal(as_float32(chunked, VectorType.FLOAT32), vectors[[2, 3, 4, 7, 8, 9]])
    assert as_float32(pa.chunked_array([], column.type), VectorType.FLOAT32).shape == (0, 24)


def test_float16_is_rounded_and_its_overflow_refused() -> None:
    vectors = unit_vectors(50)
    column, _ = to_arrow(vectors, VectorType.FLOAT16)
    assert column.type.value_type == pa.float16()
    np.testing.assert_allclose(as_float32(column, VectorType.FLOAT16), vectors, rtol=1e-3, atol=1e-6)
    vectors[3, 0] = 70_000
    assert bad_rows(vectors) == {}
    assert bad_rows(vectors, VectorType.FLOAT16) == {
        3: "vector has a component of 7e+04, beyond float16; use output.vector: float32"
    }
    with pytest.raises(UsageError, match="beyond float16"):
        to_arrow(vectors, VectorType.FLOAT16)


@given(st.integers(0, 2**32 - 1))
def test_int8_with_a_calibrated_scale_is_within_half_a_step(seed: int) -> None:
    vectors = unit_vectors(20, seed=seed)
    scale = calibrate_scale(vectors)
    column, clipped = to_arrow(vectors, VectorType.INT8, scale)
    assert clipped == 0
    assert np.abs(as_float32(column, VectorType.INT8, scale) - vectors).max() <= scale / 2 * (1 + 1e-4)


def test_int8_counts_what_it_clips_and_never_uses_minus_128() -> None:
    column, clipped = to_arrow(np.array([[1.27, 1.28, -1.28, -5.0]], dtype=np.float32), VectorType.INT8, 0.01)
    assert column.to_pylist() == [[127, 127, -127, -127]]
    assert clipped == 3


def test_calibration_leaves_margin_ignores_bad_rows_and_refuses_nothing() -> None:
    sample = np.array([[0.5, -2.0], [np.nan, 9.0], [np.inf, 0.0]], dtype=np.float32)
    assert calibrate_scale(sample) == pytest.approx(2.0 * 1.05 / 127)
    for useless in (np.zeros((2, 4), np.float32), np.empty((0, 4), np.float32), np.full((1, 4), np.nan, np.float32)):
        with pytest.raises(UsageError, match="int8 needs a sample"):
            calibrate_scale(useless)
    with pytest.raises(UsageError, match="int8_scale"):
        to_arrow(np.ones((1, 8), np.float32), VectorType.INT8)


def test_binary_keeps_signs_eight_to_a_byte() -> None:
    vectors = np.array([[1, -1, 0, 2, -3, 4, -5, 6]], dtype=np.float32)
    column, _ = to_arrow(vectors, VectorType.BINARY)
    assert column.type == list_of(pa.uint8(), 1)
    assert column.to_pylist() == [[0b10010101]]
    assert as_float32(column, VectorType.BINARY).tolist() == [[1, -1, -1, 1, -1, 1, -1, 1]]
    with pytest.raises(UsageError, match="multiple of 8"):
        column_type(12, VectorType.BINARY)


def test_bad_rows_are_named_with_the_reason() -> None:
    vectors = unit_vectors(6)
    vectors[1, 5], vectors[2, 0], vectors[4] = np.nan, -np.inf, 0
    assert bad_rows(vectors) == {1: "vector has NaN or Inf", 2: "vector has NaN or Inf", 4: "vector is all zeros"}
    assert bad_rows(np.empty((0, 8), np.float32)) == {}
    assert bad_rows(np.full((1, 8), 1e-38, np.float32)) == {}  # its norm underflows, it is not zero


def test_lists_of_vectors_hold_each_documents_own() -> None:
    vectors = unit_vectors(6)
    column, _ = to_arrow_lists(vectors, np.array([2, 0, 4]), VectorType.FLOAT32)
    assert column.type == list_of(list_of(pa.float32(), 16))
    assert [len(cell) for cell in column.to_pylist()] == [2, 0, 4]
    np.testing.assert_array_equal(as_float32(column.slice(2), VectorType.FLOAT32), vectors[2:])
    with pytest.raises(ValueError, match="6 vectors"):
        to_arrow_lists(vectors, np.array([2, 2]), VectorType.FLOAT32)


def test_cosines_of_rows() -> None:
    a = np.array([[3, 4], [1, 0], [1, 0], [1, 1]], np.float32)
    b = np.array([[6, 8], [0, 2], [-5, 0], [1, 0]], np.float32)
    np.testing.assert_allclose(cosines(a, b), [1, 0, -1, 0.5**0.5], atol=1e-15)


def test_cosines_of_large_and_small_numbers_are_exact() -> None:
    a = np.array([[3e38, 3e38], [1e-38, 1e-38]], np.float32)
    np.testing.assert_allclose(cosines(a, a), 1, atol=1e-12)


@pytest.mark.parametrize("bad", [np.nan, np.inf, 0.0])
def test_a_row_without_direction_is_nan(bad: float) -> None:
    good = np.ones((3, 4), np.float32)
    other = good.copy()
    other[1] = bad
    for found in (cosines(good, other), cosines(other, good), cosines(other, other)):
        assert np.isnan(found).tolist() == [False, True, False]
