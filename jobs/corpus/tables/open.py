"""A table -> source objects, as a listing gives them.

    open_table      which snapshot, which files: by the format's module, which asks the table's own library
    source_objects  size and etag of every live file, from the store: one listing of the table's folder, one request for each
                    file outside of it
    pinned          what the run stores of the table, so that it reads the same snapshot whenever it is resumed

Nothing of a data file is read here.
"""

from __future__ import annotations

import contextlib
import difflib
import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa

from jobs.corpus.listing import SourceObject
from jobs.corpus.tables.delta import open_delta
from jobs.corpus.tables.hf import open_hf
from jobs.corpus.tables.iceberg import open_iceberg
from jobs.corpus.tables.lance import open_lance
from jobs.corpus.tables.snapshot import DataFile, TableSnapshot
from jobs.driver.preflight import bucket_of, require_endpoint
from workers.config import CorpusConfig, TableFormat
from workers.errors import TransientError, UsageError
from workers.reading.formats.registry import format_of
from workers.reading.typed.type_names import parse_type, shown_names, type_name
from workers.reading.widening import join, output_type
from workers.records.deleted_rows import deleted_count
from workers.records.pinned_table import PinnedTable
from workers.storage.client import filesystem
from workers.storage.objects import ObjectInfo, explore, stat_object
from workers.storage.uris import redact, scheme_of

STAT_THREADS = 48
_FORMATS: dict[TableFormat, Callable[[CorpusConfig], TableSnapshot]] = {
    TableFormat.DELTA: open_delta,
    TableFormat.ICEBERG: open_iceberg,
    TableFormat.LANCE: open_lance,
    TableFormat.HF: open_hf,
}
log = logging.getLogger("reembed")


def open_table(config: CorpusConfig, partition_by: Sequence[str] = ()) -> TableSnapshot:
    """The snapshot that corpus.table_version names, or the newest.

    Raises:
        UsageError: no such table or version, an empty one, one whose rows cannot be told exactly, a missing column, or a
            package that is not installed; the store did not answer.
    """
    if config.table is None:
        raise ValueError("no table is named")
    if scheme_of(config.uri[0]):
        require_endpoint(bucket_of(config.uri[0]), config.storage_options, "corpus.uri")
    try:
        table = _FORMATS[config.table](config)
    except TransientError as error:
        raise _unanswered(config, error) from None
    if not table.files:
        raise UsageError(f"{table.title} has no data files, so no rows; write some first, or correct corpus.table_version")
    _require_columns(table, config, partition_by)
    deleted = [deleted_count(file.deleted) for file in table.files if file.deleted]
    less = f", less {sum(deleted):,} deleted rows in {len(deleted):,} of them" if deleted else ""
    log.info("%s: %s data files%s", table.title.removeprefix("corpus.uri "), f"{len(table.files):,}", less)
    return table


def source_objects(table: TableSnapshot, config: CorpusConfig) -> list[SourceObject]:
    """The live data files as the store has them; sorted by URI.

    Raises:
        UsageError: a file is gone, its name does not tell its format, or the store did not answer.
    """
    files = _as_listed(table, config)
    try:
        listed = _listing(table, config) | {uri: file.info for uri, file in files.items() if file.info is not None}
        others = [uri for uri in files if uri not in listed]
        with ThreadPoolExecutor(max_workers=max(1, min(STAT_THREADS, len(others)))) as pool:
            listed |= dict(zip(others, pool.map(lambda uri: _stat(uri, table, config), others), strict=True))
    except TransientError as error:
        raise _unanswered(config, error) from None
    return [_source(listed[uri], files[uri], config) for uri in sorted(files)]


def pinned(
    table: TableSnapshot, wanted: Sequence[str], in_files: Sequence[Mapping[str, pa.DataType]] | None = None
) -> PinnedTable:
    """`wanted`: columns that the run reads. `in_files`: their types in each file, by which the table's are taken: of what no
    file has (null in every row), and of what may be narrower in older files.
    """
    kinds = {column.name: column.type for column in table.schema or ()}
    types = {name: _type_text(name, kinds[name]) for name in wanted if name in table.partition_columns and name in kinds}
    for name in wanted if in_files is not None else ():
        found = [known[name] for known in in_files or () if name in known]
        if name not in types and name in kinds and (not found or _holds_all(kinds[name], found)):
            types[name] = _type_text(name, kinds[name])
    return PinnedTable(
        table.format.value,
        redact(table.uri),
        table.version,
        tuple(table.columns[name] for name in wanted if name in table.columns),
        tuple(types.items()),
    )


def wanted_columns(config: CorpusConfig, partition_by: Sequence[str]) -> list[str]:
    """Columns that a run reads, in a settled order."""
    return list(dict.fromkeys([*([config.id] if config.id else []), *config.text, *config.keep, *partition_by]))


def _unanswered(config: CorpusConfig, error: TransientError) -> UsageError:
    return UsageError(
        f"corpus.uri {redact(config.uri[0])}: cannot be listed: {error}; check corpus.storage_options and the network"
    )


def _require_columns(table: TableSnapshot, config: CorpusConfig, partition_by: Sequence[str]) -> None:
    if table.schema is None:
        return
    for setting, names in (
        ("corpus.id", [config.id] if config.id else []),
        ("corpus.text", config.text),
        ("corpus.keep", config.keep),
        ("output.partition_by", partition_by),
    ):
        for name in names:
            if name not in table.schema.names:
                near = difflib.get_close_matches(name, table.schema.names, n=1)
                known = f"did you mean {near[0]}?" if near else f"its columns: {shown_names(table.schema.names)}"
                raise UsageError(f"{setting}: {table.title.removeprefix('corpus.uri ')} has no column {name}; {known}")


def _as_listed(table: TableSnapshot, config: CorpusConfig) -> dict[str, DataFile]:
    """The files by their URIs as a listing of the store spells them. Raises: UsageError: a file is named twice."""

    def spelled(uri: str) -> str:
        fs, path = filesystem(uri, config.storage_options)
        return str(fs.unstrip_protocol(path))

    folder = f"{table.folder.rstrip('/')}/" if table.folder else None
    root = f"{spelled(folder).rstrip('/')}/" if folder else ""
    found: dict[str, DataFile] = {}
    for file in table.files:
        inside = folder is not None and file.uri.startswith(folder)
        if file.info is not None:
            found[file.uri] = file
            continue
        name = root + file.uri.removeprefix(folder or "") if inside else spelled(file.uri)
        if name in found:
            raise UsageError(f"{table.title} names {redact(name)} twice; its records are damaged")
        found[name] = file
    return found


def _listing(table: TableSnapshot, config: CorpusConfig) -> dict[str, ObjectInfo]:
    if table.folder is None:
        return {}
    with contextlib.suppress(FileNotFoundError, NotADirectoryError, UsageError):  # then each file is asked for by itself
        return {info.uri: info for info in explore(f"{table.folder.rstrip('/')}/", config.storage_options).objects}
    return {}


def _stat(uri: str, table: TableSnapshot, config: CorpusConfig) -> ObjectInfo:
    try:
        return stat_object(uri, config.storage_options)
    except FileNotFoundError:
        raise UsageError(
            f"{table.title} names {redact(uri)}, which is gone (vacuumed, or expired); name a later corpus.table_version"
        ) from None


def _source(info: ObjectInfo, file: DataFile, config: CorpusConfig) -> SourceObject:
    source_format, compression = format_of(info.uri, config.source_format)
    return SourceObject(info, source_format, compression, file.partitions, file.row_groups, deleted=file.deleted)


def _holds_all(kind: pa.DataType, found: Sequence[pa.DataType]) -> bool:
    """Whether the table's type is one of a number, a date or a time that is wider than those of its files."""
    return (
        not pa.types.is_nested(kind)
        and any(kind != other for other in found)
        and all(join(output_type(kind), output_type(other)) == output_type(kind) for other in found)
    )


def _type_text(name: str, kind: pa.DataType) -> str:
    """In the notation of corpus.schema. Raises: UsageError: values of such a column cannot be read from texts."""
    text = "string" if pa.types.is_large_string(kind) or pa.types.is_string_view(kind) else type_name(kind)
    try:
        parse_type(text)
    except ValueError:
        raise UsageError(f"corpus.keep: the table's column {name} is {kind} and not in its files; leave it out") from None
    return text
