"""Iceberg tables for tests: a SQLite catalogue, and what pyiceberg reads and does not write: delete files.

    catalog         a catalogue below a folder
    add_deletes     a snapshot that adds one delete file, written by pyiceberg's own manifest writers
    positional, vectors, equality    such files

https://iceberg.apache.org/spec/#position-delete-files: field ids 2147483546 (file_path) and 2147483545 (pos).
"""

from __future__ import annotations

import json
import struct
import uuid
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tests.jobs.corpus.tables.delta_logs import roaring

_POSITIONS = pa.schema(
    [
        pa.field("file_path", pa.string(), nullable=False, metadata={"PARQUET:field_id": "2147483546"}),
        pa.field("pos", pa.int64(), nullable=False, metadata={"PARQUET:field_id": "2147483545"}),
    ]
)


def catalog(folder: Path) -> Any:
    from pyiceberg.catalog import load_catalog

    found = load_catalog(**options(folder))
    found.create_namespace_if_not_exists("docs")
    return found


def options(folder: Path) -> dict[str, str]:
    folder.mkdir(parents=True, exist_ok=True)
    return {
        "name": "test",
        "type": "sql",
        "uri": f"sqlite:///{folder}/catalog.db",
        "warehouse": f"file://{folder}/warehouse",
    }


def data_files(table: Any) -> list[str]:
    """Paths of the live data files, in the order of their first ids."""
    paths = [task.file.file_path for task in table.scan().plan_files()]
    return sorted(paths, key=lambda path: pq.read_table(path.removeprefix("file://")).column(0)[0].as_py())


def positional(table: Any, rows: Iterable[tuple[str, int]]) -> Any:
    """A positional delete file. Returns its pyiceberg DataFile."""
    found = sorted(rows)
    path = f"{table.location()}/data/deletes-{uuid.uuid4()}.parquet".removeprefix("file://")
    columns = [pa.array([row[at] for row in found], _POSITIONS.field(at).type) for at in (0, 1)]
    pq.write_table(pa.Table.from_arrays(columns, schema=_POSITIONS), path)
    return _data_file(table, Path(path), "POSITION_DELETES", len(found))


def vectors(table: Any, rows: dict[str, Iterable[int]]) -> Any:
    """A Puffin file of deletion vectors, by data file (https://iceberg.apache.org/puffin-spec/#deletion-vector-v1-blob-type)."""
    content, blobs = b"PFA1", []
    for file, deleted in rows.items():
        vector = b"\xd1\xd3\x39\x64" + roaring(deleted)
        blob = struct.pack(">I", len(vector)) + vector + struct.pack(">I", zlib.crc32(vector))
        properties = {"referenced-data-file": file, "cardinality": str(len(set(deleted)))}
        blobs.append(
            {"type": "deletion-vector-v1", "fields": [2147483545], "snapshot-id": -1, "sequence-number": -1,
             "offset": len(content), "length": len(blob), "properties": properties}
        )  # fmt: skip
        content += blob
    footer = json.dumps({"blobs": blobs, "properties": {}}).encode()
    content += b"PFA1" + footer + struct.pack("<I", len(footer)) + b"\0\0\0\0" + b"PFA1"
    path = Path(f"{table.location()}/data/deletes-{uuid.uuid4()}.puffin".removeprefix("file://"))
    path.write_bytes(content)
    return _data_file(table, path, "POSITION_DELETES", sum(len(set(deleted)) for deleted in rows.values()), "PUFFIN")


def equality(table: Any, values: pa.Table, field_ids: list[int]) -> Any:
    """An equality delete file."""
    path = f"{table.location()}/data/deletes-{uuid.uuid4()}.parquet".removeprefix("file://")
    pq.write_table(values, path)
    return _data_file(table, Path(path), "EQUALITY_DELETES", values.num_rows, equality_ids=field_ids)


def _data_file(table: Any, path: Path, content: str, rows: int, kind: str = "PARQUET", **more: Any) -> Any:
    from pyiceberg.manifest import DataFile, DataFileContent, FileFormat
    from pyiceberg.typedef import Record

    found = DataFile.from_args(
        content=DataFileContent[content],
        file_path=f"file://{path}",
        file_format=FileFormat[kind],
        partition=Record(),
        record_count=rows,
        file_size_in_bytes=path.stat().st_size,
        column_sizes={}, value_counts={}, null_value_counts={}, nan_value_counts={}, lower_bounds={}, upper_bounds={},
        split_offsets=None, sort_order_id=None, key_metadata=None,
        **({"equality_ids": None} | more),
    )  # fmt: skip
    found.spec_id = table.spec().spec_id
    return found


def add_deletes(table: Any, *files: Any) -> None:
    """One snapshot more, with these delete files beside all data and delete files before it."""
    from pyiceberg.manifest import ManifestContent, ManifestEntry, ManifestEntryStatus, ManifestWriterV2
    from pyiceberg.table.snapshots import Operation
    from pyiceberg.table.update.snapshot import _FastAppendFiles

    class Deletes(ManifestWriterV2):
        def content(self) -> ManifestContent:
            return ManifestContent.DELETES

        @property
        def _meta(self) -> dict[str, str]:
            return {**super()._meta, "content": "deletes"}

    class Appending(_FastAppendFiles):
        def _manifests(self) -> list[Any]:
            output = self.new_manifest_output()
            with Deletes(table.spec(), table.schema(), output, self._snapshot_id, "gzip") as writer:
                for file in files:
                    entry = ManifestEntry.from_args(
                        status=ManifestEntryStatus.ADDED, snapshot_id=self._snapshot_id,
                        sequence_number=None, file_sequence_number=None, data_file=file,
                    )  # fmt: skip
                    writer.add_entry(entry)
            return [writer.to_manifest_file(), *self._existing_manifests()]

    with table.transaction() as transaction:
        Appending(operation=Operation.APPEND, transaction=transaction, io=table.io).commit()
