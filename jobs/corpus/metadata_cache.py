"""Metadata of the source's objects, kept by a run for the next one: an unchanged object is not opened again.

    runs/<run_id>/objects.parquet    one row an object: URI, size, etag, format, row groups, columns

save_metadata   by the run that read footers and samples
load_metadata   by the next one, which asks the MetadataCache while it plans (jobs/corpus/discovery.py)

Valid only for a corpus section that asks for the same columns, which the caller compares. Grows with objects and row groups.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import pyarrow as pa

from jobs.corpus.listing import Content, RowGroup, SourceObject, content_of
from jobs.corpus.sampling import SAMPLE_OBJECTS
from jobs.corpus.schema import Columns
from workers.reading.formats.registry import FORMATS
from workers.records.pinned_table import TableColumn
from workers.storage.objects import ObjectInfo
from workers.storage.store import Store
from workers.table.small_table import decode_table, encode_table

_SCHEMA = pa.schema(
    {
        "uri": pa.string(),
        "size": pa.int64(),
        "etag": pa.string(),
        "format": pa.string(),
        "rows": pa.list_(pa.int64()),  # of each row group; null where only reading tells
        "text_bytes": pa.list_(pa.int64()),
        "columns": pa.binary(),  # see _pack; null: the object was not among those sampled
    }
)
_NAMES, _EXACT, _WHOLE, _RULES = b"reembed.names", b"reembed.exact", b"reembed.whole", b"reembed.rules"
RULES = b"2"  # by which types are learned of an object: 2: INT96 timestamps are microseconds, samples are not blind
log = logging.getLogger("reembed")


@dataclass(frozen=True, slots=True)
class ObjectMetadata:
    """What is known of one object. `columns` None: it was not among those sampled."""

    format: str
    row_groups: tuple[RowGroup, ...] | None
    columns: Columns | None


class MetadataCache:
    """Metadata by object: by its name, or by its content where the store has a digest of that (S3)."""

    def __init__(self, known: Sequence[tuple[ObjectInfo, ObjectMetadata]], columns: Sequence[TableColumn] = ()) -> None:
        """`columns`: of a table, by which its files were asked for theirs."""
        self.table_columns = tuple(columns)
        self._by_name: Mapping[tuple[str, int, str], ObjectMetadata] = {
            (info.uri, info.size, info.etag): metadata for info, metadata in known
        }
        contents = [(content_of(info), metadata) for info, metadata in known]
        self._by_content: Mapping[Content, ObjectMetadata] = {
            content: metadata for content, metadata in contents if content is not None
        }
        self._pooled = {
            traits.format: _pool([metadata.columns for _, metadata in known if metadata.format == traits.format])
            for traits in FORMATS.values()
            if traits.sample  # a few objects speak for all
        }

    def get(self, source: SourceObject) -> tuple[SourceObject, Columns | None] | None:
        """The object with its row groups, and its columns; None: not known, read its metadata."""
        info, content = source.info, content_of(source.info)
        metadata = self._by_name.get((info.uri, info.size, info.etag))
        metadata = metadata or (self._by_content.get(content) if content else None)
        if metadata is None or metadata.format != source.format:
            return None
        return replace(source, row_groups=metadata.row_groups), metadata.columns

    def complete_samples(
        self, objects: Sequence[SourceObject], columns: list[Columns | None], cached: Collection[int]
    ) -> None:
        """Give columns to objects that were never sampled in place of sampled ones that are gone, so that the same types
        are inferred as before. `cached`: positions that `get` answered."""
        for source_format, pooled in self._pooled.items():
            of_format = [at for at, source in enumerate(objects) if source.format == source_format]
            wanted = SAMPLE_OBJECTS - sum(columns[at] is not None for at in of_format)
            unsampled = [at for at in of_format if columns[at] is None and at in cached]
            for at in unsampled[: max(0, wanted)] if pooled else ():
                columns[at] = pooled


def _pool(samples: Sequence[Columns | None]) -> Columns | None:
    """What the samples of one format say together; none of it proves that a column is missing."""
    types = {name: kind for sample in samples if sample for name, kind in sample.types.items()}
    return Columns(types, tuple(types), exact=False) if types else None


def save_metadata(store: Store, path: str, objects: Sequence[SourceObject], columns: Sequence[Columns | None]) -> None:
    """Store what is known; objects whose footer could not be read are left out and read again.

    Raises: UsageError, TransientError.
    """
    packed: dict[int, bytes] = {}  # id of Columns -> bytes: most objects share theirs
    rows = []
    for source, known in zip(objects, columns, strict=True):
        if source.problem is not None:
            continue
        groups = source.row_groups
        if known is not None and id(known) not in packed:
            packed[id(known)] = _pack(known)
        rows.append(
            (
                *(source.info.uri, source.info.size, source.info.etag, source.format.value),
                None if groups is None else [group.rows for group in groups],
                None if groups is None else [group.text_bytes for group in groups],
                None if known is None else packed[id(known)],
            )
        )
    cells = zip(*rows, strict=True) if rows else [()] * len(_SCHEMA)
    arrays = [pa.array(column, field.type) for column, field in zip(cells, _SCHEMA, strict=True)]
    store.put(path, encode_table(pa.Table.from_arrays(arrays, schema=_SCHEMA)))


def load_metadata(store: Store, path: str, table_columns: Sequence[TableColumn] = ()) -> MetadataCache | None:
    """None when there is none, or it is not readable: all metadata is read then. Raises: UsageError, TransientError."""
    try:
        table = decode_table(store.read(path)).cast(_SCHEMA)
        columns = [table.column(name).to_pylist() for name in _SCHEMA.names]
        unpacked = {packed: _unpack(packed) for packed in set(columns[-1]) if packed is not None}
    except FileNotFoundError:
        return None
    except (pa.ArrowException, ValueError, KeyError) as error:
        log.warning("%s: not readable (%s); objects are looked into again", store.uri_of(path), error)
        return None
    if None in unpacked.values():
        log.info("%s: made by an earlier version; objects are looked into again", store.uri_of(path))
        return None
    known = []
    for uri, size, etag, kind, rows, text_bytes, packed in zip(*columns, strict=True):
        groups = None if rows is None else tuple(map(RowGroup, rows, text_bytes))
        known.append((ObjectInfo(uri, size, etag), ObjectMetadata(kind, groups, unpacked.get(packed))))
    return MetadataCache(known, table_columns)


def _pack(columns: Columns) -> bytes:
    """Types as an Arrow schema; names and exactness in its metadata."""
    metadata = {_NAMES: json.dumps(columns.names).encode(), _EXACT: b"1" if columns.exact else b"", _RULES: RULES}
    metadata |= {_WHOLE: b"1" if columns.whole else b""}
    return bytes(pa.schema(dict(columns.types), metadata=metadata).serialize().to_pybytes())


def _unpack(packed: bytes) -> Columns | None:
    """None: learned by other rules."""
    schema = pa.ipc.read_schema(pa.py_buffer(packed))
    metadata = schema.metadata or {}
    if metadata.get(_RULES) != RULES:
        return None
    names = tuple(json.loads(metadata[_NAMES]))
    types = {column.name: column.type for column in schema}
    return Columns(types, names, exact=bool(metadata[_EXACT]), whole=bool(metadata.get(_WHOLE)))
