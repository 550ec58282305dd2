"""BLAKE2b-128 of whole columns: of texts one by one, and summed over rows. By C (blake2.c) where built, else by hashlib.

    hash_texts   large_string column -> 16 bytes each
    sum_rows     columns -> the sum of the hashes of their rows, modulo 2^128 (documents.py: RowsDigest)

Both ways give the same values; C takes a seventh of the time for rows, and does not hold the interpreter lock. It is an
optional extension, built if the installation finds a C compiler. Once per process it is compared with hashlib.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import itertools
import logging
import sys
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from workers.extension import load

HASH_BYTES = 16
ROWS_AT_ONCE = 8192  # as Python objects, where hashlib does it
_HASH = np.dtype(f"S{HASH_BYTES}")
_EXTENSION = "workers.records._blake2"
_log = logging.getLogger(__name__)
Cells: TypeAlias = "pa.Array | int"
"""A column without nulls: strings, binary, or integers (their decimal digits); or one integer for all rows."""


class _Column(ctypes.Structure):
    """Column of blake2.c."""

    _fields_ = (
        ("bytes", ctypes.c_void_p),
        ("offsets", ctypes.c_void_p),
        ("size", ctypes.c_int64),
        ("width", ctypes.c_int64),
        ("stride", ctypes.c_int64),
    )


def hash_texts(texts: pa.Array) -> npt.NDArray[np.bytes_]:
    """[N] BLAKE2b-128 of each text's UTF-8 bytes; `texts` is large_string without nulls."""
    if (library := _library()) is None:
        return _hash_texts_by_hashlib(texts)
    return _hash_texts_by_c(library, texts)


def sum_rows(rows: int, columns: Sequence[Cells]) -> int:
    """The sum over rows, modulo 2^128, of BLAKE2b-128 over (8 bytes little-endian length, bytes) of each cell.

    Raises:
        ValueError: a column with nulls.
    """
    if any(isinstance(column, pa.Array) and column.null_count for column in columns):
        raise ValueError("a digest of rows is made of columns without nulls")
    if (library := _library()) is None:
        return _sum_rows_by_hashlib(rows, columns)
    return _sum_rows_by_c(library, rows, columns)


def hash_row(cells: Sequence[object]) -> int:
    """BLAKE2b-128 of one row, as a number."""
    hasher = hashlib.blake2b(digest_size=HASH_BYTES)
    for cell in cells:
        data = cell if isinstance(cell, bytes) else str(cell).encode("utf-8", "surrogatepass")
        hasher.update(len(data).to_bytes(8, "little") + data)
    return int.from_bytes(hasher.digest(), "little")


def _hash_texts_by_hashlib(texts: pa.Array) -> npt.NDArray[np.bytes_]:
    _, offsets, data = texts.buffers()
    borders = np.frombuffer(offsets, np.int64)[texts.offset : texts.offset + len(texts) + 1].tolist() if offsets else []
    view = memoryview(data or b"")
    digests = [
        hashlib.blake2b(view[start:stop], digest_size=HASH_BYTES).digest() for start, stop in itertools.pairwise(borders)
    ]
    return np.frombuffer(b"".join(digests), _HASH)


def _sum_rows_by_hashlib(rows: int, columns: Sequence[Cells]) -> int:
    total = 0
    for start in range(0, rows, ROWS_AT_ONCE):
        some = min(ROWS_AT_ONCE, rows - start)
        listed = [[each] * some if isinstance(each, int) else each.slice(start, some).to_pylist() for each in columns]
        total += sum(hash_row(cells) for cells in zip(*listed, strict=True))
    return total % (1 << 8 * HASH_BYTES)


def _hash_texts_by_c(library: ctypes.CDLL, texts: pa.Array) -> npt.NDArray[np.bytes_]:
    column, kept = _column(texts)
    digests = np.empty(len(texts), _HASH)
    failed = library.reembed_hash_texts(ctypes.byref(column), len(texts), digests.ctypes.data)
    del kept
    if failed:
        raise ValueError("offsets of a column of texts are outside its bytes")
    return digests


def _sum_rows_by_c(library: ctypes.CDLL, rows: int, columns: Sequence[Cells]) -> int:
    made = [_column(each) for each in columns]  # with what must live as long as the pointers
    for cells in columns:
        if isinstance(cells, pa.Array) and len(cells) != rows:
            raise ValueError(f"a column of {len(cells)} cells for {rows} rows")
    total = (ctypes.c_uint64 * 2)()
    failed = library.reembed_sum_rows((_Column * len(made))(*(each for each, _ in made)), len(made), rows, total)
    if failed:
        raise ValueError("offsets of a column are outside its bytes")
    return total[0] | total[1] << 64


def _column(cells: Cells) -> tuple[_Column, object]:
    """The column for C, and the owner of its memory."""
    if isinstance(cells, int):
        text = str(cells).encode()
        held = ctypes.create_string_buffer(text, len(text))
        return _Column(ctypes.addressof(held), None, len(text), len(text), 0), held
    if pa.types.is_integer(cells.type):
        cells = cells.cast(pa.string())
    if pa.types.is_fixed_size_binary(cells.type):
        width, data = cells.type.byte_width, cells.buffers()[1]
        start = cells.offset * width
        size = data.size - start if data is not None else 0
        return _Column(data.address + start if data is not None else None, None, size, width, width), data
    large = pa.types.is_large_string(cells.type) or pa.types.is_large_binary(cells.type)
    _, offsets, data = cells.buffers()
    if offsets is None or not len(cells):
        borders = np.zeros(len(cells) + 1, np.int64)
    else:
        kind = np.int64 if large else np.int32
        borders = np.frombuffer(offsets, kind)[cells.offset : cells.offset + len(cells) + 1].astype(np.int64, copy=False)
    address, size = (data.address, data.size) if data is not None else (None, 0)
    return _Column(address, borders.ctypes.data, size, 0, 0), (borders, cells, offsets, data)


@functools.cache
def _library() -> ctypes.CDLL | None:
    """The extension, where it is built, runs here and gives hashlib's values."""
    if sys.byteorder != "little":
        _log.info("digests by hashlib: the compiled way is for little-endian machines")
        return None
    try:
        library = load(_EXTENSION)
    except OSError as error:
        _log.info("digests by hashlib: the compiled way is %s", error)
        return None
    library.reembed_hash_texts.argtypes = [ctypes.POINTER(_Column), ctypes.c_int64, ctypes.c_void_p]
    library.reembed_sum_rows.argtypes = [ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p]
    texts = pa.array(["a" * length for length in (0, 1, 15, 103, 104, 105, 127, 128, 129, 255, 256, 257, 1000)])
    hashes = pa.array([bytes([number]) * HASH_BYTES for number in range(len(texts))], pa.binary(HASH_BYTES))
    columns: list[Cells] = [texts, hashes, pa.array(range(-5, len(texts) - 5)), 0]
    large = texts.cast(pa.large_string())
    same = np.array_equal(_hash_texts_by_c(library, large), _hash_texts_by_hashlib(large))
    if not same or _sum_rows_by_c(library, len(texts), columns) != _sum_rows_by_hashlib(len(texts), columns):
        _log.warning("digests by hashlib: the compiled way gives other values on this processor")
        return None
    return library
