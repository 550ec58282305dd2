"""INT96, the timestamp of Spark, Impala and Hive: which rows hold one that microseconds do not hold.

A value is a day (32 bits) and a nanosecond of that day (64 bits). pyarrow reads it in a unit of choice and checks nothing:
in nanoseconds 9999-12-31 wraps round to 1816, in microseconds three digits are cut off. Microseconds hold what these engines
write (years 1 to 9999), so that is what is read. The column is read twice more, in seconds, which hold every value, and in
nanoseconds, which are right modulo 2^64: a value is exact where all three agree.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt

_REASON = "an INT96 timestamp is not a whole number of microseconds, or beyond their range"


class Int96Check:
    """The same rows as batches that were read in microseconds, in two other units, one batch after the other."""

    def __init__(self, columns: Sequence[str], opened: Callable[[str], Iterator[pa.RecordBatch]]) -> None:
        """`opened` gives batches of the columns, INT96 read in the unit. Without columns nothing is read."""
        self._columns = columns
        self._others = [_Rows(opened(unit)) for unit in ("s", "ns")] if columns else []

    def unfit(self, batch: pa.RecordBatch) -> dict[int, str]:
        """{place: reason} in the next batch. Raises what reading raises."""
        seconds_and_nanoseconds = [rows.take(batch.num_rows) for rows in self._others]
        bad: dict[int, str] = {}
        for name in self._columns:
            arrays = [batch.column(name), *(other[name].combine_chunks() for other in seconds_and_nanoseconds)]
            for place in _inexact(arrays[0], arrays[1], arrays[2]):
                bad.setdefault(place, f"column {name}: {_REASON}")
        return bad


class _Rows:
    """Batches, handed out again in pieces of other lengths."""

    def __init__(self, batches: Iterator[pa.RecordBatch]) -> None:
        self._batches = batches
        self._left: pa.Table | None = None

    def take(self, count: int) -> pa.Table:
        while self._left is None or self._left.num_rows < count:
            more = pa.Table.from_batches([next(self._batches)])
            self._left = more if self._left is None else pa.concat_tables([self._left, more])
        taken, self._left = self._left.slice(0, count), self._left.slice(count)
        return taken


def _inexact(micros: pa.Array, seconds: pa.Array, nanos: pa.Array, first: int = 0) -> Iterator[int]:
    """Places, found by halving: hardly any row is meant to be one."""
    if len(micros) == 0 or _agree(micros, seconds, nanos):
        return
    if len(micros) == 1:
        yield first
        return
    middle = len(micros) // 2
    halves = (slice(None, middle), slice(middle, None))
    for half, start in zip(halves, (first, first + middle), strict=True):
        yield from _inexact(micros[half], seconds[half], nanos[half], start)


def _agree(micros: pa.Array, seconds: pa.Array, nanos: pa.Array) -> bool:
    """Whether all values are the same ones, at any depth. Columns that are no timestamps agree."""
    kind = micros.type
    if pt.is_struct(kind):
        children = zip(micros.flatten(), seconds.flatten(), nanos.flatten(), strict=True)
        return all(_agree(*child) for child in children)
    if pt.is_map(kind):
        return all(_agree(*map(part, (micros, seconds, nanos))) for part in (_keys, _items))
    if pt.is_nested(kind):
        return _agree(*map(pc.list_flatten, (micros, seconds, nanos)))
    if not pt.is_timestamp(kind) or seconds.type.unit == nanos.type.unit:
        return True
    us, s, ns = (array.cast(pa.int64()).fill_null(0).to_numpy(zero_copy_only=False) for array in (micros, seconds, nanos))
    with np.errstate(over="ignore"):
        return bool(np.all(us // 1_000_000 == s) and np.all(us * 1000 == ns))


def _keys(array: pa.MapArray) -> pa.Array:
    return array.keys.slice(array.offsets[0].as_py(), array.offsets[-1].as_py() - array.offsets[0].as_py())


def _items(array: pa.MapArray) -> pa.Array:
    return array.items.slice(array.offsets[0].as_py(), array.offsets[-1].as_py() - array.offsets[0].as_py())
