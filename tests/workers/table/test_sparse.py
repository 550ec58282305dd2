"""The two columns of sparse vectors: there and back, and rows that no writer leaves."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from workers.table.sparse import dense_rows, entries, flaws, sparse_columns

DENSE = np.array([[0, 2, 0, 3], [0, 0, 0, 0], [5, 0, 0, 0]], np.float32)


def _lists(indices: list[list[int]], weights: list[list[float]]) -> tuple[pa.Array, pa.Array]:
    return pa.array(indices, pa.list_(pa.int32())), pa.array(weights, pa.list_(pa.float32()))


def test_there_and_back() -> None:
    columns = sparse_columns(np.array([2, 3, 5], np.float32), np.array([1, 3, 0], np.int32), np.array([2, 0, 1]))
    assert [column.to_pylist() for column in columns] == [[[1, 3], [], [0]], [[2, 3], [], [5]]]
    assert np.array_equal(dense_rows(*columns, 4), DENSE)
    assert np.array_equal(dense_rows(*(column.slice(2) for column in columns), 4), DENSE[2:]), "a slice is its own rows"
    chunked = [pa.chunked_array([column.slice(0, 1), column.slice(1)]) for column in columns]
    assert np.array_equal(dense_rows(*chunked, 4), DENSE)
    assert entries(*columns, 4).counts.tolist() == [2, 0, 1]


def test_columns_that_do_not_fit_each_other() -> None:
    with pytest.raises(ValueError, match="not of the same length"):
        entries(*_lists([[1]], [[1, 2]]), 4)
    with pytest.raises(ValueError, match="beyond the vocabulary of 4"):
        entries(*_lists([[4]], [[1]]), 4)


@pytest.mark.parametrize(
    ("indices", "weights", "reason"),
    [
        ([], [], "vector is all zeros"),
        ([1], [1, 2], "vector has 1 indices and 2 weights"),
        ([1], [float("nan")], "vector has NaN or Inf"),
        ([1, 2], [1, float("inf")], "vector has NaN or Inf"),
        ([1], [0], "vector has a weight that is not above zero"),
        ([4], [1], "vector has an index beyond the vocabulary of 4 tokens"),
        ([2, 1], [1, 1], "vector has indices that do not ascend"),
        ([2, 2], [1, 1], "vector has indices that do not ascend"),
    ],
)
def test_rows_that_no_writer_leaves(indices: list[int], weights: list[float], reason: str) -> None:
    columns = _lists([[3], indices, [0, 3]], [[1], weights, [2, 2]])
    assert flaws(*columns, 4) == {1: reason}
