"""One part of the output: its name, and how it is written and read. Nobody else knows that a part is Parquet.

    PartName         `part-<shard>[-<piece>].parquet`, built and parsed; index files beside them end otherwise
    path_in_run      where a part of one run stands in another that carries it over
    write_part       tables -> the file, one row group each, and its footer entries; write_columns without vectors
    open_part        a part on the store -> PartReader: footer, row groups, batches of chosen columns
    read_footer      the footer entries of a file in memory, whatever it is

A part of another format is one more file beside this one, with the same names. Encodings of vectors rest on
benchmarks/results/parquet_encoding_*.json and on who reads them (docs/readers.md, docs/decisions/0007):

    auto                 float32, float16 plain; int8, binary dictionary: every reader opens them
    plain                as it says; int8 and binary become larger than their raw size
    byte_stream_split    float32 9% smaller than plain; Spark before 4.3 cannot read it. Parts of version 0.1.0 have it

Pages carry a CRC, which is checked when a part is read: zstd decodes many a flipped byte without an error. Ids and hashes
hardly repeat, so a dictionary would only cost time; kept columns keep theirs. Statistics are written for columns that
someone may filter on, not for vectors and hashes.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, assert_never

import pyarrow as pa
import pyarrow.parquet as pq

from workers.config import VectorEncoding, VectorType
from workers.errors import ObjectError, one_line
from workers.records.documents import empty_table
from workers.records.shard import shard_name
from workers.storage.store import Store
from workers.storage.stream import EXACT, LEAST_BYTES, SourceStream
from workers.table.column_statistics import ColumnStatistics, column_statistics
from workers.table.paths import RunPaths, file_name
from workers.table.schema import ID, TEXT_HASH, OutputSchema
from workers.table.sparse import ENTRY_BYTES
from workers.table.vectors import VectorFormat

ROW_GROUP_BYTES = 32 << 20  # of vectors: one row group is one unit of a parallel scan and fits a worker's memory easily
ROW_GROUP_ROWS = 65_536
PAGE_BYTES = 256 << 10  # before compression; Arrow's 1 MiB leaves the second cache between encoding, zstd and checksum
ZSTD_LEVEL = 3  # of all other columns
_NAME = re.compile(r"part-(\d{7,})(?:-(\d+))?\.(parquet|[0-9a-f]{16}\.usearch)")
_FOREIGN = (pa.ArrowException, OSError, ValueError, KeyError)  # what pyarrow raises for bytes that make no sense


class ColumnEncoding(NamedTuple):
    """An encoding by Parquet's name of it (DICTIONARY: of the values, else PLAIN), and the level of zstd after it."""

    name: str
    zstd_level: int


_SPLIT = ColumnEncoding("BYTE_STREAM_SPLIT", 1)  # higher levels: slower by half and more, and no smaller
_PLAIN, _DICTIONARY = ColumnEncoding("PLAIN", ZSTD_LEVEL), ColumnEncoding("DICTIONARY", ZSTD_LEVEL)
_AUTO = {
    VectorType.FLOAT32: _PLAIN,
    VectorType.FLOAT16: _PLAIN,
    VectorType.INT8: _DICTIONARY,
    VectorType.BINARY: _DICTIONARY,
}


def column_encoding(vector: VectorType, choice: VectorEncoding) -> ColumnEncoding:
    """How vectors of that type are encoded under output.parquet.vector_encoding."""
    match choice:
        case VectorEncoding.AUTO:
            return _AUTO[vector]
        case VectorEncoding.PLAIN:
            return _PLAIN
        case VectorEncoding.BYTE_STREAM_SPLIT:
            return _SPLIT if vector is VectorType.FLOAT32 else _SPLIT._replace(zstd_level=ZSTD_LEVEL)
        case other:
            assert_never(other)


class PartDamaged(ObjectError):
    """The file is there and cannot be read as a part; `detail` is the decoder's message."""

    def __init__(self, uri: str, detail: str) -> None:
        super().__init__(uri, f"damaged ({detail})")
        self.detail = detail


@dataclass(frozen=True, slots=True)
class PartName:
    """File name of a part. It follows from the shard alone, so every attempt at a shard wants the same names."""

    shard: int
    piece: int | None = None  # None: the rows of the shard in this folder fit one part
    ending: str = "parquet"  # of an index file: 16 digits of its SHA-256, and usearch; it has no footer to tell it by

    def __str__(self) -> str:
        return f"part-{shard_name(self.shard)}{'' if self.piece is None else f'-{self.piece}'}.{self.ending}"

    def path(self, run_id: str, folder: str = "") -> str:
        """Relative to the output root; `folder`: of the partition values, '' for none."""
        return "/".join([RunPaths(run_id).data, *filter(None, [folder]), str(self)])

    @classmethod
    def parse(cls, path: str) -> PartName | None:
        """Of a file name or a path; None: it is no part's."""
        named = _NAME.fullmatch(file_name(path))
        if named is None:
            return None
        return cls(int(named[1]), None if named[2] is None else int(named[2]), named[3])


def path_in_run(path: str, run_id: str, shard: int, new_run_id: str, new_shard: int) -> str | None:
    """data/<run>/lang=de/part-<shard>-1.parquet -> data/<new run>/lang=de/part-<new shard>-1.parquet.

    None: `path` is no part of that shard in that run.
    """
    name, old = PartName.parse(path), RunPaths(run_id).data
    folder = path.rpartition("/")[0]
    if name is None or name.shard != shard or not f"{folder}/".startswith(f"{old}/"):
        return None
    return PartName(new_shard, name.piece, name.ending).path(new_run_id, folder[len(old) + 1 :])


def vector_bytes(schema: OutputSchema) -> int:
    """Bytes of one vector, in all columns that store it; of a sparse one those of one entry."""
    if schema.sparse:
        return ENTRY_BYTES
    kinds = [schema.type_of(column) for column in schema.vectors]
    return sum(int(kind.list_size * kind.value_type.bit_width // 8) for kind in kinds)


def row_group_rows(schema: OutputSchema, rows: int, vectors: int) -> int:
    """Rows of a row group in a part of that many rows and vectors."""
    per_row = max(1, vectors * vector_bytes(schema) // max(1, rows))
    return max(1, min(ROW_GROUP_ROWS, ROW_GROUP_BYTES // per_row))


def write_part(
    path: Path,
    groups: Iterable[pa.Table],
    schema: OutputSchema,
    footer: Callable[[], Mapping[str, str]],
    encoding: ColumnEncoding | VectorEncoding = VectorEncoding.AUTO,
) -> None:
    """Write each of `groups` (columns of schema.part) as a row group, then the footer entries, asked for at the end.

    One group is in memory at a time. `encoding`: of the vectors.

    Raises:
        OSError: disk full or not writable.
    """
    below = ".list.element" * (2 if schema.lists and not schema.sparse else 1)  # the vectors' components
    vectors = {
        form.column + below: column_encoding(form.vector, encoding) if isinstance(encoding, VectorEncoding) else encoding
        for form in schema.stamp.formats
    }
    _write(path, groups, schema.part, footer, vectors)


def write_columns(
    path: Path,
    groups: Iterable[pa.Table],
    schema: pa.Schema,
    footer: Callable[[], Mapping[str, str]],
    formats: Sequence[VectorFormat] = (),
) -> None:
    """As write_part, for any columns. `formats`: of those that are vectors. Raises: as write_part."""
    vectors = {_components(schema, form.column): _AUTO[form.vector] for form in formats if form.column in schema.names}
    _write(path, groups, schema, footer, vectors)


def _components(schema: pa.Schema, column: str) -> str:
    """The vectors' components, as Parquet names the column."""
    (leaf,) = (name for name in _leaves(schema) if name.startswith(f"{column}.list."))
    return leaf


def _write(
    path: Path,
    groups: Iterable[pa.Table],
    schema: pa.Schema,
    footer: Callable[[], Mapping[str, str]],
    vectors: Mapping[str, ColumnEncoding],
) -> None:
    """`vectors`: leaf column -> its encoding."""
    leaves = _leaves(schema)
    names = [name for name in leaves if name not in (*vectors, ID, TEXT_HASH)]
    dictionaries = [leaf for leaf, encoding in vectors.items() if encoding.name == "DICTIONARY"]
    others = {leaf: encoding.name for leaf, encoding in vectors.items() if encoding.name != "DICTIONARY"}
    with pq.ParquetWriter(
        path,
        schema,
        compression="zstd",
        compression_level={name: vectors[name].zstd_level if name in vectors else ZSTD_LEVEL for name in leaves},
        use_dictionary=[*names, *dictionaries],
        column_encoding=others or None,
        write_statistics=[ID, *names],
        write_page_checksum=True,
        data_page_size=PAGE_BYTES,
    ) as writer:
        for group in groups:
            writer.write_table(group, row_group_size=max(1, group.num_rows))
        writer.add_key_value_metadata(dict(footer()))


def read_footer(data: bytes) -> dict[str, str]:
    """Footer entries of a Parquet file held in memory; {} when it is none."""
    try:
        return _entries(pq.read_metadata(pa.BufferReader(data)))
    except (pa.ArrowException, OSError):
        return {}


class PartReader:
    """An open part. Made by open_part and part_in_memory."""

    def __init__(self, file: pq.ParquetFile, uri: str, stream: SourceStream | None = None) -> None:
        self.uri = uri
        self.schema: pa.Schema = file.schema_arrow
        self.footer = _entries(file.metadata)
        self._groups = [file.metadata.row_group(number) for number in range(file.num_row_groups)]
        self._file, self._stream = file, stream

    @property
    def rows(self) -> int:
        return int(self._file.metadata.num_rows)

    @property
    def row_groups(self) -> tuple[int, ...]:
        """Rows of each row group."""
        return tuple(group.num_rows for group in self._groups)

    @property
    def statistics(self) -> dict[str, ColumnStatistics]:
        """What the footer says of the values of each column; only of those that it tells something of."""
        return column_statistics(self._file.metadata)

    def row_bytes(self, columns: Sequence[str] | None = None) -> int:
        """Bytes of a row before compression, of all columns or of these: the mean of the row group with the largest rows."""
        return max((_group_bytes(group, columns) // max(1, group.num_rows) for group in self._groups), default=0)

    def row(self, number: int, columns: Sequence[str]) -> dict[str, Any]:
        """The cells of one row, counted from 0; its row group is read. Raises: IndexError, and as batches()."""
        for place, rows in enumerate(self.row_groups):
            if number < rows:
                for batch in self.batches(rows, columns, groups=[place]):
                    if number < batch.num_rows:
                        cells: dict[str, Any] = batch.slice(number, 1).to_pylist()[0]
                        return cells
                    number -= batch.num_rows
            number -= rows
        raise IndexError(f"{self.uri}: has no such row")

    def batches(
        self, rows: int, columns: Sequence[str] | None = None, *, groups: Sequence[int] | None = None, threads: bool = False
    ) -> Iterator[pa.RecordBatch]:
        """Up to `rows` rows at a time of the columns, in the order asked for; of all row groups, or of `groups`.

        `threads`: decode columns in parallel.

        Raises:
            PartDamaged: also for a column that is not there. TransientError, UsageError: the store.
        """
        names = None if columns is None else list(columns)
        with decoding(self.uri, self._stream):
            batches = iter(self._file.iter_batches(rows, row_groups=groups, columns=names, use_threads=threads))
        while True:
            with decoding(self.uri, self._stream):
                batch = next(batches, None)
                batch = batch if names is None or batch is None else batch.select(names)
            if batch is None:
                return
            yield batch


@contextlib.contextmanager
def open_part(store: Store, path: str, *, size: int | None = None, buffer_bytes: int = 0) -> Iterator[PartReader]:
    """A part on the store. Only what is read is fetched, and page checksums are verified.

    Args:
        size: bytes that it must have; a file of another size is not the one that is asked for.
        buffer_bytes: fetched at a time inside a column of a row group; 0: the whole column chunk in one request.

    Raises:
        FileNotFoundError: not there, or of another size. PartDamaged. TransientError, UsageError: the store.
    """
    with store.open(path, block=EXACT) as raw:
        there = raw.seek(0, os.SEEK_END)
        if size is not None and there != size:
            raise FileNotFoundError(f"{store.uri_of(path)}: has {there} bytes, not {size}")
        stream = SourceStream(raw, store.uri_of(path), there, LEAST_BYTES)
        with decoding(stream.uri, stream):
            file = pq.ParquetFile(stream, pre_buffer=False, buffer_size=buffer_bytes, page_checksum_verification=True)
            part = PartReader(file, stream.uri, stream)
        yield part


def part_in_memory(data: bytes, uri: str) -> PartReader:
    """A part whose digest the caller has compared, so page checksums are not verified again. Raises: PartDamaged."""
    with decoding(uri):
        return PartReader(pq.ParquetFile(pa.BufferReader(data)), uri)


@contextlib.contextmanager
def decoding(uri: str, stream: SourceStream | None = None) -> Iterator[None]:
    """Around code that decodes a part: a failure of the store is raised as it is, any other is the part's.

    Raises:
        PartDamaged. ObjectMissing, TransientError, UsageError: what the store said.
    """
    try:
        yield
    except _FOREIGN as error:
        if stream is not None and stream.failure is not None:
            raise stream.failure from None
        raise PartDamaged(uri, one_line(error)) from None


def _group_bytes(group: pq.RowGroupMetaData, columns: Sequence[str] | None) -> int:
    if columns is None:
        return int(group.total_byte_size)
    chunks = (group.column(number) for number in range(group.num_columns))
    return sum(
        chunk.total_uncompressed_size
        for chunk in chunks
        if any(chunk.path_in_schema == name or chunk.path_in_schema.startswith(f"{name}.") for name in columns)
    )


def _entries(metadata: pq.FileMetaData) -> dict[str, str]:
    entries = metadata.metadata or {}
    return {key.decode(): value.decode() for key, value in entries.items() if key != b"ARROW:schema"}


@functools.lru_cache(maxsize=64)
def _leaves(schema: pa.Schema) -> tuple[str, ...]:
    """Paths of the physical columns, as Parquet names them."""
    sink = pa.BufferOutputStream()
    pq.write_table(empty_table(schema), sink)
    parquet = pq.ParquetFile(pa.BufferReader(sink.getvalue())).schema
    return tuple(parquet.column(number).path for number in range(len(parquet.names)))
