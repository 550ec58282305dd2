"""What a source format is to the rest of the program: one row of traits, declared by the format's own module.

    FormatTraits    how objects of the format are recognised, split, described without reading them whole, and read

Whoever plans, samples or reads asks the traits and names no format. workers/reading/formats/registry.py lists them all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from workers.config import CorpusConfig, SourceFormat
from workers.reading.footers.facts import FooterReader
from workers.reading.source_rows import SourceRows
from workers.records.documents import ReadPlan
from workers.records.shard import ObjectSlice
from workers.storage.stream import SourceStream
from workers.storage.uris import redact

COMPRESSIONS = {".gz": "gzip", ".zst": "zstd", ".bz2": "bz2"}
"""File name suffix -> codec name as pyarrow spells it."""


class Split(StrEnum):
    """How a large object is split into slices."""

    GROUPS = "groups"  # by the row groups that its footer lists (Arrow calls them record batches, ORC stripes)
    RECORDS = "records"  # by byte ranges that begin at record borders
    NONE = "none"  # not at all


@dataclass(frozen=True, slots=True)
class HeadSample:
    """What an object's first bytes tell of its columns."""

    names: tuple[str, ...]
    exact: bool
    """A column that is not named does not exist (a header); otherwise it may come later (sampled records)."""
    records: list[dict[str, Any]] = field(default_factory=list)
    """Records with typed values. None where all values are strings."""


ReadRows = Callable[[SourceStream, ObjectSlice, ReadPlan, str | None], Iterator[SourceRows]]
"""The rows of a slice; the last argument is the codec of an object that is compressed as a whole.

Raises: ObjectError, TransientError.
"""
RecordStarts = Callable[[SourceStream, ObjectSlice, CorpusConfig], Iterator[int]]
"""Byte offset of every record of a whole object that is not compressed, in order. Raises: ObjectError, TransientError."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FormatTraits:
    """One format."""

    format: SourceFormat
    title: str
    """As messages name it."""
    suffixes: tuple[str, ...]
    """Of object names, lower case, without a compression's suffix."""
    read: ReadRows
    random_access: bool
    """The reader asks for the byte ranges that it needs; otherwise it streams through the object."""
    split: Callable[[CorpusConfig], Split]
    group: str = "row group"
    """What the format calls a row group."""
    record_starts: RecordStarts | None = None
    """For Split.RECORDS."""
    enter_anywhere: bool = False
    """Split.RECORDS: the next record border can be found from any byte. Otherwise only by a scan from the object's start."""
    compresses: str | None = None
    """What the format compresses by itself. Such an object cannot also be compressed as a whole; None: it can."""
    has_id_column: bool = True
    """Otherwise ids are always made from row numbers, so slices need exact first rows."""
    typed_ids: bool = False
    """Its schema has types, so that a corpus of integer ids keeps them as int64; otherwise ids are strings."""
    empty_has_no_rows: bool
    """An object of zero bytes is valid and has no rows; otherwise it is damaged."""
    signature: bytes = b""
    """By which its objects begin, where they do. Only of formats with a footer."""
    footer: FooterReader | None = None
    """How schema and row groups are learned. Exactly one of footer, sample and columns is set."""
    sample: Callable[[bytes, bool, str, CorpusConfig], HeadSample | None] | None = None
    """(first decompressed bytes, whether they are all, URI, corpus) -> columns; None where the bytes tell nothing.

    Raises: ObjectError: no row of the object can be read. UsageError: a setting contradicts the object.
    """
    columns: tuple[str, ...] | None = None
    """The same columns in every object, all of strings: nothing needs to be opened."""
    examine: Callable[[bytes, bool, str, CorpusConfig], str | None] | None = None
    """(as for `sample`) -> why an object that begins so is refused as a whole, and the mend; None: it is not."""
    resolve: Callable[[bytes, bool], SourceFormat | None] | None = None
    """For a name that does not tell the format: (first decompressed bytes, whether they are all) -> the format by content;
    None: more bytes are needed. What it says of a beginning it must say of every longer one."""
    record_bytes: Callable[[bytes, CorpusConfig], float | None] | None = None
    """(first bytes of a slice, corpus) -> mean bytes of a record as stored. None: a record counts as its text."""


def always(split: Split) -> Callable[[CorpusConfig], Split]:
    """The split of a format that no setting changes."""
    return lambda _corpus: split


def strip_compression(uri: str) -> tuple[str, str | None]:
    """The object's name in lower case without a compression's suffix, and the codec (None: not compressed)."""
    name = redact(uri).rpartition("/")[2].lower()
    for suffix, codec in COMPRESSIONS.items():
        if name.endswith(suffix):
            return name.removesuffix(suffix), codec
    return name, None
