"""Digests of rows of 128 bits, by which rows of two snapshots are compared without keeping their cells.

    key_digests      (id, chunk) of each row
    row_digests      any columns, nested ones too: equal for equal cells, names and types of the columns
    vector_digests   the stored bytes of each row's vectors

A cell becomes 17 bytes: whether it is there, and its bytes (up to 16) or their BLAKE2b-128. A list is the digest of its
elements' 17 bytes one after another, a struct that of its fields'. Cells are compared as they are stored: 0.0 and -0.0
differ, NaN equals itself. Pure.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from workers.records.digests import HASH_BYTES, hash_texts

Words = NDArray[np.uint64]
_Bytes = NDArray[np.uint8]
CELL_BYTES = HASH_BYTES + 1
NO_CHUNK = -1  # of a row that is a whole document


def key_digests(ids: pa.Array, chunks: pa.Array | None) -> Words:
    """[N, 2] of the rows' ids (strings or integers, without nulls) and chunks (int32; None: rows are whole documents)."""
    of_ids = _hashed(ids.cast(pa.string()).cast(pa.large_string()))
    numbers = np.full(len(ids), NO_CHUNK, np.int32) if chunks is None else chunks.to_numpy().astype(np.int32)
    return _words(_hashed_rows(np.concatenate([of_ids, numbers.view(np.uint8).reshape(-1, 4)], axis=1)))


def row_digests(rows: int, columns: Mapping[str, pa.Array]) -> Words:
    """[N, 2] of the cells of these columns, whatever their order."""
    cells = [np.tile(_name_digest(name, column.type), (rows, 1)) for name, column in sorted(columns.items())]
    cells += [_cells(column) for _, column in sorted(columns.items())]
    return _words(_hashed_rows(np.concatenate(cells, axis=1) if cells else np.zeros((rows, 1), np.uint8)))


def vector_digests(embedding: pa.Array) -> Words:
    """[N, 2] of the stored vectors: one a row, or a list of them."""
    if not len(embedding):
        return np.empty((0, 2), np.uint64)
    if pa.types.is_list(embedding.type):
        width = embedding.type.value_type.list_size
        raw = _fixed_bytes(embedding.values.flatten())
        return _words(_hashed_runs(raw, embedding.offsets.to_numpy().astype(np.int64) * width))
    return _words(_hashed_rows(_fixed_bytes(embedding.flatten()).reshape(len(embedding), -1)))


def _name_digest(name: str, kind: pa.DataType) -> _Bytes:
    """Of a column's name and type. Whether elements of a list may be null is no part of it: version 0.1.0 said so of all."""
    told = f"{name}\0{str(kind).replace(' not null', '')}".encode("utf-8", "surrogatepass")
    return np.frombuffer(hashlib.blake2b(told, digest_size=HASH_BYTES).digest(), np.uint8)


def _cells(column: pa.Array) -> _Bytes:
    """[N, CELL_BYTES] a cell each: 1 and its content, or zeros for null."""
    found = np.zeros((len(column), CELL_BYTES), np.uint8)
    if pa.types.is_null(column.type) or not len(column):
        return found
    content = _content(column)
    found[:, 1 : 1 + content.shape[1]] = content
    found[:, 0] = 1
    if column.null_count:
        found[column.is_null().to_numpy(zero_copy_only=False)] = 0
    return found


def _content(column: pa.Array) -> _Bytes:
    """[N, up to 16] the bytes of each cell, or their digest. Of null cells anything."""
    kind = column.type
    if isinstance(column, pa.ExtensionArray):
        return _content(column.storage)
    if pa.types.is_dictionary(kind):
        return _cells(column.dictionary_decode())[:, 1:]
    if pa.types.is_struct(kind):
        fields = [_cells(column.field(place)) for place in range(kind.num_fields)]
        return _hashed_rows(np.concatenate([np.ones((len(column), 1), np.uint8), *fields], axis=1))
    if pa.types.is_fixed_size_list(kind):
        elements = column.values.slice(column.offset * kind.list_size, len(column) * kind.list_size)
        return _hashed_rows(_cells(elements).reshape(len(column), -1))
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_map(kind):
        return _hashed_lists(column)
    if pa.types.is_boolean(kind):
        return _fixed_bytes(column.cast(pa.uint8()))
    if _is_binary(kind):
        return _hashed(column.cast(pa.large_string() if "string" in str(kind) else pa.large_binary()))
    content = _fixed_bytes(column)
    return content if content.shape[1] <= HASH_BYTES else _hashed_rows(content)


def _hashed_lists(column: pa.Array) -> _Bytes:
    offsets = column.offsets.to_numpy().astype(np.int64)
    first, last = int(offsets[0]), int(offsets[-1])
    if pa.types.is_map(column.type):
        keys, items = column.keys.slice(first, last - first), column.items.slice(first, last - first)
        elements = np.concatenate([_cells(keys), _cells(items)], axis=1)
    else:
        elements = _cells(column.values.slice(first, last - first))
    return _hashed_runs(elements, offsets - first)


def _is_binary(kind: pa.DataType) -> bool:
    return any(
        test(kind)
        for test in (
            pa.types.is_string, pa.types.is_large_string, pa.types.is_binary, pa.types.is_large_binary,
            pa.types.is_string_view, pa.types.is_binary_view,
        )
    )  # fmt: skip


def _fixed_bytes(column: pa.Array) -> _Bytes:
    """[N, width] the values of an array of a fixed width."""
    width, buffer = column.type.bit_width // 8, column.buffers()[1]
    if buffer is None or not len(column):
        return np.zeros((len(column), width), np.uint8)
    return np.frombuffer(buffer, np.uint8, len(column) * width, column.offset * width).reshape(-1, width)


def _hashed(cells: pa.Array) -> _Bytes:
    """[N, 16] of large strings or binary; of null cells that of nothing."""
    if cells.null_count:
        cells = cells.fill_null("" if pa.types.is_large_string(cells.type) else b"")
    return np.frombuffer(hash_texts(cells).tobytes(), np.uint8).reshape(-1, HASH_BYTES)


def _hashed_rows(rows: _Bytes) -> _Bytes:
    """[N, 16] of the rows of a matrix."""
    count, width = rows.shape
    return _hashed_runs(rows.reshape(-1, 1), np.arange(count + 1, dtype=np.int64) * width)


def _hashed_runs(pieces: _Bytes, ends: NDArray[np.int64]) -> _Bytes:
    """[N, 16] of pieces[ends[n] : ends[n + 1]], one after another."""
    data = np.ascontiguousarray(pieces)
    borders = np.ascontiguousarray(ends * pieces.shape[1], np.int64)
    buffers = [None, pa.py_buffer(borders), pa.py_buffer(data)]
    return _hashed(pa.Array.from_buffers(pa.large_binary(), len(ends) - 1, buffers))


def _words(digests: _Bytes) -> Words:
    """[N, 16] -> [N, 2]."""
    words: Words = np.ascontiguousarray(digests).view("<u8").reshape(-1, 2)
    return words
