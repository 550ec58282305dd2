"""Records that the driver and the replicas exchange: an Assignment of a Shard, and a Receipt or a Failure in return.

They are small, frozen and can be written as JSON. They never contain text, tokens or vectors.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from workers.records.deleted_rows import deleted_count

TOKEN_BINS = (8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192)
"""Upper limits, inclusive, of the bins of a receipt's histogram of tokens; a last bin counts longer documents."""


@dataclass(frozen=True, slots=True)
class ObjectSlice:
    """Consecutive rows of one source object, as recorded in the manifest.

    Parquet: row groups `start` (inclusive) to `stop` (exclusive). Line formats: bytes `start` to `stop`; a line belongs
    to the slice in which its first byte lies. A whole object that cannot be split is `start=0, stop=size`.
    """

    uri: str
    size: int
    etag: str
    start: int
    stop: int
    rows: int | None = None  # known from Parquet footers; None: known only after reading
    first_row: int | None = None  # row number of the slice's first row within the object; None: not known
    partitions: tuple[tuple[str, str | None], ...] = ()  # Hive key=value pairs in the object's path, or a table's values
    deleted: str = ""  # rows that the object's table has deleted, among those of the slice (deleted_rows.py); not in `rows`

    @property
    def whole(self) -> bool:
        return self.start == 0

    @property
    def stored_rows(self) -> int | None:
        """Rows that lie in the object, deleted ones included."""
        return None if self.rows is None else self.rows + deleted_count(self.deleted)


def shard_name(number: int) -> str:
    """The shard's number as every file name has it: at least seven digits, so that names sort by number."""
    return f"{number:07d}"


@dataclass(frozen=True, slots=True)
class Shard:
    """The unit of work, of retry and of commit. Names of its files are made from `number`."""

    number: int
    slices: tuple[ObjectSlice, ...]
    text_bytes: int  # estimated bytes of source text
    carried: int | None = None  # shard of the base run whose parts hold exactly these rows: they are copied
    earlier: tuple[str, ...] = ()  # paths of parts of the base run that may hold vectors of these texts

    @property
    def rows(self) -> int | None:
        """Rows of the shard; None if a slice's count is known only after reading."""
        counts = [piece.rows for piece in self.slices]
        return None if None in counts else sum(count for count in counts if count is not None)

    @property
    def name(self) -> str:
        return shard_name(self.number)


@dataclass(frozen=True, slots=True)
class Assignment:
    """One attempt at a shard. A later attempt has a higher `epoch`, and may replace uncommitted parts of an earlier one."""

    shard: Shard
    epoch: int
    attempt: int
    exclude: tuple[tuple[str, str], ...] = ()  # (object uri, reason): reported by two replicas, quarantined as a whole
    suspect: bool = False  # a replica died while it held the shard: objects are first read in an isolated process


@dataclass(frozen=True, slots=True)
class OutputFile:
    """One file that a shard wrote; `path` is relative to the output root."""

    path: str
    rows: int
    bytes: int
    sha256: str
    rows_digest: str  # order-independent digest of (id, text_hash, chunk) over the file's rows


@dataclass(frozen=True, slots=True)
class Receipt:
    """The report of a finished shard. Writing it to storage commits the shard. Times are wall-clock seconds."""

    shard: int
    epoch: int
    rows_read: int  # source rows, including quarantined ones
    documents: int  # source rows embedded; rows_read == documents + quarantined_rows + excluded_rows
    rows: int  # output rows (differs from documents only when long texts become chunks)
    quarantined_rows: int
    lost_objects: tuple[str, ...]  # excluded objects whose number of rows is not known
    tokens: int
    padded_tokens: int
    truncated: int
    duplicate_ids: int  # documents whose id occurred before in this shard; their rows are kept
    files: tuple[OutputFile, ...]
    quarantine: OutputFile | None
    stage_seconds: dict[str, float]
    seconds: float
    replica: str
    adopted: bool = False  # the parts were written by an earlier attempt that died before its receipt
    source_digest: str = ""  # order-independent digest of (id, text_hash) over the documents embedded
    clipped: int = 0  # int8 output: components outside the calibrated range, which were clipped
    excluded: tuple[str, ...] = ()  # objects that two replicas could not read; their rows are in the quarantine
    carried_from: str | None = None  # the run whose parts were copied; nothing was read or embedded
    reused_rows: int = 0  # output rows whose vectors came from an earlier snapshot, carried ones included
    repeated_rows: int = 0  # output rows whose text occurred earlier in the shard: embedded once
    empty: int = 0  # documents that consist of white space
    token_histogram: tuple[int, ...] = ()  # documents embedded, by number of tokens: bins of TOKEN_BINS
    ended: float = 0.0  # Unix seconds, UTC
    probed: int = 0  # reused texts that were embedded again, to compare the vectors
    probe_cosine: float | None = None  # the smallest cosine among them
    overflowed: int = 0  # documents beyond float16's range, embedded once more in float32
    absent: tuple[str, ...] | None = None  # kept columns that no source row of the shard has; None: of an earlier version
    excluded_rows: int = 0  # documents left out by corpus.exclude

    def to_json(self) -> bytes:
        raw = _plain(self)  # not asdict(), which makes deep copies: the driver does this once per shard
        raw["files"] = [_plain(file) for file in self.files]
        raw["quarantine"] = _plain(self.quarantine) if self.quarantine else None
        return json.dumps(raw, sort_keys=True).encode()

    @classmethod
    def of_rows(
        cls, shard: int, epoch: int, files: Sequence[OutputFile], replica: str, *, seconds: float = 0.0, ended: float = 0.0
    ) -> Receipt:
        """Of rows that were derived from others: as many went out as came in, and none was embedded."""
        rows = sum(file.rows for file in files)
        return cls(
            shard=shard, epoch=epoch, rows_read=rows, documents=rows, rows=rows, quarantined_rows=0, lost_objects=(),
            tokens=0, padded_tokens=0, truncated=0, duplicate_ids=0, files=tuple(files), quarantine=None, stage_seconds={},
            seconds=seconds, replica=replica, ended=ended,
        )  # fmt: skip

    @classmethod
    def from_json(cls, data: bytes) -> Receipt:
        raw: dict[str, Any] = json.loads(data)
        raw["files"] = tuple(OutputFile(**item) for item in raw["files"])
        raw["quarantine"] = OutputFile(**raw["quarantine"]) if raw["quarantine"] else None
        raw["lost_objects"] = tuple(raw["lost_objects"])
        raw["excluded"] = tuple(raw.get("excluded", ()))
        raw["token_histogram"] = tuple(raw.get("token_histogram", ()))
        raw["absent"] = None if raw.get("absent") is None else tuple(raw["absent"])
        return cls(**raw)


def _plain(record: OutputFile | Receipt) -> dict[str, Any]:
    return {name: getattr(record, name) for name in record.__slots__}


class Blame(StrEnum):
    """Who an attempt's failure is charged to."""

    OBJECT = "object"  # one source object: two replicas must agree, then it is excluded
    SHARD = "shard"  # the attempt failed: counts against the shard
    NOBODY = "nobody"  # storage failure: retried, counted separately, up to a limit
    DISK = "disk"  # the node's local disk is full: tried on other replicas, then the run ends
    OUTPUT = "output"  # no room is left where the output is: the run ends
    REPLICA = "replica"  # the process must be replaced; its shards become suspects
    REQUEST = "request"  # the request itself cannot be carried out: the run ends at once


@dataclass(frozen=True, slots=True)
class Failure:
    """An attempt that ended without a receipt. `reason` tells the user what to do."""

    shard: int
    epoch: int
    blame: Blame
    reason: str
    object_uri: str | None = None
    rows_read: int = 0


@dataclass(frozen=True, slots=True)
class ReplicaStats:
    """A replica's totals since it started. The driver polls them for progress and to detect a stalled replica."""

    documents: int = 0  # encoded; not necessarily committed
    tokens: int = 0
    busy_seconds: float = 0.0  # in which the encoder was computing
    uptime_seconds: float = 0.0
    peak_memory_bytes: int = 0
    shards: tuple[int, ...] = ()  # in flight
    stage_seconds: dict[str, float] = field(default_factory=dict)
    batches: int = 0  # that the encoder has computed
    storage_retries: int = 0  # storage calls that were repeated
