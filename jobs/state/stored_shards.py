"""A run's shards as columns in memory, as the manifest stores them. Shard objects are made on access.

    StoredShards     a sequence of Shards over the manifest's table; makes a block of neighbours at a time
    columns_of       Shards -> that table
    pending          the shards without a receipt, without making Shard objects
    text_bytes_of    a shard's bytes of text, by its number

A million shards of one slice take about 200 MB, and several times that as objects. Knows nothing of storage.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from workers.records.shard import ObjectSlice, Shard
from workers.table.partitions import Partitions

SCHEMA = pa.schema(
    {
        "shard": pa.int32(),
        "shard_text_bytes": pa.int64(),  # of the whole shard, on each of its rows
        "uri": pa.string(),
        "size": pa.int64(),
        "etag": pa.string(),
        "start": pa.int64(),
        "stop": pa.int64(),
        "rows": pa.int64(),
        "first_row": pa.int64(),
        "partitions": pa.string(),  # JSON list of [key, value]
        "carried": pa.int32(),  # on a shard's first row: the base's shard whose parts are copied
        "earlier": pa.list_(pa.string()),  # on a shard's first row: the base's parts that may hold its texts
        "deleted": pa.string(),  # of a table: rows of the slice that are none of it; null: none
    }
)
_MAY_BE_NULL = ("rows", "first_row", "carried", "earlier", "deleted")
_OF_SLICES = ("uri", "size", "etag", "start", "stop", "rows", "first_row")
_READ_BLOCK = 1024  # shards made at once
_WRITE_BLOCK = 50_000  # shards turned into columns at once


class StoredShards(Sequence[Shard]):
    """The shards of `table`: one row for each slice, ordered by shard number. Equal to any sequence of the same shards.

    Raises: ValueError, TypeError, KeyError: not such a table.
    """

    def __init__(self, table: pa.Table) -> None:
        self._table = table.select(SCHEMA.names).cast(SCHEMA).combine_chunks()
        for name in SCHEMA.names:
            if name not in _MAY_BE_NULL and self._table.column(name).null_count:
                raise ValueError(f"column {name} has nulls")
        numbers = self._table.column("shard").to_numpy().astype(np.int64)
        if np.any(np.diff(numbers, prepend=0) < 0):
            raise ValueError("shards are not in order")
        self._starts = np.flatnonzero(np.diff(numbers, prepend=-1))  # first row of each shard
        self.numbers: NDArray[np.int64] = numbers[self._starts]
        self.text_bytes: NDArray[np.int64] = self._table.column("shard_text_bytes").to_numpy()[self._starts]
        kinds = pc.unique(self._table.column("partitions")).to_pylist()
        self._partitions: dict[str, Partitions] = {text: tuple(map(tuple, json.loads(text))) for text in kinds}
        self._block: tuple[int, list[Shard]] = (-1, [])  # the last block made

    @property
    def table(self) -> pa.Table:
        return self._table

    def __len__(self) -> int:
        return len(self._starts)

    @overload
    def __getitem__(self, at: int) -> Shard: ...
    @overload
    def __getitem__(self, at: slice) -> list[Shard]: ...
    def __getitem__(self, at: int | slice) -> Shard | list[Shard]:
        if isinstance(at, slice):
            return [self[place] for place in range(*at.indices(len(self)))]
        place = at if at >= 0 else at + len(self)
        if not 0 <= place < len(self):
            raise IndexError(at)
        number, offset = divmod(place, _READ_BLOCK)
        block = self._block
        if block[0] != number:
            self._block = block = (number, self._made(number * _READ_BLOCK))
        return block[1][offset]

    def __iter__(self) -> Iterator[Shard]:
        for first in range(0, len(self), _READ_BLOCK):
            yield from self._made(first)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence):
            return NotImplemented
        return len(self) == len(other) and all(one == another for one, another in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]

    def _made(self, first: int) -> list[Shard]:
        """The block of shards that begins with shard `first`."""
        last = min(first + _READ_BLOCK, len(self))
        begin = int(self._starts[first])
        end = int(self._starts[last]) if last < len(self) else self._table.num_rows
        rows = self._table.slice(begin, end - begin)
        shards: list[Shard] = []
        group: list[ObjectSlice] = []
        shard_values: tuple[Any, ...] = ()  # of the shard being built: text bytes, carried, earlier
        current = -1
        for number, text_bytes, uri, size, etag, start, stop, count, first_row, folders, carried, earlier, deleted in zip(
            *(rows.column(name).to_pylist() for name in SCHEMA.names), strict=True
        ):
            if number != current:
                if group:
                    shards.append(Shard(current, tuple(group), *shard_values))
                group, current, shard_values = [], number, (text_bytes, carried, tuple(earlier or ()))
            within = self._partitions[folders]
            group.append(ObjectSlice(uri, size, etag, start, stop, count, first_row, within, deleted or ""))
        shards.append(Shard(current, tuple(group), *shard_values))
        return shards


class _Selected(Sequence[Shard]):
    """Selected positions of a sequence, in order."""

    def __init__(self, shards: Sequence[Shard], places: array[int]) -> None:
        self._shards, self._places = shards, places

    def __len__(self) -> int:
        return len(self._places)

    @overload
    def __getitem__(self, at: int) -> Shard: ...
    @overload
    def __getitem__(self, at: slice) -> Sequence[Shard]: ...
    def __getitem__(self, at: int | slice) -> Shard | Sequence[Shard]:
        if isinstance(at, slice):
            return _Selected(self._shards, self._places[at])
        return self._shards[self._places[at]]


def columns_of(shards: Sequence[Shard]) -> pa.Table:
    """The table of these shards, built by blocks: lists of a million shards would take more memory than the shards."""
    blocks = [_columns(shards[at : at + _WRITE_BLOCK]) for at in range(0, len(shards), _WRITE_BLOCK)]
    return pa.concat_tables(blocks) if blocks else SCHEMA.empty_table()


def _columns(shards: Sequence[Shard]) -> pa.Table:
    rows = [(shard, piece) for shard in shards for piece in shard.slices]
    partitions = {value: json.dumps(value) for value in {piece.partitions for _, piece in rows}}
    columns = {
        "shard": [shard.number for shard, _ in rows],
        "shard_text_bytes": [shard.text_bytes for shard, _ in rows],
        **{name: [getattr(piece, name) for _, piece in rows] for name in _OF_SLICES},
        "partitions": [partitions[piece.partitions] for _, piece in rows],
        "carried": [shard.carried if piece is shard.slices[0] else None for shard, piece in rows],
        "earlier": [shard.earlier or None if piece is shard.slices[0] else None for shard, piece in rows],
        "deleted": [piece.deleted or None for _, piece in rows],
    }
    return pa.table(columns, schema=SCHEMA)


def pending(shards: Sequence[Shard], receipts: Collection[int]) -> Sequence[Shard]:
    """Shards without a receipt, in order. `receipts`: by shard number."""
    if not isinstance(shards, StoredShards):
        return [shard for shard in shards if shard.number not in receipts]
    numbers = enumerate(shards.numbers.tolist())
    return _Selected(shards, array("q", (place for place, number in numbers if number not in receipts)))


def text_bytes_of(shards: Sequence[Shard]) -> Callable[[int], int]:
    """Shard number -> bytes of its text. Raises, when called: KeyError, IndexError: no such shard."""
    if not isinstance(shards, StoredShards):
        return {shard.number: shard.text_bytes for shard in shards}.__getitem__
    numbers, sizes = shards.numbers, shards.text_bytes
    return lambda number: int(sizes[np.searchsorted(numbers, number)])


def total_text_bytes(shards: Sequence[Shard]) -> int:
    return int(shards.text_bytes.sum()) if isinstance(shards, StoredShards) else sum(shard.text_bytes for shard in shards)
