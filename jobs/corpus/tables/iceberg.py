"""Iceberg: the data files of one snapshot, as pyiceberg plans a scan of it.

The table is named by its metadata file (`.../00003-....metadata.json`), by its folder where that holds a version hint, or by
its name in a catalogue that corpus.table_options describes. Honoured: positional deletes (Parquet) and deletion vectors
(Puffin), renamed, dropped and added columns (by field id, or the table's name mapping), identity partitions of files that
lack the column. Refused by name: equality deletes, data files that are not Parquet, columns with a default for older files.
"""

from __future__ import annotations

import io
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from jobs.corpus.tables.snapshot import DataFile, TableSnapshot, library, refused
from workers.config import CorpusConfig, TableFormat
from workers.errors import UsageError
from workers.reading.footers.table_columns import inner_fields
from workers.reading.tables.credentials import file_io_properties
from workers.records.deleted_rows import encode_rows
from workers.records.pinned_table import TableColumn
from workers.storage.client import filesystem, patiently
from workers.storage.uris import redact
from workers.table.partitions import Partitions

_CATALOG_NAME = "default"


def open_iceberg(config: CorpusConfig) -> TableSnapshot:
    """Raises: UsageError: no such table or snapshot, or one that cannot be read exactly."""
    library("pyiceberg.table", TableFormat.ICEBERG)
    name = f"corpus.uri {redact(config.uri[0])}: the Iceberg table"
    try:
        table = _table(config)
    except Exception as error:  # noqa: BLE001 - of catalogues, files and HTTP clients, which share no class
        raise refused(config, error) from None
    snapshot, schema = _snapshot(table, config)
    if snapshot is None:
        raise UsageError(f"{name} has no snapshot, so no rows; write some first")
    columns = {column.name: column for column in _columns(schema, table)}
    for field in schema.fields:
        if getattr(field, "initial_default", None) is not None and field.name in _wanted(config):
            raise UsageError(f"{name} gives column {field.name} a default in older files, which is not read; rewrite them")
    try:
        tasks = list(table.scan(snapshot_id=snapshot.snapshot_id).plan_files())
    except Exception as error:  # noqa: BLE001 - as above
        if "equality delete" in str(error).lower():
            raise UsageError(_EQUALITY.format(name=name)) from None
        raise refused(config, error) from None
    _refuse(tasks, name)
    deleted = _deleted(tasks, config)
    files = [
        DataFile(_uri(task.file.file_path), _partitions(task.file, table, schema), deleted.get(task.file.file_path, ""))
        for task in tasks
    ]
    partitioned = frozenset(column for file in files for column, _ in file.partitions)
    return TableSnapshot(
        TableFormat.ICEBERG,
        config.uri[0],
        str(snapshot.snapshot_id),
        files,
        table.location() if "://" in table.location() or table.location().startswith("/") else None,
        schema.as_arrow(),
        columns,
        partitioned,
    )


_EQUALITY = (
    "{name} has equality deletes, which are not read; let its engine rewrite the data files (rewrite_data_files, "
    "compaction), or export it"
)


def _table(config: CorpusConfig) -> Any:
    from pyiceberg.catalog import load_catalog
    from pyiceberg.table import StaticTable

    uri, properties = config.uri[0], file_io_properties(config)
    if "/" in uri:
        return StaticTable.from_metadata(uri.rstrip("/"), properties)
    catalog = load_catalog(str(properties.pop("name", _CATALOG_NAME)), **properties)
    return catalog.load_table(uri)


def _snapshot(table: Any, config: CorpusConfig) -> tuple[Any, Any]:
    """The snapshot, and the schema by which it is read: today's for the newest and for a branch, else the snapshot's own."""
    version = config.table_version
    if version is None:
        return table.current_snapshot(), table.schema()
    number = int(version) if isinstance(version, int) or version.isdecimal() else None
    reference = None if number is not None else table.metadata.refs.get(version)
    snapshot = table.snapshot_by_id(number) if number is not None else table.snapshot_by_name(version) if reference else None
    if snapshot is None:
        known = ", ".join(str(entry.snapshot_id) for entry in table.history()[-3:]) or "none"
        raise UsageError(
            f"corpus.table_version {version}: the Iceberg table {redact(config.uri[0])} has no such snapshot, branch or tag "
            f"(its last snapshots: {known})"
        )
    branch = reference is not None and str(getattr(reference.snapshot_ref_type, "value", "")) == "branch"
    if branch or snapshot.schema_id is None:
        return snapshot, table.schema()
    return snapshot, table.schemas()[snapshot.schema_id]


def _columns(schema: Any, table: Any) -> Iterator[TableColumn]:
    """Names that files without field ids may have for a column are those of the table's name mapping."""
    named: dict[int, tuple[str, ...]] = {}
    for field in table.name_mapping() or ():
        if field.field_id is not None:
            named[field.field_id] = tuple(field.names)
    arrow = schema.as_arrow()
    for field in schema.fields:
        names = named.get(field.field_id, ())
        yield TableColumn(field.name, field.field_id, names, tuple(inner_fields(arrow.field(field.name).type)))


def _wanted(config: CorpusConfig) -> set[str]:
    return {*([config.id] if config.id else []), *config.text, *config.keep}


def _refuse(tasks: Iterable[Any], name: str) -> None:
    """Raises: UsageError: a file that cannot be read exactly."""
    for task in tasks:
        if task.file.file_format.value != "PARQUET":
            raise UsageError(f"{name} has data files in {task.file.file_format.value}, which are not read; rewrite them")
        for delete in task.delete_files:
            if delete.content.value == 2:
                raise UsageError(_EQUALITY.format(name=name))


def _deleted(tasks: Iterable[Any], config: CorpusConfig) -> dict[str, str]:
    """Path of a data file -> its deleted rows: of every delete file that the scan says applies to it."""
    wanted: dict[str, list[tuple[str, str]]] = defaultdict(list)  # delete file -> data files
    for task in tasks:
        for delete in task.delete_files:
            wanted[delete.file_path].append((task.file.file_path, delete.file_format.value))
    rows: dict[str, list[Any]] = defaultdict(list)
    for path, data_files in wanted.items():
        positions = _positions(path, data_files[0][1], config)
        for data_file, _ in data_files:
            if data_file in positions:
                rows[data_file].append(positions[data_file])
    return {path: encode_rows(np.concatenate(found)) for path, found in rows.items()}


def _positions(path: str, kind: str, config: CorpusConfig) -> Mapping[str, Any]:
    """Data file -> positions, of one delete file. Raises: UsageError: it is gone or of another format."""
    fs, place = filesystem(_uri(path), config.storage_options)
    try:
        content = patiently(lambda: fs.cat_file(place), path)
    except FileNotFoundError:
        raise UsageError(
            f"corpus.uri {redact(config.uri[0])}: {redact(path)} is gone (expired); name a later corpus.table_version"
        ) from None
    if kind == "PUFFIN":
        return _vectors(content)
    if kind != "PARQUET":
        raise UsageError(f"corpus.uri {redact(config.uri[0])}: delete files in {kind} are not read; rewrite them")
    table = pq.read_table(io.BytesIO(content), columns=["file_path", "pos"])
    files = table.column("file_path").cast(pa.string()).combine_chunks().dictionary_encode()
    codes, positions = files.indices.to_numpy(), table.column("pos").to_numpy()
    return {file: positions[codes == code] for code, file in enumerate(files.dictionary.to_pylist())}


def _vectors(content: bytes) -> dict[str, Any]:
    """Data file -> positions, of a Puffin file of deletion vectors."""
    from pyiceberg.table.deletion_vector import deletion_vectors_from_puffin_file
    from pyiceberg.table.puffin import PuffinFile

    vectors = deletion_vectors_from_puffin_file(PuffinFile(content))
    return {vector.referenced_data_file: vector.to_vector().to_numpy() for vector in vectors}


def _uri(path: str) -> str:
    """Hadoop writes `file:/folder` where URIs have `file:///folder`."""
    return f"file://{path.removeprefix('file:')}" if path.startswith("file:/") and not path.startswith("file://") else path


def _partitions(file: Any, table: Any, schema: Any) -> Partitions:
    """Columns by whose values the files are divided as they are (identity), as texts that readers parse."""
    spec = table.specs()[file.spec_id]
    found = []
    for place, field in enumerate(spec.fields):
        name = schema.find_column_name(field.source_id)
        if name is not None and "." not in name and str(field.transform) == "identity":
            found.append((name, _text(file.partition[place], schema.find_field(field.source_id).field_type)))
    return tuple(found)


def _text(value: Any, kind: Any) -> str | None:
    from pyiceberg.io.pyarrow import schema_to_pyarrow

    if value is None or isinstance(value, str):
        return value
    return str(pa.scalar(value, schema_to_pyarrow(kind)).cast(pa.string()).as_py())
