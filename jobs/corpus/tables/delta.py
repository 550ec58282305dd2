"""Delta Lake: the add actions of one version, as deltalake (delta-rs) reads the log.

Honoured: partition values of the log, column mapping (by name and by id), deletion vectors. Reader features that are not
known here are refused by name: rows would be read that are not the table's, or in another type.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pyarrow as pa
import pyarrow.types as pt

from jobs.corpus.tables.snapshot import DataFile, TableSnapshot, library, refused
from workers.config import CorpusConfig, TableFormat
from workers.errors import UsageError
from workers.reading.tables.credentials import object_store_options
from workers.records.deleted_rows import encode_rows
from workers.records.pinned_table import TableColumn
from workers.storage.uris import public_line, redact

_KNOWN = frozenset({"columnMapping", "deletionVectors", "timestampNtz", "v2Checkpoint", "vacuumProtocolCheck"})
_MODE = "delta.columnMapping.mode"
_ID, _PHYSICAL = "delta.columnMapping.id", "delta.columnMapping.physicalName"
_PARTITION = "partition."  # prefix of a partition's column among the add actions


def open_delta(config: CorpusConfig) -> TableSnapshot:
    """Raises: UsageError: no such table or version, or one that cannot be read exactly."""
    deltalake = library("deltalake", TableFormat.DELTA)
    uri, version = config.uri[0], _version(config)
    options = object_store_options(config)
    try:
        table = deltalake.DeltaTable(_encoded(uri), version=version, storage_options=options)
        schema = pa.schema(table.schema().to_arrow())
        fields = {field["name"]: field for field in json.loads(table.schema().to_json())["fields"]}
        metadata, features = table.metadata(), table.protocol().reader_features or []
    except Exception as error:  # noqa: BLE001 - its exceptions have no common class, and each is about the table
        raise _explained(config, version, error) from None
    unknown = sorted(set(features) - _KNOWN)
    if unknown:
        raise UsageError(
            f"corpus.uri {redact(uri)}: the Delta table needs the reader feature {', '.join(unknown)}, which is not read; "
            "drop it there (ALTER TABLE ... DROP FEATURE), or export the table"
        )
    mode = metadata.configuration.get(_MODE, "none")
    columns = {} if mode == "none" else {name: _column(field, mode) for name, field in fields.items()}
    _refuse_inner(config, schema, columns)
    try:
        actions = pa.table(table.get_add_actions(flatten=True))
        vectors = pa.table(table.deletion_vectors()) if "deletionVectors" in features else None
    except Exception as error:  # noqa: BLE001 - as above
        raise refused(config, error) from None
    root = uri.rstrip("/")
    deleted = {} if vectors is None else _deleted(vectors, unquote(table.table_uri))
    files = list(_files(actions, root, metadata.partition_columns, columns, deleted))
    if deleted:
        raise UsageError(f"corpus.uri {redact(uri)}: the Delta table has deletion vectors of files that it does not list")
    return TableSnapshot(
        TableFormat.DELTA, uri, str(table.version()), files, root, schema, columns, frozenset(metadata.partition_columns)
    )


def _encoded(uri: str) -> str:
    """As deltalake takes it: of local folders a URL, in which blanks and percent signs are encoded."""
    scheme, separator, rest = uri.partition("://")
    if separator and scheme not in ("file", "local"):
        return uri
    return Path(rest if separator else uri).expanduser().absolute().as_uri()


def _version(config: CorpusConfig) -> int | None:
    version = config.table_version
    if isinstance(version, str):
        if not version.isdecimal():
            raise UsageError(f"corpus.table_version {version}: a Delta table's version is a number, 0 or more")
        version = int(version)
    return version


def _explained(config: CorpusConfig, version: int | None, error: Exception) -> UsageError:
    if version is not None and ("version" in str(error).lower()):
        return UsageError(
            f"corpus.table_version {version}: the Delta table {redact(config.uri[0])} has no such version "
            f"({public_line(error)}); leave it out for the newest"
        )
    return refused(config, error)


def _column(field: Mapping[str, Any], mode: str) -> TableColumn:
    metadata = field["metadata"]
    return TableColumn(
        field["name"], int(metadata[_ID]) if mode == "id" else None, () if mode == "id" else (str(metadata[_PHYSICAL]),)
    )


def _refuse_inner(config: CorpusConfig, schema: pa.Schema, columns: Mapping[str, TableColumn]) -> None:
    """With column mapping the fields inside a column have other names in the files, too."""
    for name in config.keep if columns else ():
        if name in schema.names and _has_fields(schema.field(name).type):
            raise UsageError(
                f"corpus.keep: {name} is {schema.field(name).type}, whose fields have other names in the files of this "
                "Delta table (delta.columnMapping.mode), which are not read; leave it out"
            )


def _has_fields(kind: pa.DataType) -> bool:
    return pt.is_struct(kind) or any(_has_fields(kind.field(number).type) for number in range(kind.num_fields))


def _deleted(vectors: pa.Table, root: str) -> dict[str, str]:
    """Path of a data file below the table -> its deleted rows. A vector that is shorter than its file keeps the others."""
    found = {}
    for uri, keep in zip(vectors.column("filepath").to_pylist(), vectors.column("selection_vector"), strict=True):
        found[unquote(uri).removeprefix(root)] = encode_rows(np.flatnonzero(~keep.values.to_numpy(zero_copy_only=False)))
    return found


def _files(
    actions: pa.Table,
    root: str,
    partition_columns: list[str],
    columns: Mapping[str, TableColumn],
    deleted: dict[str, str],
) -> Iterator[DataFile]:
    """The live files. Takes from `deleted` what belongs to them."""
    values = {name: _texts(actions, name, columns) for name in partition_columns}
    for at, encoded in enumerate(actions.column("path").to_pylist()):
        path = unquote(encoded)  # the log's paths are URLs
        partitions = tuple((name, texts[at]) for name, texts in values.items())
        yield DataFile(path if "://" in path else f"{root}/{path}", partitions, deleted.pop(path, ""))


def _texts(actions: pa.Table, name: str, columns: Mapping[str, TableColumn]) -> list[str | None]:
    """A partition's values in the notation that readers parse."""
    stored = columns[name].names[0] if name in columns and columns[name].names else name
    column = _PARTITION + (name if _PARTITION + name in actions.column_names else stored)
    if column not in actions.column_names:  # not a single value
        return [None] * actions.num_rows
    texts: list[str | None] = actions.column(column).cast(pa.string()).to_pylist()
    return texts
