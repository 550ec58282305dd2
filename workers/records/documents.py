"""Windows of documents, rows that cannot be embedded, and the digest over rows.

A window is a limited number of consecutive documents of one shard. Where it ends depends on the shard alone, never on timing
or hardware. Batches are cut from windows, so every attempt at a shard computes the same batches and the same bits.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from workers.config import CorpusConfig
from workers.records.digests import HASH_BYTES, Cells, hash_row, sum_rows
from workers.records.pinned_table import PinnedTable

WINDOW_ROWS = 8192  # enough documents that batches sorted by length need almost no padding
WINDOW_BYTES = 8 << 20  # UTF-8 bytes of text; with the queue lengths this bounds a replica's memory
TOKENS_WINDOW_BYTES = 256 << 10  # for pooling=tokens: some 60,000 vectors, 100 MB at 384 components
TEXT_HASH_BYTES = HASH_BYTES  # 16: BLAKE2b-128: by the birthday bound a collision among 2^48 documents has probability 2^-33

ID, TEXT = "id", "text"  # column names inside a window, whatever the source's columns are called
ROW_RULES = 2  # how bytes become rows. 1: quotes in .tsv are a writer's, and first bytes are not compared with names
OBJECT, ROW = "object", "row"  # where a document came from, to quarantine it if its vector is unusable
KEEP = "keep."  # prefix of kept columns inside a window, which avoids name collisions


@dataclass(frozen=True, slots=True)
class Exclusion:
    """The dedup output whose unwanted rows a run leaves out, and the list of them in the run's folder."""

    uri: str  # without credentials
    run_id: str  # of the dedup output
    rows: int  # listed; there are as many or fewer in the corpus
    sha256: str  # of the list


@dataclass(frozen=True, slots=True)
class ReadPlan:
    """How source rows become documents: fixed when the run is planned, stored with it, the same for every shard.

    `id_type`: int64 if the id column is an integer in every Parquet object, else string. `keep`: output types of the kept
    columns and of partition columns from the source's key=value folders. `window_bytes`: limit of a window's text.
    `row_rules`: those of the version that began the run, by which it also ends.
    """

    corpus: CorpusConfig
    id_type: pa.DataType
    keep: pa.Schema
    window_bytes: int = WINDOW_BYTES
    row_rules: int = ROW_RULES
    exclusion: Exclusion | None = None
    table: PinnedTable | None = None

    @property
    def stated(self) -> frozenset[str]:
        """Columns whose texts are read as values of the column's type, by corpus.schema or by the table."""
        return frozenset(self.corpus.types) | (
            frozenset(name for name, _ in self.table.types) if self.table else frozenset()
        )

    @property
    def schema(self) -> pa.Schema:
        """Schema of every window: id, text, object, row (null if not known), then the kept columns as `keep.<name>`."""
        fields = [
            pa.field(ID, self.id_type, nullable=False),
            pa.field(TEXT, pa.large_string(), nullable=False),
            pa.field(OBJECT, pa.dictionary(pa.int32(), pa.string()), nullable=False),
            pa.field(ROW, pa.int64()),
        ]
        return pa.schema(fields + [column.with_name(KEEP + column.name) for column in self.keep])


@dataclass(frozen=True, slots=True)
class QuarantinedRow:
    """A source row that is not embedded. `rows`: 1, or for a whole object its number of rows (None: not known)."""

    object: str
    row: int | None
    id: str | None
    reason: str
    rows: int | None = 1


@dataclass(slots=True)
class DocumentWindow:
    """Consecutive documents of a shard. `table` has ReadPlan.schema; `rows_read` counts documents, quarantined rows and
    `excluded_rows` (documents that corpus.exclude leaves out: they are not in the table).

    `seen`: kept columns that at least one of the rows has, be it null there.
    """

    index: int
    table: pa.Table
    rows_read: int
    quarantined: list[QuarantinedRow] = field(default_factory=list)
    seen: frozenset[str] = frozenset()
    excluded_rows: int = 0


def empty_table(schema: pa.Schema) -> pa.Table:
    """No rows. pyarrow's own method cannot make columns of extension types inside others."""
    return pa.Table.from_arrays([pa.nulls(0, column.type) for column in schema], schema=schema)


def text_hash(text: str) -> bytes:
    """BLAKE2b-128 of the document's UTF-8 text, before prompt and truncation."""
    return hashlib.blake2b(text.encode(), digest_size=TEXT_HASH_BYTES).digest()


class RowsDigest:
    """Order-independent digest of a multiset of rows: the sum of BLAKE2b-128 row hashes modulo 2^128.

    The digest of a union is the sum of the digests, so parts, shards and snapshots are compared without sorting rows.
    This is the additive multiset hash of Clarke et al., "Incremental Multiset Hash Functions" (ASIACRYPT 2003), without a
    key: it detects errors, not forgery.
    """

    def __init__(self, value: int = 0) -> None:
        self._value = value

    def add(self, *cells: Any) -> None:
        """Add one row."""
        self._value = (self._value + hash_row(cells)) % (1 << 128)

    def add_rows(self, rows: int, columns: Sequence[Cells]) -> None:
        """Add many rows: the cells of each are those of the columns, which have no nulls. The same as `add` row by row."""
        self._value = (self._value + sum_rows(rows, columns)) % (1 << 128)

    def merge(self, other: RowsDigest | str) -> None:
        """Add all rows of another digest, or of its hexadecimal form."""
        value = int(other, 16) if isinstance(other, str) else other._value
        self._value = (self._value + value) % (1 << 128)

    def __str__(self) -> str:
        return f"{self._value:032x}"
