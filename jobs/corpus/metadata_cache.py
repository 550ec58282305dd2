"""What a run learned of its objects from their footers and samples, kept for the next: an unchanged object is not opened.

    runs/<run_id>/objects.parquet    one row an object: URI, size, etag, format, row groups, columns

save_memory   by the run that looked
load_memory   by the next one; recall and fill answer while it plans (jobs/corpus/discovery.py)

Valid only for a corpus section that asks for the same columns, which the caller compares. Grows with objects and row groups.
"""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import pyarrow as pa
import pyarrow.parquet as pq

from jobs.corpus.listing import RowGroup, SourceObject
from jobs.corpus.sampling import SAMPLE_OBJECTS
from jobs.corpus.schema import Columns
from jobs.planning.matching import Content, content_of
from workers.config import SourceFormat
from workers.storage.objects import ObjectInfo
from workers.storage.store import Store

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
_SAMPLED = (SourceFormat.JSONL, SourceFormat.CSV)  # a few objects speak for all
_NAMES, _EXACT = b"reembed.names", b"reembed.exact"
log = logging.getLogger("reembed")


@dataclass(frozen=True, slots=True)
class Look:
    """What a look into an object told. `columns` None: it was not looked into."""

    format: str
    row_groups: tuple[RowGroup, ...] | None
    columns: Columns | None


class Memory:
    """Looks by object: found under its name, or by its content where the store tells that (S3)."""

    def __init__(self, looks: Sequence[tuple[ObjectInfo, Look]]) -> None:
        self._by_name: Mapping[tuple[str, int, str], Look] = {(info.uri, info.size, info.etag): look for info, look in looks}
        contents = [(content_of(info), look) for info, look in looks]
        self._by_content: Mapping[Content, Look] = {content: look for content, look in contents if content is not None}
        self._pooled = {kind: _pool([look.columns for _, look in looks if look.format == kind]) for kind in _SAMPLED}

    def recall(self, source: SourceObject) -> tuple[SourceObject, Columns | None] | None:
        """The object with its row groups, and its columns; None: look into it."""
        info, content = source.info, content_of(source.info)
        look = self._by_name.get((info.uri, info.size, info.etag)) or (self._by_content.get(content) if content else None)
        if look is None or look.format != source.format:
            return None
        return replace(source, row_groups=look.row_groups), look.columns

    def fill(self, objects: Sequence[SourceObject], columns: list[Columns | None], recalled: Collection[int]) -> None:
        """Let unsampled objects speak for sampled ones that are gone, so that the same types are settled as before."""
        for kind, pooled in self._pooled.items():
            of_kind = [at for at, source in enumerate(objects) if source.format == kind]
            wanted = SAMPLE_OBJECTS - sum(columns[at] is not None for at in of_kind)
            silent = [at for at in of_kind if columns[at] is None and at in recalled]
            for at in silent[: max(0, wanted)] if pooled else ():
                columns[at] = pooled


def _pool(looks: Sequence[Columns | None]) -> Columns | None:
    """What the samples of one format say together; none of it proves that a column is missing."""
    types = {name: kind for found in looks if found for name, kind in found.types.items()}
    return Columns(types, tuple(types), exact=False) if types else None


def save_memory(store: Store, path: str, objects: Sequence[SourceObject], columns: Sequence[Columns | None]) -> None:
    """Store what is known; objects whose footer could not be read are left out and looked into again.

    Raises: UsageError, TransientError.
    """
    packed: dict[int, bytes] = {}  # id of Columns -> bytes: most objects share theirs
    rows = []
    for source, found in zip(objects, columns, strict=True):
        if source.problem is not None:
            continue
        groups = source.row_groups
        if found is not None and id(found) not in packed:
            packed[id(found)] = _pack(found)
        rows.append(
            (
                *(source.info.uri, source.info.size, source.info.etag, source.format.value),
                None if groups is None else [group.rows for group in groups],
                None if groups is None else [group.text_bytes for group in groups],
                None if found is None else packed[id(found)],
            )
        )
    cells = zip(*rows, strict=True) if rows else [()] * len(_SCHEMA)
    arrays = [pa.array(column, field.type) for column, field in zip(cells, _SCHEMA, strict=True)]
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_arrays(arrays, schema=_SCHEMA), sink, compression="zstd", write_page_checksum=True)
    store.put(path, sink.getvalue())


def load_memory(store: Store, path: str) -> Memory | None:
    """None when there is none, or it is not readable: everything is looked into then. Raises: UsageError, TransientError."""
    try:
        table = pq.read_table(pa.BufferReader(store.read(path)), page_checksum_verification=True).cast(_SCHEMA)
        columns = [table.column(name).to_pylist() for name in _SCHEMA.names]
        unpacked = {packed: _unpack(packed) for packed in set(columns[-1]) if packed is not None}
    except FileNotFoundError:
        return None
    except (pa.ArrowException, ValueError, KeyError) as error:
        log.warning("%s: not readable (%s); objects are looked into again", store.uri_of(path), error)
        return None
    looks = []
    for uri, size, etag, kind, rows, text_bytes, packed in zip(*columns, strict=True):
        groups = None if rows is None else tuple(map(RowGroup, rows, text_bytes))
        looks.append((ObjectInfo(uri, size, etag), Look(kind, groups, unpacked.get(packed))))
    return Memory(looks)


def _pack(columns: Columns) -> bytes:
    """Types as an Arrow schema; names and exactness in its metadata."""
    told = {_NAMES: json.dumps(columns.names).encode(), _EXACT: b"1" if columns.exact else b""}
    return bytes(pa.schema(dict(columns.types), metadata=told).serialize().to_pybytes())


def _unpack(packed: bytes) -> Columns:
    schema = pa.ipc.read_schema(pa.py_buffer(packed))
    told = schema.metadata or {}
    names = tuple(json.loads(told[_NAMES]))
    return Columns({column.name: column.type for column in schema}, names, exact=bool(told[_EXACT]))
