"""The Delta table: OUTPUT/data, its log in OUTPUT/data/_delta_log, its files the parts of the published run.

A commit removes all files of the version before and adds those of the run, with statistics and partition values. Columns and
partitions of another kind than before go into the same commit. After each commit a checkpoint is written, so that a reader
opens two files however many nights there were.

The root is data/ and not OUTPUT: a VACUUM by another program deletes what the table does not name below its root, and state,
receipts and CURRENT.json must not lie there.
"""

from __future__ import annotations

import json
import logging
import time
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from jobs.publish.tables.delta_actions import add_action, refuse_part, remove_action, stored_path
from jobs.publish.tables.delta_log import RUN_ID, LogState, append, checkpoint, read_log, shorten
from jobs.publish.tables.delta_schema import TIMESTAMP_NTZ, delta_schema, needs_timestamp_ntz, refuse_partitions
from jobs.publish.tables.table import TableChanged, TablePart, TableVersion
from workers import __version__
from workers.errors import TransientError, UsageError
from workers.storage.store import Store
from workers.table.paths import DATA, DELTA_LOG

log = logging.getLogger("reembed")

_PLAIN: Mapping[str, Any] = {"minReaderVersion": 1, "minWriterVersion": 2}
_WITH_FEATURES: Mapping[str, Any] = {
    "minReaderVersion": 3,
    "minWriterVersion": 7,
    "readerFeatures": [TIMESTAMP_NTZ],
    "writerFeatures": [TIMESTAMP_NTZ, "appendOnly", "invariants"],  # the last two are what writer version 2 implies
}
_APPEND_ONLY = "delta.appendOnly"


class DeltaWriter:
    """See TableWriter."""

    folder = DELTA_LOG

    def __init__(self, store: Store) -> None:
        self._store = store

    def refuse(self, schema: pa.Schema, partition_by: Sequence[str]) -> None:
        delta_schema(schema)
        refuse_partitions(schema, partition_by)

    def refuse_parts(self, parts: Sequence[TablePart]) -> None:
        for part in parts:
            refuse_part(part)

    def present(self) -> TableVersion | None:
        state = self._read()
        if state is None:
            return None
        files = {stored_path(path): int(add["size"]) for path, add in state.adds.items()}
        return TableVersion(state.version, files, state.run_id, state.checkpointed)

    def commit(
        self, version: int | None, run_id: str, schema: pa.Schema, partition_by: Sequence[str], parts: Sequence[TablePart]
    ) -> bool:
        before = self._read()
        if (None if before is None else before.version) != version:
            return False
        state, now = before or LogState(), int(time.time() * 1000)
        actions = _actions(state, run_id, schema, partition_by, parts, now)
        return append(self._store, state.version + 1, actions)

    def finish(self, version: int) -> None:
        state = self._read()
        if state is None or state.version != version or state.checkpointed:
            return
        try:
            checkpoint(self._store, state, int(time.time() * 1000))
        except (UsageError, TransientError) as error:  # the commit stands without it
            log.warning("output.table: no checkpoint of version %d was written: %s", state.version, error)

    def tidy(self, kept: Sequence[str]) -> int:
        return shorten(self._store, kept)

    def _read(self) -> LogState | None:
        try:
            state = read_log(self._store)
            properties = {} if state is None else state.metadata.get("configuration", {})
            if str(properties.get(_APPEND_ONLY, "")).lower() == "true":
                raise TableChanged(f"its property {_APPEND_ONLY} is true")
            return state
        except TableChanged as error:
            raise TableChanged(
                f"output.table: the Delta table {self._store.uri_of(DATA)} was changed by another program: {error}; undo "
                f"that, or delete {DELTA_LOG}, and the next start writes a new one"
            ) from None


def _actions(
    state: LogState,
    run_id: str,
    schema: pa.Schema,
    partition_by: Sequence[str],
    parts: Sequence[TablePart],
    now: int,
) -> list[dict[str, Any]]:
    """The lines of a commit that makes `parts` the table's files."""
    mode = {"mode": "Overwrite", "partitionBy": json.dumps(list(partition_by))}
    metrics = {"numFiles": str(len(parts)), "numOutputRows": str(sum(part.file.rows for part in parts))}
    actions: list[dict[str, Any]] = [
        {
            "commitInfo": {
                "timestamp": now,
                "operation": "WRITE",
                "operationParameters": mode,
                "operationMetrics": metrics,
                "engineInfo": f"reembed/{__version__}",
                RUN_ID: run_id,
            }
        }
    ]
    protocol = _WITH_FEATURES if needs_timestamp_ntz(schema) else _PLAIN
    if not state.protocol or (protocol is _WITH_FEATURES and TIMESTAMP_NTZ not in state.protocol.get("readerFeatures", ())):
        actions.append({"protocol": dict(protocol)})
    told = {"schemaString": delta_schema(schema), "partitionColumns": list(partition_by)}
    if any(state.metadata.get(name) != value for name, value in told.items()):
        new = {"id": str(uuid.uuid4()), "format": {"provider": "parquet", "options": {}}, "configuration": {}}
        actions.append({"metaData": {**new, "createdTime": now, **state.metadata, **told}})
    names = {action["path"]: action for action in (add_action(part, now) for part in parts)}
    actions += [{"remove": remove_action(add, now)} for path, add in state.adds.items() if path not in names]
    return actions + [{"add": add} for add in names.values()]
