"""The files of an index as the program keeps them: tables of arrays, one row a file, known by the digests of their shard.

files_of        what tonight's pass has built
current_files   of those kept and those built, the ones of the snapshot's shards, in order
catalog         the published table (workers/vectors/index/catalog.py)
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from workers.records.shard import Shard
from workers.table.paths import file_name
from workers.vectors.index.catalog import SCHEMA, FileOfIndex, PartOfShard, catalog_rows
from workers.vectors.index.index_file import IndexShape
from workers.vectors.index.write_files import digest_text, file_path
from workers.vectors.step import Partial


def files_of(shards: Sequence[Shard], answer: Mapping[str, NDArray[Any]], shares: Sequence[float]) -> Partial:
    """Files that BuildFiles has built for these shards. `shares`: the recall that was measured, by expansion."""
    keys = {shard.number: _key(shard) for shard in shards}
    names = [name for name in answer if name.startswith("file_")]
    count = len(answer["file_shard"])
    of_shards = [keys[int(number)] for number in answer["file_shard"]]
    return {name: answer[name] for name in names if name != "file_shard"} | {
        "file_key": np.frombuffer(b"".join(of_shards), np.uint8).reshape(count, 32),
        "file_recall": np.tile(np.array(shares, np.float64), (count, 1)),
    }


def current_files(shards: Sequence[Shard], tables: Sequence[Mapping[str, NDArray[Any]]]) -> Partial:
    """The files of these shards. Of two tables that have a shard's the last counts."""
    places: dict[bytes, list[tuple[int, int]]] = {}
    filled = [table for table in tables if table]
    for which, table in enumerate(filled):
        found: dict[bytes, list[tuple[int, int]]] = {}
        for row, key in enumerate(table["file_key"]):
            found.setdefault(key.tobytes(), []).append((which, row))
        places |= found
    chosen = [place for shard in shards for place in places.get(_key(shard), [])]
    names = filled[0] if filled else ()
    return {name: np.stack([filled[which][name][row] for which, row in chosen]) for name in names}


def catalog(shards: Sequence[Shard], files: Partial, shape: IndexShape, expansion: int) -> pa.Table:
    """`files`: as current_files() has them for the same shards."""
    by_key: dict[bytes, list[int]] = {}
    for row, key in enumerate(files["file_key"]):
        by_key.setdefault(key.tobytes(), []).append(row)
    rows: list[dict[str, Any]] = []
    for shard in shards:
        mine = by_key.get(_key(shard), [])
        ends = np.cumsum([0, *(piece.rows or 0 for piece in shard.slices)])
        parts = [
            PartOfShard(piece.uri, piece.etag, int(first), piece.rows or 0)
            for piece, first in zip(shard.slices, ends[:-1], strict=True)
        ]
        for row in mine:
            digest = digest_text(files["file_sha256"][row])
            path = file_path("", shard.number, int(files["file_piece"][row]), len(mine), digest)
            numbers = [int(files[f"file_{name}"][row]) for name in ("bytes", "vectors", "first_row", "rows")]
            rows += catalog_rows(FileOfIndex(file_name(path), numbers[0], digest, *numbers[1:]), parts)
    same = {
        "dim": shape.dim,
        "precision": shape.precision,
        "connectivity": shape.connectivity,
        "expansion_search": expansion,
        "tokens": shape.tokens,
    }
    return pa.Table.from_pylist([row | same for row in rows], schema=SCHEMA)


def _key(shard: Shard) -> bytes:
    """SHA-256 of the digests of a shard's parts: the same parts are the same shard, whatever its number."""
    return hashlib.sha256("\n".join(piece.etag for piece in shard.slices).encode()).digest()
