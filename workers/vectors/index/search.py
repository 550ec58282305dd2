"""Nearest neighbours by the files of an index, with exact search for what no file stands for.

    IndexFiles       the catalog, read: which files there are, and what they stand for
    IndexedSearch    a query -> the k best rows, scored with the stored vectors

A file serves if the SHA-256 of its source parts are those of the snapshot that is searched. New parts, and parts whose file
is gone or altered, are searched exactly. With a condition a file is asked for more, by the share of its rows for which the
condition holds; where that is small, or too few come back, the part is searched exactly too. So k rows are found if there
are k. With pooling=tokens each token of the query asks for its nearest tokens, and the documents they belong to are scored
by late interaction.
"""

from __future__ import annotations

import heapq
import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from workers.errors import ObjectError, ReembedError, UsageError, one_line
from workers.snapshot.search import THREADS, Hit, best_of_part, score_rows, with_columns
from workers.snapshot.vectors import rows_where
from workers.snapshot.where import Where
from workers.storage.store import Store
from workers.table.schema import OutputSchema
from workers.table.small_table import decode_table
from workers.table.vectors import Floats, unit_rows
from workers.vectors.index.catalog import SCHEMA
from workers.vectors.index.index_file import IndexShape, nearest, open_mapped, row_of_key
from workers.vectors.index.local_files import local_copy

MOST_ASKED = 1024  # of one file; where a condition needs more, exact search costs less
_ERROR = {"f32": 1e-4, "f16": 2e-3, "bf16": 1e-2, "i8": 5e-2}  # of a cosine that the index tells, at most
_TOKENS_A_TEXT = 8  # several of a token's nearest neighbours stand in the same text
_log = logging.getLogger("reembed")


@dataclass(frozen=True, slots=True)
class _Piece:
    """Rows of one part of the snapshot that are in a file: rows `first` to `first + rows` of the part."""

    path: str
    key_of_first_row: int  # of row 0 of the part; the key of its row r is this plus r
    first: int
    rows: int


@dataclass(frozen=True, slots=True)
class _File:
    path: str
    bytes: int
    sha256: str
    shape: IndexShape
    expansion: int
    rows: int  # also of parts that the snapshot no longer has
    pieces: tuple[_Piece, ...]


class IndexFiles:
    """The files of an index that stand for parts of a snapshot."""

    def __init__(self, store: Store, folder: str, catalog: pa.Table, parts: Mapping[str, str]) -> None:
        """`folder`: of the index run, relative to the store's root. `parts`: SHA-256 of the snapshot's parts -> path."""
        self.store, self._parts = store, parts
        by_file: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for row in catalog.to_pylist():
            by_file[row["file"]].append(row)
        self.files = [self._file(folder, rows) for rows in by_file.values()]

    @classmethod
    def read(cls, store: Store, folder: str, path: str, parts: Mapping[str, str]) -> IndexFiles:
        """Raises: UsageError: there is no catalog, so this is no index; or it is damaged. TransientError: the store."""
        try:
            catalog = decode_table(store.read(path)).select(SCHEMA.names).cast(SCHEMA)
        except FileNotFoundError:
            raise UsageError(
                f"{store.uri_of(path)}: no catalog of index files; give the output of `reembed index`"
            ) from None
        except (pa.ArrowException, OSError, ValueError, KeyError) as error:
            told = one_line(error)
            raise UsageError(
                f"{store.uri_of(path)}: damaged ({told}); build the index again, or search without it"
            ) from None
        return cls(store, folder, catalog, parts)

    def _file(self, folder: str, rows: Sequence[Mapping[str, Any]]) -> _File:
        one = rows[0]
        shape = IndexShape(one["dim"], one["precision"], one["connectivity"], 0, tokens=one["tokens"])
        pieces = tuple(
            _Piece(self._parts[row["part_sha256"]], row["part_first"], row["first"], row["rows"])
            for row in rows
            if row["part_sha256"] in self._parts
        )
        count = sum(row["rows"] for row in rows)
        return _File(f"{folder}/{one['file']}", one["bytes"], one["sha256"], shape, one["expansion_search"], count, pieces)


class IndexedSearch:
    """One snapshot and its index.

    Args:
        paths: of the snapshot's parts. rows: of each.
    """

    def __init__(self, store: Store, schema: OutputSchema, rows: Mapping[str, int], index: IndexFiles) -> None:
        self._store, self._schema, self._rows, self._index = store, schema, rows, index

    def nearest(self, query_QD: Floats, k: int, where: Where | None = None) -> list[dict[str, Any]]:
        """As workers.snapshot.search.nearest. Raises: likewise."""
        query = unit_rows(query_QD)
        with ThreadPoolExecutor(THREADS) as pool:
            opened = list(pool.map(self._open, self._index.files))
            usable = [(file, index) for file, index in zip(self._index.files, opened, strict=True) if index is not None]
            served = self._served(usable)
            masks: dict[str, NDArray[np.bool_]] = {}
            if where is not None:
                found = pool.map(lambda path: rows_where(self._store, path, self._schema, where), served)
                masks = dict(zip(served, found, strict=True))
            answers = list(pool.map(lambda one: self._ask(one[0], one[1], query, k, served, masks), usable))
            short = {path for _, paths in answers for path in paths}
            candidates = [one for found_here, _ in answers for one in found_here if one.path not in short]
            exact = sorted(short | (set(self._rows) - set(served)))
            hits = pool.map(lambda path: best_of_part(self._store, path, self._schema, query, k, where), exact)
            best = [hit for part in hits for hit in part]
            by_part = self._worth_scoring(candidates, k)
            scored = pool.map(lambda item: score_rows(self._store, item[0], self._schema, query, item[1]), by_part.items())
            best += [hit for part in scored for hit in part]
            return with_columns(self._store, heapq.nlargest(k, best), self._schema, pool)

    def _open(self, file: _File) -> Any | None:
        """None: it stands for no part of this snapshot, or cannot be used."""
        if not file.pieces:
            return None
        try:
            return open_mapped(local_copy(self._index.store, file.path, file.bytes, file.sha256), file.shape)
        except FileNotFoundError:
            reason = f"{self._index.store.uri_of(file.path)}: is missing"
        except UsageError:
            raise
        except (ObjectError, OSError, RuntimeError) as error:  # usearch raises RuntimeError
            reason = one_line(error)
        except ReembedError as error:
            reason = str(error)
        rows = sum(piece.rows for piece in file.pieces)
        _log.warning("index file %s; its %d rows are searched exactly: build the index again", reason, rows)
        return None

    def _served(self, usable: Sequence[tuple[_File, Any]]) -> list[str]:
        """Parts whose rows are all in usable files."""
        covered: dict[str, int] = defaultdict(int)
        for file, _ in usable:
            for piece in file.pieces:
                covered[piece.path] += piece.rows
        return sorted(path for path, rows in covered.items() if rows == self._rows.get(path))

    def _ask(
        self, file: _File, index: Any, query: Floats, k: int, served: Sequence[str], masks: Mapping[str, NDArray[np.bool_]]
    ) -> tuple[list[Hit], set[str]]:
        """Candidates of one file with the cosines that it tells, and parts of which it gives too few."""
        there = set(served)
        pieces = [piece for piece in file.pieces if piece.path in there]
        allowed = sum(_allowed(piece, masks) for piece in pieces)
        if not allowed:
            return [], set()
        share = allowed / max(1, file.rows)
        count = int(np.ceil(2 * k * (_TOKENS_A_TEXT if file.shape.tokens else 1) / min(1.0, share)))
        too_few = {piece.path for piece in pieces}
        if count > MOST_ASKED and share < 1:
            return [], too_few
        keys, told = nearest(index, query, count, file.expansion)
        found = _best_told(keys, told, file.shape.tokens)
        hits: list[Hit] = []
        for piece in pieces:
            for row, score in _of_piece(piece, found, masks.get(piece.path)):
                hits.append(Hit(score, piece.path, row))
        return (hits, set()) if len(hits) >= min(k, allowed) else ([], too_few)

    def _worth_scoring(self, candidates: Sequence[Hit], k: int) -> dict[str, NDArray[np.int64]]:
        """Rows by part: the 2k best told, less those that cannot be among the k best even if the index errs."""
        best = heapq.nlargest(2 * k, candidates)
        if len(best) > k and not self._schema.lists:
            error = max((_ERROR[file.shape.precision] for file in self._index.files), default=0.0)
            best = [hit for hit in best if hit.score >= best[k - 1].score - 2 * error]
        rows: dict[str, list[int]] = defaultdict(list)
        for hit in best:
            rows[hit.path].append(hit.row)
        return {path: np.unique(np.array(mine, np.int64)) for path, mine in rows.items()}


def _allowed(piece: _Piece, masks: Mapping[str, NDArray[np.bool_]]) -> int:
    mask = masks.get(piece.path)
    return piece.rows if mask is None else int(mask[piece.first : piece.first + piece.rows].sum())


def _best_told(keys: NDArray[np.uint64], told: Floats, tokens: bool) -> tuple[NDArray[np.int64], Floats]:
    """(rows of the shard, ascending, each once; the score told for each).

    For several query vectors the mean over them, as in MaxSim; a row that one of them did not find has there the lowest
    cosine that this one was told.
    """
    rows = row_of_key(keys, tokens=tokens)
    there = np.isfinite(told)
    unique = np.unique(rows[there])
    scores = np.empty((len(told), len(unique)), np.float32)
    for query, (mine, cosines) in enumerate(zip(rows, told, strict=True)):
        known = there[query]
        scores[query] = cosines[known].min() if known.any() else -1
        np.maximum.at(scores[query], np.searchsorted(unique, mine[known]), cosines[known])
    return unique, scores.mean(axis=0)


def _of_piece(
    piece: _Piece, found: tuple[NDArray[np.int64], Floats], mask: NDArray[np.bool_] | None
) -> list[tuple[int, float]]:
    """(row of the part, score) of those found that are in the piece and fulfil the condition."""
    rows = found[0] - piece.key_of_first_row
    inside = (rows >= piece.first) & (rows < piece.first + piece.rows)
    if mask is not None:
        inside[inside] = mask[rows[inside]]
    return list(zip(rows[inside].tolist(), found[1][inside].tolist(), strict=True))
