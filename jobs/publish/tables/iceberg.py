"""The Iceberg table: OUTPUT/data, its metadata in OUTPUT/data/metadata, its files the parts of the published run.

A table without a catalogue, laid out as Hadoop tables are: `v<n>.metadata.json`, of which an atomic create takes the next
number, and `version-hint.text`, which names the one that readers go by. A commit is a snapshot (operation `overwrite`) whose
manifests add the parts of the run and delete those of the snapshot before, with partition values and statistics. Parts have
no field ids, so the table has a name mapping. Format version 2, after https://iceberg.apache.org/spec/.

Columns or partitions of another kind begin the metadata anew, under the same table uuid: the name mapping is of the whole
table, so older snapshots could not be read by it any more, and are forgotten.

Manifests are written and read by pyiceberg, through the output's own store.
"""

from __future__ import annotations

import json
import re
import time
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from jobs.publish.tables.iceberg_files import entries_of, manifests_of, require_pyiceberg, write_manifests
from jobs.publish.tables.iceberg_schema import iceberg_schema, new_metadata
from jobs.publish.tables.table import TableChanged, TablePart, TableVersion
from workers.errors import RunAborted
from workers.storage.store import Store
from workers.table.paths import DATA, ICEBERG_METADATA, file_name

RUN_ID = "reembed.run_id"  # in the summary of snapshots by this program
_METADATA = re.compile(r"v(\d+)\.metadata\.json")
_OURS = re.compile(r"\d{8}T\d{6}Z-[0-9a-f]{8}-[0-9a-f]{8}-(?:added|deleted|list)\.avro")
_HINT = f"{ICEBERG_METADATA}/version-hint.text"
_KEPT = 10  # metadata files of earlier versions, for readers that have just read the hint
_NONE = (None, -1)  # current-snapshot-id of a table without one


class IcebergWriter:
    """See TableWriter."""

    folder = ICEBERG_METADATA

    def __init__(self, store: Store) -> None:
        self._store = store

    def refuse(self, schema: pa.Schema, partition_by: Sequence[str]) -> None:
        iceberg_schema(schema, partition_by)

    def refuse_parts(self, parts: Sequence[TablePart]) -> None:
        """Whatever a folder can be named for, a partition can be."""

    def present(self) -> TableVersion | None:
        found = self._read()
        if found is None:
            return None
        number, metadata = found
        snapshot = _current(metadata)
        files: dict[str, int] = {}
        for entry in self._entries(snapshot):
            where = str(entry.data_file.file_path)
            files[where.removeprefix(self._store.uri_of(""))] = int(entry.data_file.file_size_in_bytes)
        run_id = snapshot["summary"].get(RUN_ID) if snapshot else None
        return TableVersion(number, files, run_id, self._hint() == str(number))

    def commit(
        self, version: int | None, run_id: str, schema: pa.Schema, partition_by: Sequence[str], parts: Sequence[TablePart]
    ) -> bool:
        found = self._read()
        if (None if found is None else found[0]) != version:
            return False
        number, before = found or (0, None)
        columns, spec = iceberg_schema(schema, partition_by)
        metadata = new_metadata(columns, spec, self._store.uri_of(DATA), before)
        parent = _current(metadata)
        now, snapshot_id = int(time.time() * 1000), uuid.uuid4().int >> 66
        sequence, token = metadata["last-sequence-number"] + 1, f"{run_id}-{uuid.uuid4().hex[:8]}"
        listed = write_manifests(
            self._store,
            f"{ICEBERG_METADATA}/{token}",
            (columns, spec),
            (snapshot_id, None if parent is None else parent["snapshot-id"], sequence),
            parts,
            list(self._entries(parent)),
        )
        snapshot = {
            "snapshot-id": snapshot_id,
            "sequence-number": sequence,
            "timestamp-ms": now,
            "manifest-list": listed,
            "schema-id": metadata["current-schema-id"],
            "summary": _summary(run_id, parts, parent),
        } | ({"parent-snapshot-id": parent["snapshot-id"]} if parent else {})
        metadata |= {
            "last-sequence-number": sequence,
            "last-updated-ms": now,
            "current-snapshot-id": snapshot_id,
            "snapshots": [*metadata.get("snapshots", ()), snapshot],
            "snapshot-log": [*metadata.get("snapshot-log", ()), {"snapshot-id": snapshot_id, "timestamp-ms": now}],
            "refs": {**metadata.get("refs", {}), "main": {"snapshot-id": snapshot_id, "type": "branch"}},
        }
        return self._put(number + 1, metadata)

    def finish(self, version: int) -> None:
        self._store.put(_HINT, str(version).encode())

    def tidy(self, kept: Sequence[str]) -> int:
        found = self._read()
        if found is None:
            return 0
        number, metadata = found
        snapshots = metadata.get("snapshots", [])
        first = max((at + 1 for at, each in enumerate(snapshots) if each["summary"].get(RUN_ID) not in kept), default=0)
        if 0 < first < len(snapshots):
            gone = {each["snapshot-id"] for each in snapshots[:first]}
            metadata["snapshots"] = snapshots[first:]
            metadata["snapshot-log"] = [each for each in metadata["snapshot-log"] if each["snapshot-id"] not in gone]
            metadata["last-updated-ms"] = int(time.time() * 1000)
            if not self._put(number + 1, metadata):
                return 0
            number += 1
            self.finish(number)
        self._sweep(number, metadata)
        return first if first < len(snapshots) else 0

    def _put(self, number: int, metadata: Mapping[str, Any]) -> bool:
        return self._store.put_if_absent(_path(number), json.dumps(metadata).encode())

    def _sweep(self, number: int, metadata: Mapping[str, Any]) -> None:
        """Delete our manifests that no snapshot has, and old metadata files."""
        wanted: set[str] = set()
        for snapshot in metadata.get("snapshots", ()):
            wanted.add(file_name(snapshot["manifest-list"]))
            wanted |= {file_name(manifest.manifest_path) for manifest in self._manifests(snapshot)}
        for path in self._store.list(ICEBERG_METADATA):
            name = file_name(path)
            versioned = _METADATA.fullmatch(name)
            if (_OURS.fullmatch(name) and name not in wanted) or (versioned and int(versioned[1]) < number - _KEPT):
                self._store.delete(path)

    def _read(self) -> tuple[int, dict[str, Any]] | None:
        names = [file_name(path) for path in self._store.list(ICEBERG_METADATA)]
        numbers = [int(found[1]) for name in names if (found := _METADATA.fullmatch(name))]
        if not numbers:
            return None
        newest = max(numbers)
        try:
            metadata = dict(json.loads(self._store.read(_path(newest))))
        except (ValueError, TypeError, FileNotFoundError) as error:
            raise self._damaged(error) from None
        if metadata.get("format-version") != 2:
            raise TableChanged(self._foreign(f"its format version is {metadata.get('format-version')}"))
        return newest, metadata

    def _manifests(self, snapshot: Mapping[str, Any] | None) -> list[Any]:
        if snapshot is None:
            return []
        require_pyiceberg()
        try:
            return manifests_of(self._store, snapshot["manifest-list"])
        except (ValueError, KeyError, TypeError, FileNotFoundError) as error:
            raise self._damaged(error) from None

    def _entries(self, snapshot: Mapping[str, Any] | None) -> list[Any]:
        """The live data files of a snapshot. Raises: TableChanged: it has deleted rows."""
        manifests = self._manifests(snapshot)
        if any(manifest.content.value for manifest in manifests):
            raise TableChanged(self._foreign("it has delete files"))
        try:
            return [entry for manifest in manifests for entry in entries_of(self._store, manifest)]
        except (ValueError, KeyError, TypeError, FileNotFoundError) as error:
            raise self._damaged(error) from None

    def _hint(self) -> str | None:
        try:
            return self._store.read(_HINT).decode(errors="replace").strip()
        except FileNotFoundError:
            return None

    def _foreign(self, why: str) -> str:
        return (
            f"output.table: the Iceberg table {self._store.uri_of(DATA)} was changed by another program: {why}; undo that, "
            f"or delete {ICEBERG_METADATA}, and the next start writes a new one"
        )

    def _damaged(self, error: Exception) -> RunAborted:
        where = self._store.uri_of(ICEBERG_METADATA)
        return RunAborted(
            f"{where}: the metadata of the Iceberg table is damaged ({error}); delete that folder, and the next start "
            "writes a new one"
        )


def _path(number: int) -> str:
    return f"{ICEBERG_METADATA}/v{number}.metadata.json"


def _current(metadata: Mapping[str, Any]) -> dict[str, Any] | None:
    wanted = metadata.get("current-snapshot-id")
    if wanted in _NONE:
        return None
    found: dict[str, Any] = next(each for each in metadata["snapshots"] if each["snapshot-id"] == wanted)
    return found


def _summary(run_id: str, parts: Sequence[TablePart], parent: Mapping[str, Any] | None) -> dict[str, str]:
    before = parent["summary"] if parent else {}
    rows, size = sum(part.file.rows for part in parts), sum(part.file.bytes for part in parts)
    counts = {
        "added-data-files": len(parts), "added-records": rows, "added-files-size": size,
        "deleted-data-files": before.get("total-data-files", 0), "deleted-records": before.get("total-records", 0),
        "total-data-files": len(parts), "total-records": rows, "total-files-size": size,
        "total-delete-files": 0, "total-position-deletes": 0, "total-equality-deletes": 0,
    }  # fmt: skip
    return {"operation": "overwrite", RUN_ID: run_id} | {name: str(count) for name, count in counts.items()}
