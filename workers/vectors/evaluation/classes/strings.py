"""Strings as arrays, so that a Partial can hold them: their UTF-8 bytes one after another, and the bytes of each.

And which columns hold strings.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray


def is_text(kind: pa.DataType) -> bool:
    """Whether a column of this type holds strings."""
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def packed(cells: pa.Array) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """(bytes, lengths [N]) of strings without null."""
    large = cells.cast(pa.large_binary())
    offsets = np.frombuffer(large.buffers()[1], np.int64)[large.offset : large.offset + len(large) + 1]
    whole = large.buffers()[2]
    joined = np.zeros(0, np.uint8) if whole is None else np.frombuffer(whole, np.uint8)[offsets[0] : offsets[-1]]
    return joined, np.diff(offsets)


def unpacked(joined: NDArray[Any], lengths: NDArray[Any]) -> pa.Array:
    """[N] strings: the inverse of packed()."""
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(np.ascontiguousarray(joined, np.uint8))]
    return pa.Array.from_buffers(pa.large_binary(), len(lengths), buffers).cast(pa.large_string()).cast(pa.string())
