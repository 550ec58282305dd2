"""Sparse vectors as two columns: `indices` (token ids, ascending) and `weights` of the components that are not zero.

    sparse_columns   weights, indices and borders of rows -> the two columns
    dense_rows       the two columns -> [N, D] float32, for few rows
    entries          the two columns -> weights, indices and entries of each row
    flaws            rows that no writer leaves, with the reason

D is the size of the model's vocabulary, the footer's reembed.dim. N rows, V entries (components that are not zero) of all
rows end to end. No torch, no I/O.
"""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from workers.config import VectorType
from workers.table.vectors import Floats, VectorFormat, as_float32, list_of, vectors_per_row

INDICES, WEIGHTS = "indices", "weights"
SPARSE_COLUMNS = (INDICES, WEIGHTS)
ENTRY_BYTES = 8  # an index and a weight
NO_ENTRY = "vector is all zeros"
Column: TypeAlias = pa.Array | pa.ChunkedArray


class Entries(NamedTuple):
    """The entries of N rows end to end."""

    weights: Floats  # [V]
    indices: NDArray[np.int32]  # [V]
    counts: NDArray[np.int64]  # [N] entries of each row


def sparse_format(dim: int) -> VectorFormat:
    """How the vectors of a snapshot of pooling=sparse are stored."""
    return VectorFormat(VectorType.FLOAT32, column=WEIGHTS, dim=dim, sparse=True)


def sparse_columns(
    weights_V: Floats, indices_V: NDArray[np.int32], counts_N: NDArray[np.int64]
) -> tuple[pa.ListArray, pa.ListArray]:
    """(`indices`, `weights`): the first counts_N[0] entries belong to row 0, and so on."""
    offsets = pa.array(np.concatenate([[0], np.cumsum(counts_N)]).astype(np.int32))
    columns = (pa.array(indices_V, pa.int32()), pa.array(np.ascontiguousarray(weights_V), pa.float32()))
    found = [pa.ListArray.from_arrays(offsets, flat, type=list_of(flat.type)) for flat in columns]
    return found[0], found[1]


def entries(indices: Column, weights: Column, dim: int) -> Entries:
    """The stored entries. Raises: ValueError: columns of other lengths, or an index that the vocabulary has not."""
    counts = vectors_per_row(weights)
    if not np.array_equal(counts, vectors_per_row(indices)):
        raise ValueError(f"{INDICES} and {WEIGHTS} are not of the same length")
    index_V = _flat_indices(indices)
    if len(index_V) and not 0 <= int(index_V.min()) <= int(index_V.max()) < dim:
        raise ValueError(f"an index beyond the vocabulary of {dim} tokens")
    return Entries(as_float32(weights, VectorType.FLOAT32)[:, 0], index_V, counts)


def dense_rows(indices: Column, weights: Column, dim: int) -> Floats:
    """[N, D] with zeros where nothing is stored. Raises: ValueError: as entries()."""
    found = entries(indices, weights, dim)
    return dense_of(found.weights, found.indices, found.counts, dim)


def dense_of(weights_V: Floats, indices_V: NDArray[np.int32], counts_N: NDArray[np.int64], dim: int) -> Floats:
    """[N, D] of entries end to end."""
    dense = np.zeros((len(counts_N), dim), np.float32)
    dense[np.repeat(np.arange(len(counts_N)), counts_N), indices_V] = weights_V
    return dense


def flaws(indices: Column, weights: Column, dim: int) -> dict[int, str]:
    """Row number -> reason, of rows that no writer leaves."""
    counts, other = vectors_per_row(weights), vectors_per_row(indices)
    found = {int(row): NO_ENTRY for row in np.flatnonzero(counts == 0)}
    for row in np.flatnonzero(counts != other):
        found[int(row)] = f"vector has {other[row]} {INDICES} and {counts[row]} {WEIGHTS}"
    weight_V, row_V = as_float32(weights, VectorType.FLOAT32)[:, 0], np.repeat(np.arange(len(counts)), counts)
    for row in np.unique(row_V[~np.isfinite(weight_V)]):
        found[int(row)] = "vector has NaN or Inf"
    for row in np.unique(row_V[weight_V <= 0]):
        found.setdefault(int(row), "vector has a weight that is not above zero")
    index_V, row_V = _flat_indices(indices), np.repeat(np.arange(len(other)), other)
    for row in np.unique(row_V[(index_V < 0) | (index_V >= dim)]):
        found.setdefault(int(row), f"vector has an index beyond the vocabulary of {dim} tokens")
    falls = (np.diff(index_V) <= 0) & (np.diff(row_V) == 0)
    for row in np.unique(row_V[1:][falls]):
        found.setdefault(int(row), f"vector has {INDICES} that do not ascend")
    return found


def _flat_indices(column: Column) -> NDArray[np.int32]:
    chunks = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
    flat = [chunk.flatten().to_numpy(zero_copy_only=False).astype(np.int32, copy=False) for chunk in chunks]
    return np.concatenate(flat) if flat else np.empty(0, np.int32)
