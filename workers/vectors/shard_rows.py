"""The rows of one shard as a step sees them: vectors in blocks, chosen columns, and what was remembered of earlier passes.

Vectors are kept as they are stored (int8 stays a quarter of float32, a mapped file stays on the disk) and decoded block by
block, so memory holds one block in float32. With pooling=tokens a row is one token's vector; there are no columns then.
Axes: N rows of the shard, D components.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from workers.table.vectors import Floats, unit_rows
from workers.vectors.workplace import Workplace

BLOCK_ROWS = 4096  # of one block: 6 MB at 384 components; fixed, because a sum over other blocks has other bits


@dataclass(frozen=True, slots=True)
class PartSpan:
    """A part's rows within its shard: `first` to `first + rows`. `counts`: vectors of each document (pooling=tokens)."""

    path: str  # relative to the source's root
    first: int
    rows: int
    rows_digest: str  # as the source's receipts have it
    counts: NDArray[np.int64] | None = None


class ShardRows:
    """Rows in the order of the shard's parts.

    Args:
        first_row: number of the first row in the whole snapshot.
        parts: spans, in order, without gaps.
        stored: one array [rows, W] for each part, as stored.
        decode: [n, W] stored -> [n, D] float32.
        columns: [N] the columns that were asked for.
        workplace: of the actor, for steps that leave files for later passes.
        seen: told how many rows a step is through with, block by block: a shard may take an hour.
    """

    def __init__(
        self,
        number: int,
        first_row: int,
        parts: Sequence[PartSpan],
        stored: Sequence[NDArray[Any]],
        decode: Callable[[NDArray[Any]], Floats],
        columns: pa.Table,
        workplace: Workplace | None = None,
        seen: Callable[[int], None] = lambda _: None,
    ) -> None:
        self.number, self.first_row, self.parts = number, first_row, tuple(parts)
        self.columns = columns
        self.stored = list(stored)  # by part; the cache replaces it by the same arrays, mapped from files
        self._decode, self._workplace, self._seen = decode, workplace, seen
        self._remembered: dict[str, Any] = {}
        self._on_disk: frozenset[str] = frozenset()  # names of what is remembered, and mapped from a file

    def __len__(self) -> int:
        return sum(part.rows for part in self.parts)

    @property
    def workplace(self) -> Workplace:
        """Raises: ValueError: these rows were made without one."""
        if self._workplace is None:
            raise ValueError("rows without a workplace")
        return self._workplace

    @property
    def stored_bytes(self) -> int:
        """Of the vectors as they are stored, and of the columns."""
        return sum(int(cells.nbytes) for cells in self.stored) + int(self.columns.nbytes)

    def leave_memory(self, mapped: Callable[[Any], Any]) -> None:
        """`mapped` returns what it is given with its arrays mapped from a file."""
        self.stored, self.columns = mapped((self.stored, self.columns))
        self.map_remembered(mapped)

    def map_remembered(self, mapped: Callable[[Any], Any]) -> None:
        """The same for what was remembered since the last call."""
        new = {name: value for name, value in list(self._remembered.items()) if name not in self._on_disk}
        if new:
            self._remembered |= mapped(new)
            self._on_disk |= new.keys()

    def blocks(self, *, unit: bool) -> Iterator[tuple[int, Floats]]:
        """(first row within the shard, vectors [n, D] float32) of at most BLOCK_ROWS rows; a block ends where a part ends.

        `unit`: each vector divided by its length.
        """
        for part, stored in zip(self.parts, self.stored, strict=True):
            for at in range(0, part.rows, BLOCK_ROWS):
                vectors = self._decode(stored[at : at + BLOCK_ROWS])
                yield part.first + at, unit_rows(vectors) if unit else vectors
                self._seen(len(vectors))

    def take(self, rows: NDArray[np.int64], *, unit: bool) -> Floats:
        """Vectors [len(rows), D] of these rows of the shard, in the order asked for."""
        taken: Floats | None = None
        for part, stored in zip(self.parts, self.stored, strict=True):
            here = np.flatnonzero((rows >= part.first) & (rows < part.first + part.rows))
            vectors = self._decode(np.asarray(stored[rows[here] - part.first]))
            if taken is None:
                taken = np.empty((len(rows), vectors.shape[1]), np.float32)
            taken[here] = vectors
        if taken is None:
            raise ValueError("a shard without parts has no rows")
        return unit_rows(taken) if unit else taken

    def column(self, name: str) -> pa.ChunkedArray:
        """[N] one of the step's columns."""
        return self.columns.column(name)

    def remember(self, name: str, make: Callable[[], Any]) -> Any:
        """What `make` returned the first time, in this actor: for what every pass needs and no pass changes (label codes).

        Lost with the actor, and then made again: `make` must be deterministic. Its arrays are not to be changed: they leave
        memory with the vectors, and are mapped from files then (shard_cache.mapped says which are found).
        """
        if name not in self._remembered:
            self._remembered[name] = make()
        return self._remembered[name]
