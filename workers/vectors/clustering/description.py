"""What is said of clusters: rows, inertia and mean distance of each, its nearest rows, samples for its words and for a map.

    Describe          of rows whose vectors are here
    DescribeCarried   of rows whose clusters stand in parts of last night's run: no vector is read
    Described         both as one

Samples are drawn by row keys: of each cluster the rows of the smallest keys. So they are the same rows in any order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from workers.table.part_file import ROW_GROUP_ROWS, open_part
from workers.table.schema import CHUNK, CHUNK_END, CHUNK_START, ID, TEXT_HASH
from workers.vectors.clustering.centroids import Centroids, assigned, squared
from workers.vectors.clustering.row_keys import Keys, below, keys_of, row_keys, text_keys
from workers.vectors.shard_rows import ShardRows
from workers.vectors.step import Combiner, Concatenation, Partial, Step, Sum, UnitStep
from workers.vectors.workplace import Workplace

EXAMPLE, WORD, MAP = "example_", "word_", "map_"
_PIECES = 1000  # of rows, that wait to be sorted
WHOLE_TEXT = -1  # in start and end of a row that is no chunk


@dataclass(frozen=True)
class Wanted:
    """How much is asked for. `examples`, `words`: rows of each cluster. `text_shards`: whose texts will be read."""

    clusters: int
    metric: str
    examples: int
    words: int
    text_shards: NDArray[np.int64]  # ascending


@dataclass(frozen=True)
class _Found:
    """Rows [N] and the documents [M] that they belong to; `document` [N] is None where a row is a document."""

    place: NDArray[np.int32]
    distance: NDArray[np.float32]
    keys: Keys
    table: pa.Table  # [M] id, text_hash, and of chunks where they begin and end
    document: NDArray[np.int64] | None
    shard: int


@dataclass(frozen=True)
class Describe(Step):
    """`map_share`: of the rows, that the map shows; their vectors are answered."""

    centroids: Centroids
    wanted: Wanted
    map_share: float
    columns: tuple[str, ...] = ()

    def of_shard(self, rows: ShardRows) -> Partial:
        found, keys = assigned(rows, self.centroids), keys_of(rows)
        counts = [part.counts for part in rows.parts if part.counts is not None]
        document = np.repeat(np.arange(len(rows.columns)), np.concatenate(counts)) if counts else None
        shown = np.flatnonzero(keys < below(self.map_share))
        described = _Found(found.place, found.distance, keys, rows.columns, document, rows.number)
        return _describe(described, self.wanted) | {
            MAP + "vectors": rows.take(shown, unit=self.centroids.unit),
            MAP + "place": found.place[shown],
        }

    def combiner(self) -> Combiner:
        return Described(self.wanted)


@dataclass(frozen=True)
class DescribeCarried(UnitStep):
    """Unit n is a shard of the source: its parts, and the parts of last night's run that stand for them.

    `place_of` [numbers]: the place of each cluster's number.
    """

    shards: tuple[int, ...]
    parts: tuple[tuple[tuple[str, str], ...], ...]
    place_of: NDArray[np.int32]
    wanted: Wanted

    def of_unit(self, unit: int, workplace: Workplace) -> Partial:
        described = [self._part(self.shards[unit], *paths, workplace) for paths in self.parts[unit]]
        combiner = Described(self.wanted)
        for partial in described:
            combiner.add(partial)
        return combiner.result()

    def _part(self, shard: int, source: str, derived: str, workplace: Workplace) -> Partial:
        with open_part(workplace.output, derived) as part:
            names = [name for name in (ID, TEXT_HASH, CHUNK, "cluster", "distance") if name in part.schema.names]
            table = pa.Table.from_batches(list(part.batches(ROW_GROUP_ROWS, names)), _fields(part.schema, names))
        if CHUNK in names:
            with open_part(workplace.source, source) as part:
                names = [CHUNK_START, CHUNK_END]
                spans = pa.Table.from_batches(list(part.batches(ROW_GROUP_ROWS, names)), _fields(part.schema, names))
            for name in names:
                table = table.append_column(name, spans.column(name))
        cluster, distance, counts = table.column("cluster"), table.column("distance"), None
        if pa.types.is_list(cluster.type):
            counts = pc.list_value_length(cluster).to_numpy().astype(np.int64)
            cluster, distance = pc.list_flatten(cluster), pc.list_flatten(distance)
        chunks = table.column(CHUNK) if CHUNK in table.column_names else None
        found = _Found(
            self.place_of[cluster.to_numpy()],
            distance.to_numpy(),
            row_keys(table.column(ID), table.column(TEXT_HASH), chunks, counts),
            table,
            None if counts is None else np.repeat(np.arange(table.num_rows), counts),
            shard,
        )
        return _describe(found, self.wanted)

    def combiner(self) -> Combiner:
        return Described(self.wanted)


class Described(Combiner):
    """Sums of what is counted; of each cluster the nearest rows and the sample; the rows of the map end to end."""

    def __init__(self, wanted: Wanted) -> None:
        self._sum, self._map = Sum(), Concatenation()
        self._first = {
            EXAMPLE: _FirstRows(EXAMPLE, ("key", "distance"), wanted.examples, wanted.clusters),
            WORD: _FirstRows(WORD, ("key",), wanted.words, wanted.clusters),
        }

    def add(self, partial: Mapping[str, NDArray[Any]]) -> None:
        kinds: dict[str, Partial] = {EXAMPLE: {}, WORD: {}, MAP: {}, "": {}}
        for name, value in partial.items():
            kinds[next(kind for kind in kinds if name.startswith(kind))][name] = value
        self._sum.add(kinds[""])
        if kinds[MAP]:
            self._map.add(kinds[MAP])
        for kind, first in self._first.items():
            first.add(kinds[kind])

    def result(self) -> Partial:
        held = [first.result() for first in self._first.values()]
        return self._sum.result() | self._map.result() | held[0] | held[1]


class _FirstRows:
    """Of each cluster the first rows by `keys` (as first_of_each). Rows are sorted once as many again have come."""

    def __init__(self, kind: str, keys: tuple[str, ...], each: int, clusters: int) -> None:
        self._kind, self._keys, self._each = kind, keys, each
        self._most = 2 * each * clusters
        self._held: list[Partial] = []
        self._count = 0

    def add(self, rows: Partial) -> None:
        self._held.append(rows)
        self._count += len(rows[self._kind + "place"])
        if self._count > self._most or len(self._held) > _PIECES:
            self._held = [self.result()]
            self._count = len(self._held[0][self._kind + "place"])

    def result(self) -> Partial:
        if not self._held:
            return {}
        rows = {name: np.concatenate([piece[name] for piece in self._held]) for name in self._held[0]}
        keys = [rows[self._kind + key] for key in self._keys]
        chosen = first_of_each(rows[self._kind + "place"], keys, self._each)
        return {name: value[chosen] for name, value in rows.items()}


def _describe(found: _Found, wanted: Wanted) -> Partial:
    clusters = wanted.clusters
    distance = found.distance.astype(np.float64)
    here = np.arange(len(found.place))
    nearest = here[first_of_each(found.place, (found.keys, found.distance), wanted.examples)]
    sampled = here[:0]
    if np.isin(found.shard, wanted.text_shards):
        sampled = here[first_of_each(found.place, (found.keys,), wanted.words)]
    return {
        "rows": np.bincount(found.place, minlength=clusters).astype(np.int64),
        "distance": np.bincount(found.place, distance, minlength=clusters),
        "distance_squares": np.array((distance * distance).sum()),
        "inertia": np.array(squared(found.distance, wanted.metric).sum()),
        **_rows(found, nearest, EXAMPLE),
        **_rows(found, sampled, WORD),
    }


def _rows(found: _Found, rows: NDArray[np.int64], kind: str) -> Partial:
    documents = rows if found.document is None else found.document[rows]
    table = found.table.take(pa.array(documents))
    named: Partial = {
        "place": found.place[rows],
        "distance": found.distance[rows],
        "key": found.keys[rows],
        "text": text_keys(table.column(TEXT_HASH)),
        "shard": np.full(len(rows), found.shard, np.int64),
    }
    for name, column in (("start", CHUNK_START), ("end", CHUNK_END)):
        if column in table.column_names:
            named[name] = table.column(column).to_numpy().astype(np.int64)
        else:
            named[name] = np.full(len(rows), WHOLE_TEXT, np.int64)
    if kind == EXAMPLE:
        ids = [str(cell) for cell in table.column(ID).to_pylist()]
        named["id"] = np.array(ids, np.str_) if ids else np.empty(0, "<U1")
    return {kind + name: value for name, value in named.items()}


def first_of_each(groups: NDArray[Any], keys: Sequence[NDArray[Any]], each: int) -> NDArray[np.int64]:
    """Of each group the first rows in the order of the keys, the last key being the most significant (as np.lexsort)."""
    order = np.lexsort((*keys, groups))
    ordered = groups[order]
    starts = np.flatnonzero(np.diff(ordered, prepend=ordered[0] - 1)) if len(ordered) else np.empty(0, np.int64)
    sizes = np.diff(starts, append=len(ordered))
    rank = np.arange(len(ordered)) - np.repeat(starts, sizes)
    chosen: NDArray[np.int64] = order[rank < each]
    return chosen


def _fields(schema: pa.Schema, names: Sequence[str]) -> pa.Schema:
    return pa.schema([schema.field(name) for name in names])
