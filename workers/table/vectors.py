"""Vectors between the encoder and Parquet: float32 rows in, the stored type out, and back again for search.

    VectorFormat   how a column is stored
    bad_rows       rows that must be quarantined, with the reason
    to_arrow       [N, D] float32 -> fixed_size_list<float32|float16|int8|uint8 not null>
    to_arrow_lists the same for `pooling: tokens`, one list of vectors a document
    as_float32     a stored column -> [N, D] float32; stored_cells and decode are its two halves
    cosines        row by row; cosines_to_stored the same where one side comes from a part

int8 is symmetric with ONE scale for the snapshot, q = clip(rint(x / scale), -127, 127), so vectors of different shards can
be compared. binary keeps the sign of each component, eight to a byte, most significant bit first (numpy.packbits).
Axes: N rows, D dimensions of the model, W stored width (D, or D/8 for binary). No torch, no I/O.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from workers.config import MAIN_VECTORS, VectorType
from workers.errors import UsageError

INT8_LEVELS = 127  # symmetric: -128 is never used, so that negating a vector negates its code
CALIBRATION_MARGIN = 1.05  # the corpus reaches a little further than the sample; costs 5% of resolution
FLOAT16_MAX = float(np.finfo(np.float16).max)
LIST_ELEMENT = "element"  # Parquet's name of it. Not nullable: ClickHouse has no distances of arrays of nullable numbers

_ELEMENT = {
    VectorType.FLOAT32: pa.float32(),
    VectorType.FLOAT16: pa.float16(),
    VectorType.INT8: pa.int8(),
    VectorType.BINARY: pa.uint8(),
}
Floats = npt.NDArray[np.float32]
"""Vectors, one a row: [N, D]."""


@dataclass(frozen=True, slots=True)
class VectorFormat:
    """How a column of a snapshot's vectors is stored, as the stamp says."""

    vector: VectorType
    int8_scale: float | None = None
    column: str = MAIN_VECTORS
    dim: int = 0  # components; 0: not said, for readers do not need it
    of: int | None = None  # these are the first `dim` of so many components of the model; None: all of them
    sparse: bool = False  # in two columns, `indices` and this one (workers/table/sparse.py)


def column_type(dim: int, vector_type: VectorType, *, nullable: bool = False) -> pa.DataType:
    """Arrow type of one stored vector of `dim` components; `nullable`: as version 0.1.0 declared them.

    Raises:
        UsageError: binary, and dim is no multiple of 8.
    """
    if vector_type == VectorType.BINARY and dim % 8:
        raise UsageError(
            f"output.vector: binary packs 8 components into a byte and the vectors have {dim}; "
            "choose a truncate_dim that is a multiple of 8, or vector: int8"
        )
    width = dim // 8 if vector_type == VectorType.BINARY else dim
    return list_of(_ELEMENT[vector_type], width, nullable=nullable)


def list_of(element: pa.DataType, size: int = -1, *, nullable: bool = False) -> pa.DataType:
    """A list type whose elements are never null; `nullable`: it does not say so."""
    return pa.list_(element if nullable else pa.field(LIST_ELEMENT, element, nullable=False), size)


def bad_rows(vectors_ND: Floats, vector_type: VectorType = VectorType.FLOAT32) -> dict[int, str]:
    """Row number -> reason, for rows that must not be written: NaN or Inf, all zeros, too large for float16."""
    finite = np.isfinite(vectors_ND).all(axis=1)
    largest = np.abs(vectors_ND).max(axis=1, initial=0.0)
    reasons = {int(row): "vector has NaN or Inf" for row in np.flatnonzero(~finite)}
    reasons |= {int(row): "vector is all zeros" for row in np.flatnonzero(finite & (largest == 0))}
    if vector_type == VectorType.FLOAT16:
        for row in np.flatnonzero(finite & (largest > FLOAT16_MAX)):
            reasons[int(row)] = f"vector has a component of {largest[row]:.3g}, beyond float16; use output.vector: float32"
    return reasons


def calibrate_scale(sample_ND: Floats) -> float:
    """The int8 step for a whole snapshot: largest finite |component| of the sample, plus 5%, over 127.

    Raises:
        UsageError: nothing to calibrate on.
    """
    usable = sample_ND[np.isfinite(sample_ND).all(axis=1)]
    largest = float(np.abs(usable).max(initial=0.0))
    if largest == 0.0:
        raise UsageError(
            "output.vector: int8 needs a sample of finite, non-zero vectors to calibrate its scale, and found none"
        )
    return largest * CALIBRATION_MARGIN / INT8_LEVELS


def to_arrow(vectors_ND: Floats, vector_type: VectorType, scale: float | None = None) -> tuple[pa.FixedSizeListArray, int]:
    """Rows as the stored column, and how many components int8 had to clip.

    Raises:
        UsageError: int8 without a scale, float16 overflow, binary with a dimension that is no multiple of 8.
    """
    stored = column_type(vectors_ND.shape[1], vector_type)
    cells, clipped = _cells(vectors_ND, vector_type, scale)
    return pa.FixedSizeListArray.from_arrays(pa.array(cells.reshape(-1)), type=stored), clipped


def to_arrow_lists(
    vectors_ND: Floats, counts: npt.NDArray[np.int64], vector_type: VectorType, scale: float | None = None
) -> tuple[pa.ListArray, int]:
    """One list of vectors per document: the first counts[0] rows belong to document 0, and so on.

    Raises:
        UsageError: as to_arrow.
    """
    flat, clipped = to_arrow(vectors_ND, vector_type, scale)
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    if int(offsets[-1]) != len(flat):
        raise ValueError(f"{len(flat)} vectors for documents of {int(offsets[-1])} tokens")
    return pa.ListArray.from_arrays(pa.array(offsets), flat, type=list_of(flat.type)), clipped


def as_float32(column: pa.ChunkedArray | pa.Array, vector_type: VectorType, scale: float | None = None) -> Floats:
    """A stored column as [N, D] float32: int8 times the scale, binary as -1 and +1. Lists of vectors come out end to end.

    Raises:
        UsageError: int8 without its scale (the footer's reembed.int8_scale).
    """
    cells_NW = stored_cells(column, vector_type)
    return decode(cells_NW, vector_type, scale)


def stored_cells(column: pa.ChunkedArray | pa.Array, vector_type: VectorType) -> npt.NDArray[Any]:
    """A stored column's components [N, W], as they are stored; lists of vectors end to end, lists of numbers as [V, 1]."""
    chunks = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
    if pa.types.is_list(column.type) and not pa.types.is_fixed_size_list(column.type.value_type):
        flat = [_numbers(chunk.flatten(), _ELEMENT[vector_type]).reshape(-1, 1) for chunk in chunks]
        return np.concatenate(flat) if flat else np.empty((0, 1), _ELEMENT[vector_type].to_pandas_dtype())
    if pa.types.is_list(column.type):
        chunks = [chunk.flatten() for chunk in chunks]
        width = column.type.value_type.list_size
    else:
        width = column.type.list_size
    parts = [_numbers(chunk.flatten(), _ELEMENT[vector_type]).reshape(-1, width) for chunk in chunks]
    return np.concatenate(parts) if parts else np.empty((0, width), _ELEMENT[vector_type].to_pandas_dtype())


def _numbers(flat: pa.Array, element: pa.DataType) -> npt.NDArray[Any]:
    """The values of an array, not copied where there are no nulls. Array.to_numpy imports pandas, which takes 0.3 s."""
    if flat.null_count or flat.type != element:
        values: npt.NDArray[Any] = flat.to_numpy(zero_copy_only=False)
        return values
    dtype = np.dtype(element.to_pandas_dtype())
    buffer = flat.buffers()[1]
    if not len(flat) or buffer is None:
        return np.empty(0, dtype)
    return np.frombuffer(buffer, dtype, len(flat), flat.offset * dtype.itemsize)


def decode(cells_NW: npt.NDArray[Any], vector_type: VectorType, scale: float | None = None) -> Floats:
    """Stored components as [N, D] float32; float32 ones are not copied. Raises: as as_float32."""
    if vector_type == VectorType.BINARY:
        bits_ND = np.unpackbits(cells_NW, axis=1)
        return bits_ND.astype(np.float32) * 2 - 1
    if vector_type == VectorType.INT8:
        return cells_NW.astype(np.float32) * np.float32(_known(scale))
    return cells_NW.astype(np.float32, copy=False)


def clipped_components(vectors_ND: Floats, scale: float | None) -> npt.NDArray[np.int64]:
    """[N] components of each row that int8 clips.

    Raises:
        UsageError: no scale.
    """
    clipped: npt.NDArray[np.int64] = (np.abs(np.rint(vectors_ND / np.float32(_known(scale)))) > INT8_LEVELS).sum(axis=1)
    return clipped


def cosines(one_ND: Floats, other_ND: Floats) -> npt.NDArray[np.float64]:
    """[N] cosine of each row to its counterpart; NaN where either is not finite or all zeros."""
    one, other = one_ND.astype(np.float64), other_ND.astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        norms = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
        scores: npt.NDArray[np.float64] = (one * other).sum(axis=1) / norms
    return scores


def cosines_to_stored(stored_ND: Floats, fresh_ND: Floats, vector_type: VectorType) -> npt.NDArray[np.float64]:
    """[N] cosine of each stored row (by as_float32) to the fresh one; for binary of the signs; -1 where there is none."""
    if vector_type == VectorType.BINARY:
        fresh_ND = np.where(fresh_ND > 0, np.float32(1), np.float32(-1))
    return np.nan_to_num(cosines(stored_ND, fresh_ND), nan=-1.0)


def unit_rows(vectors_ND: Floats) -> Floats:
    """Each row divided by its length; zeros stay zeros."""
    lengths = np.linalg.norm(vectors_ND, axis=1, keepdims=True)
    unit: Floats = vectors_ND / np.maximum(lengths, np.finfo(np.float32).tiny)
    return unit


def _cells(vectors_ND: Floats, vector_type: VectorType, scale: float | None) -> tuple[npt.NDArray[Any], int]:
    if vector_type == VectorType.BINARY:
        return np.packbits(vectors_ND > 0, axis=1), 0
    if vector_type == VectorType.INT8:
        steps = np.rint(vectors_ND / np.float32(_known(scale)))
        clipped = int((np.abs(steps) > INT8_LEVELS).sum())
        return np.clip(steps, -INT8_LEVELS, INT8_LEVELS).astype(np.int8), clipped
    if vector_type == VectorType.FLOAT16:
        if np.abs(vectors_ND).max(initial=0.0) > FLOAT16_MAX:
            raise UsageError(
                f"output.vector: a component is beyond float16 ({FLOAT16_MAX:g}); use float32, or normalize: true"
            )
        return vectors_ND.astype(np.float16), 0
    return np.ascontiguousarray(vectors_ND, dtype=np.float32), 0


def _known(scale: float | None) -> float:
    if scale is None or not scale > 0:
        raise UsageError(f"int8 vectors need a positive scale, not {scale}; it is the footer's reembed.int8_scale")
    return scale


def vectors_per_row(embedding: pa.Array | pa.ChunkedArray) -> npt.NDArray[np.int64]:
    """Vectors of each row [N]: 1, or for a column of lists their lengths."""
    if not pa.types.is_list(embedding.type):
        return np.ones(len(embedding), dtype=np.int64)
    lengths: npt.NDArray[np.int64] = pc.list_value_length(embedding).to_numpy().astype(np.int64)
    return lengths
