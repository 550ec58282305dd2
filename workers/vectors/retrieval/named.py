"""Rows by their ids, and a sample of rows: what a task of given queries or pairs needs of the snapshot.

    TextsOfIds     the text hashes of given ids
    VectorsOfIds   their vectors
    SampledRows    some rows with a text of theirs, chosen by a hash of the id

Ids are compared as text, whatever type the column has.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from workers.records.documents import text_hash
from workers.table.schema import ID, TEXT_HASH
from workers.vectors.retrieval.texts import hashes
from workers.vectors.shard_rows import ShardRows
from workers.vectors.step import Combiner, Concatenation, Partial, Step

MOST_BYTES = 64 << 20  # of the ids of one step, which is sent to every actor


@dataclass(frozen=True)
class TextsOfIds(Step):
    """Which of `ids` there are. Partial, concatenated: `place` in ids, and `key`, the text hash of such a row."""

    ids: NDArray[np.str_]  # distinct
    columns = (ID, TEXT_HASH)

    def of_shard(self, rows: ShardRows) -> Partial:
        place, row = _found(rows, self.ids)
        return {"place": place, "key": hashes(rows.column(TEXT_HASH))[row]}

    def combiner(self) -> Combiner:
        return Concatenation()


@dataclass(frozen=True)
class VectorsOfIds(Step):
    """As TextsOfIds, with `vectors` [n, D] of the first row of each id in a shard."""

    ids: NDArray[np.str_]
    columns = (ID,)

    def of_shard(self, rows: ShardRows) -> Partial:
        place, row = _found(rows, self.ids)
        place, first = np.unique(place, return_index=True)
        if not len(place):
            return {}
        return {"place": place, "vectors": rows.take(row[first], unit=False)}

    def combiner(self) -> Combiner:
        return Concatenation()


@dataclass(frozen=True)
class SampledRows(Step):
    """The `most` rows with the smallest hashes of their ids, of those whose `column` has a text that is not blank.

    Partial: draw (uint64, the hash), id, text, key (the text hash), in order of draw.
    """

    column: str
    most: int

    @property
    def columns(self) -> tuple[str, ...]:  # type: ignore[override]
        return (ID, TEXT_HASH, self.column)

    def of_shard(self, rows: ShardRows) -> Partial:
        ids = _as_text(rows.column(ID)).to_pylist()
        texts = rows.column(self.column).to_pylist()
        chosen: dict[str, int] = {}
        for row, (id_, text) in enumerate(zip(ids, texts, strict=True)):
            if text is not None and text.strip():
                chosen.setdefault(id_, row)
        draws = np.array([int.from_bytes(text_hash(id_)[:8], "big") for id_ in chosen], dtype=np.uint64)
        places = np.array(list(chosen.values()), dtype=np.int64)
        order = np.argsort(draws, kind="stable")[: self.most]
        return {
            "draw": draws[order],
            "id": np.array([ids[at] for at in places[order]] or [""], dtype=np.str_)[: len(order)],
            "text": np.array([texts[at] for at in places[order]] or [""], dtype=np.str_)[: len(order)],
            "key": hashes(rows.column(TEXT_HASH))[places[order]],
        }

    def combiner(self) -> Combiner:
        return _Smallest(self.most)


class _Smallest(Combiner):
    def __init__(self, most: int) -> None:
        self._most = most
        self._kept: Partial = {}

    def add(self, partial: Mapping[str, NDArray[Any]]) -> None:
        both = [self._kept, partial] if self._kept else [partial]
        joined = {name: np.concatenate([piece[name] for piece in both]) for name in partial}
        order = np.lexsort((joined["id"], joined["draw"]))[: self._most]
        self._kept = {name: value[order] for name, value in joined.items()}

    def result(self) -> Partial:
        return self._kept


def found_ids(
    ids: NDArray[np.str_], step: Callable[[NDArray[np.str_]], Step], run: Callable[[Step], Partial], most: int = MOST_BYTES
) -> Partial:
    """What `step` finds of all ids, in as many passes as their size takes; `place`: in `ids`. Empty: none is there."""
    pieces = []
    count = max(1, most // max(ids.itemsize, 1))
    for first in range(0, len(ids), count):
        found = run(step(ids[first : first + count]))
        if found and len(found["place"]):
            pieces.append(found | {"place": found["place"] + first})
    return {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]} if pieces else {}


def _found(rows: ShardRows, ids: NDArray[np.str_]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(place in `ids`, row) of every row whose id is among them."""
    places = pc.index_in(_as_text(rows.column(ID)), value_set=pa.array(ids.tolist(), pa.string()))
    known = pc.fill_null(places, -1).to_numpy().astype(np.int64)
    row = np.flatnonzero(known >= 0)
    return known[row], row


def _as_text(ids: pa.ChunkedArray) -> pa.ChunkedArray:
    return ids.cast(pa.string())
