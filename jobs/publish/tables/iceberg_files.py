"""Iceberg's manifests on the output's store: pyiceberg's Avro writers and readers over objects in memory."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from jobs.publish.tables.bounds import bounds_of
from jobs.publish.tables.table import TablePart
from workers.host.optional_package import optional_package
from workers.storage.store import Store

_CODEC = "deflate"
_VERSION = 2  # of the format


def require_pyiceberg() -> None:
    """Raises: UsageError: it is not installed."""
    optional_package("pyiceberg.table", "iceberg", "output.table: iceberg")


def write_manifests(
    store: Store,
    stem: str,
    shape: tuple[Any, Any],
    identity: tuple[int, int | None, int],
    parts: Sequence[TablePart],
    before: Sequence[Any],
) -> str:
    """Put the manifests of a snapshot and their list below `stem`; returns the list's URI.

    Args:
        shape: pyiceberg's Schema and PartitionSpec. identity: id of the snapshot, of its parent, sequence number.
        before: entries of the files that the snapshot deletes.
    """
    from pyiceberg.manifest import ManifestEntry, ManifestEntryStatus, write_manifest, write_manifest_list

    (columns, spec), (snapshot_id, parent, sequence) = shape, identity
    manifests = []
    if parts:
        sink = _sink(store, f"{stem}-added.avro")
        with write_manifest(_VERSION, spec, columns, sink, snapshot_id, _CODEC) as writer:
            for part in parts:
                entry = ManifestEntry.from_args(
                    status=ManifestEntryStatus.ADDED,
                    snapshot_id=snapshot_id,
                    data_file=_data_file(store, part, columns, spec),
                )
                writer.add(entry)
        manifests.append(writer.to_manifest_file())
        store.put(f"{stem}-added.avro", sink.data)
    if before:
        sink = _sink(store, f"{stem}-deleted.avro")
        with write_manifest(_VERSION, spec, columns, sink, snapshot_id, _CODEC) as writer:
            for entry in before:
                writer.delete(entry)
        manifests.append(writer.to_manifest_file())
        store.put(f"{stem}-deleted.avro", sink.data)
    sink = _sink(store, f"{stem}-list.avro")
    with write_manifest_list(_VERSION, sink, snapshot_id, parent, sequence, _CODEC) as listed:
        listed.add_manifests(manifests)
    store.put(f"{stem}-list.avro", sink.data)
    return str(sink.location)


def manifests_of(store: Store, manifest_list: str) -> list[Any]:
    """The manifests of a snapshot. Raises: FileNotFoundError, ValueError, UsageError, TransientError."""
    from pyiceberg.manifest import read_manifest_list

    return list(read_manifest_list(_source(store, manifest_list)))


def entries_of(store: Store, manifest: Any) -> list[Any]:
    """The live files of a manifest. Raises: as manifests_of()."""
    from pyiceberg.io import FileIO

    class StoreIO(FileIO):  # type: ignore[misc]  # an untyped base
        def new_input(self, location: str) -> Any:
            return _source(store, location)

        def new_output(self, location: str) -> Any:
            raise NotImplementedError(location)

        def delete(self, location: Any) -> None:
            raise NotImplementedError(location)

    return list(manifest.fetch_manifest_entry(StoreIO({}), discard_deleted=True))


def _data_file(store: Store, part: TablePart, columns: Any, spec: Any) -> Any:
    from pyiceberg.conversions import to_bytes
    from pyiceberg.manifest import DataFile, DataFileContent, FileFormat
    from pyiceberg.typedef import Record

    nulls, least, most, counts = {}, {}, {}, {}
    for name, known in part.statistics.items():
        field = columns.find_field(name)
        counts[field.field_id] = part.file.rows
        if known.nulls is not None:
            nulls[field.field_id] = known.nulls
        if (bounds := bounds_of(known)) is not None:
            least[field.field_id], most[field.field_id] = (to_bytes(field.field_type, bound) for bound in bounds)
    data_file = DataFile.from_args(
        _table_format_version=_VERSION,
        content=DataFileContent.DATA,
        file_path=store.uri_of(part.file.path),
        file_format=FileFormat.PARQUET,
        partition=Record(
            *(_value(part.values[field.name], columns.find_field(field.name).field_type) for field in spec.fields)
        ),
        record_count=part.file.rows,
        file_size_in_bytes=part.file.bytes,
        value_counts=counts,
        null_value_counts=nulls,
        nan_value_counts={},
        lower_bounds=least,
        upper_bounds=most,
        sort_order_id=None,
    )
    data_file.spec_id = spec.spec_id
    return data_file


def _value(text: str | None, kind: Any) -> Any:
    """A partition value, from the text in the part's footer, as manifests have it."""
    from pyiceberg.io.pyarrow import schema_to_pyarrow
    from pyiceberg.partitioning import _to_partition_representation

    value = None if text is None else pa.scalar(text).cast(schema_to_pyarrow(kind)).as_py()
    return _to_partition_representation(kind, value)


def _source(store: Store, location: str) -> Any:
    from pyiceberg.io import InputFile

    data = store.read(location.removeprefix(store.uri_of("")))

    class Source(InputFile):  # type: ignore[misc]  # an untyped base
        def __len__(self) -> int:
            return len(data)

        def exists(self) -> bool:
            return True

        def open(self, seekable: bool = True) -> Any:  # noqa: ARG002 - of the base
            return io.BytesIO(data)

    return Source(location)


def _sink(store: Store, path: str) -> Any:
    from pyiceberg.io import OutputFile

    class Kept(io.BytesIO):
        def close(self) -> None:
            """The writer closes its stream before it is asked for its bytes."""

    stream = Kept()

    class Sink(OutputFile):  # type: ignore[misc]  # an untyped base
        @property
        def data(self) -> bytes:
            return stream.getvalue()

        def __len__(self) -> int:
            return len(stream.getvalue())

        def exists(self) -> bool:
            return False

        def to_input_file(self) -> Any:
            raise NotImplementedError(path)

        def create(self, overwrite: bool = False) -> Any:  # noqa: ARG002 - of the base
            return stream

    return Sink(store.uri_of(path))
