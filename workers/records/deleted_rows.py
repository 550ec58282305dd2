"""Rows of an object that its table has deleted, as a text that a manifest and an assignment can hold.

    encode_rows     sorted row numbers within the object -> text; "" for none
    decode_rows     the row numbers again
    deleted_count   how many they are, without decoding them
    rows_between    those of a run of rows, as a text of its own

The text is the count, then the gaps between the numbers as 64-bit little-endian integers, deflated, in base64: some bytes
for a few rows, one or two a row for many. Equal sets of rows have equal texts wherever zlib is the same; where it is not,
rows that are the same look different, which costs a reading.
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_BETWEEN = ":"


def encode_rows(rows: NDArray[np.int64] | Iterable[int]) -> str:
    """Row numbers, 0-based within the object, in any order and however often each -> their text."""
    import numpy as np

    numbers = np.unique(np.fromiter(rows, np.int64) if not isinstance(rows, np.ndarray) else rows.astype(np.int64))
    if not len(numbers):
        return ""
    gaps = np.diff(numbers, prepend=0).astype("<i8").tobytes()
    return f"{len(numbers)}{_BETWEEN}{base64.b64encode(zlib.compress(gaps)).decode()}"


def decode_rows(text: str) -> NDArray[np.int64]:
    """Raises: ValueError, zlib.error: not such a text."""
    import numpy as np

    if not text:
        return np.zeros(0, np.int64)
    gaps = zlib.decompress(base64.b64decode(text.partition(_BETWEEN)[2], validate=True))
    return np.cumsum(np.frombuffer(gaps, "<i8"), dtype=np.int64)


def deleted_count(text: str) -> int:
    """Raises: ValueError: not such a text."""
    return int(text.partition(_BETWEEN)[0]) if text else 0


def rows_between(text: str, first: int, stop: int) -> str:
    """Of these rows, those from `first` to before `stop`. Raises: as decode_rows()."""
    if not text:
        return ""
    numbers = decode_rows(text)
    return encode_rows(numbers[(numbers >= first) & (numbers < stop)])
