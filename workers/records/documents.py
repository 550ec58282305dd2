"""What flows from the reader to the writer: windows of documents, and the rows that cannot be embedded.

A window is a bounded run of consecutive documents of one shard. Its border is a function of the shard alone (never of
timing or hardware), so batches cut from it are the same on every attempt: that is what makes re-runs bit-identical.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from workers.config import CorpusConfig

WINDOW_ROWS = 8192  # enough documents for length sorting to leave almost no padding
WINDOW_BYTES = 8 << 20  # UTF-8 bytes of text; what bounds a replica's memory together with the queue lengths
TOKENS_WINDOW_BYTES = 256 << 10  # where every token keeps its vector: some 60,000 vectors, 100 MB at 384 components
TEXT_HASH_BYTES = 16  # BLAKE2b-128: no accidental collision in 2^48 documents

ID, TEXT = "id", "text"  # column names inside a window, whatever the source calls them
OBJECT, ROW = "object", "row"  # where a document came from, for the quarantine of vectors that turn out bad
KEEP = "keep."  # prefix of kept columns inside a window, so that no name can collide


@dataclass(frozen=True, slots=True)
class ReadPlan:
    """How source rows become documents: settled once when the run is planned, stored with it, the same for every shard.

    `id_type` is int64 when every Parquet source column is an integer, else string. `keep` holds the output types of the
    kept columns and of partition columns taken from the source's key=value folders. `window_bytes`: most text of one window.
    """

    corpus: CorpusConfig
    id_type: pa.DataType
    keep: pa.Schema
    window_bytes: int = WINDOW_BYTES

    @property
    def schema(self) -> pa.Schema:
        """Schema of every window: id, text, object, row (null where not known), then the kept columns as `keep.<name>`."""
        fields = [
            pa.field(ID, self.id_type, nullable=False),
            pa.field(TEXT, pa.large_string(), nullable=False),
            pa.field(OBJECT, pa.dictionary(pa.int32(), pa.string()), nullable=False),
            pa.field(ROW, pa.int64()),
        ]
        return pa.schema(fields + [column.with_name(KEEP + column.name) for column in self.keep])


@dataclass(frozen=True, slots=True)
class QuarantinedRow:
    """A source row that is not embedded. `rows` is 1, or for a whole object its number of rows (None: not known)."""

    object: str
    row: int | None
    id: str | None
    reason: str
    rows: int | None = 1


@dataclass(slots=True)
class DocumentWindow:
    """Consecutive documents of a shard: `table` follows ReadPlan.schema. rows_read counts documents and quarantined rows."""

    index: int
    table: pa.Table
    rows_read: int
    quarantined: list[QuarantinedRow] = field(default_factory=list)


def text_hash(text: str) -> bytes:
    """BLAKE2b-128 of the document's UTF-8 text, before prompt and truncation."""
    return hashlib.blake2b(text.encode(), digest_size=TEXT_HASH_BYTES).digest()


class RowsDigest:
    """Order-independent digest of a multiset of rows: the sum of BLAKE2b-128 row hashes modulo 2^128.

    Adding digests adds multisets, so parts, shards and snapshots can be compared without sorting anything.
    """

    def __init__(self, value: int = 0) -> None:
        self._value = value

    def add(self, *cells: Any) -> None:
        hasher = hashlib.blake2b(digest_size=16)
        for cell in cells:
            data = cell if isinstance(cell, bytes) else str(cell).encode("utf-8", "surrogatepass")
            hasher.update(len(data).to_bytes(8, "little") + data)
        self._value = (self._value + int.from_bytes(hasher.digest(), "little")) % (1 << 128)

    def merge(self, other: RowsDigest | str) -> None:
        value = int(other, 16) if isinstance(other, str) else other._value
        self._value = (self._value + value) % (1 << 128)

    def __str__(self) -> str:
        return f"{self._value:032x}"
