"""Delta's log below data/_delta_log: read, appended to, checkpointed and shortened, by the store's own calls.

    read_log      the newest checkpoint and the commits after it -> the table's present state
    append        one commit, by an atomic create of its number: of two writers one gets it
    checkpoint    the state as one Parquet file, so that readers need not read all commits
    shorten       commits and checkpoints that only versions before a given one need are deleted

After the Delta protocol, reader version 1 or 3, writer version 2 or 7, with the one feature timestampNtz. Anything else in
the log (deletion vectors, column mapping, checkpoints of version 2, …) was written by another program, and is refused
by name.
"""

from __future__ import annotations

import io
import itertools
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from jobs.publish.tables.delta_schema import TIMESTAMP_NTZ
from jobs.publish.tables.table import TableChanged
from workers.errors import RunAborted
from workers.storage.store import Store
from workers.table.paths import DELTA_LOG, file_name

RUN_ID = "reembed.run_id"  # in the commitInfo of commits by this program
TOMBSTONE_MS = 7 * 24 * 3600 * 1000  # how long a removed file is named: delta.deletedFileRetentionDuration's default
_COMMIT = re.compile(r"(\d{20})\.json")
_CHECKPOINT = re.compile(r"(\d{20})\.checkpoint(?:\.(\d{10})\.(\d{10}))?\.parquet")
_LAST_CHECKPOINT = f"{DELTA_LOG}/_last_checkpoint"
_FEATURES = frozenset({TIMESTAMP_NTZ, "appendOnly", "invariants"})
_IGNORED = frozenset({"commitInfo", "cdc", "checkpointMetadata"})

_MAPS = ("partitionValues", "tags", "options", "configuration")
_TEXTS = pa.map_(pa.string(), pa.string())
_CHECKPOINT_SCHEMA = pa.schema(
    {
        "txn": pa.struct({"appId": pa.string(), "version": pa.int64(), "lastUpdated": pa.int64()}),
        "add": pa.struct(
            {
                "path": pa.string(), "partitionValues": _TEXTS, "size": pa.int64(), "modificationTime": pa.int64(),
                "dataChange": pa.bool_(), "tags": _TEXTS, "stats": pa.string(),
            }
        ),
        "remove": pa.struct(
            {
                "path": pa.string(), "deletionTimestamp": pa.int64(), "dataChange": pa.bool_(),
                "extendedFileMetadata": pa.bool_(), "partitionValues": _TEXTS, "size": pa.int64(),
            }
        ),
        "metaData": pa.struct(
            {
                "id": pa.string(), "name": pa.string(), "description": pa.string(),
                "format": pa.struct({"provider": pa.string(), "options": _TEXTS}), "schemaString": pa.string(),
                "partitionColumns": pa.list_(pa.string()), "createdTime": pa.int64(), "configuration": _TEXTS,
            }
        ),
        "protocol": pa.struct(
            {
                "minReaderVersion": pa.int32(), "minWriterVersion": pa.int32(),
                "readerFeatures": pa.list_(pa.string()), "writerFeatures": pa.list_(pa.string()),
            }
        ),
    }
)  # fmt: skip


@dataclass
class LogState:
    """The table after its version `version`. Actions are as the log has them, without their nulls."""

    version: int = -1
    protocol: dict[str, Any] = field(default_factory=dict)
    metadata: dict[str, Any] = field(default_factory=dict)
    adds: dict[str, dict[str, Any]] = field(default_factory=dict)  # by the path in the log
    removes: dict[str, dict[str, Any]] = field(default_factory=dict)
    transactions: dict[str, dict[str, Any]] = field(default_factory=dict)  # of streaming writers, by appId
    run_id: str | None = None  # of the newest commit, if this program made it
    checkpointed: bool = False  # whether its version has a checkpoint

    def apply(self, actions: Iterable[Mapping[str, Any]]) -> None:
        """Raises: TableChanged: an action of a kind that this program does not know."""
        for action in actions:
            for kind, raw in action.items():
                if raw is None:
                    continue
                content = _without_nulls(raw)
                if kind == "add":
                    if "deletionVector" in content:
                        raise TableChanged(f"{content['path']} has deleted rows (a deletion vector)")
                    self.adds[content["path"]] = content
                    self.removes.pop(content["path"], None)
                elif kind == "remove":
                    self.adds.pop(content["path"], None)
                    self.removes[content["path"]] = content
                elif kind == "metaData":
                    self.metadata = content
                elif kind == "protocol":
                    _refuse_protocol(content)
                    self.protocol = content
                elif kind == "txn":
                    self.transactions[content["appId"]] = content
                elif kind not in _IGNORED:
                    raise TableChanged(f"its log has the action {kind}")


def read_log(store: Store) -> LogState | None:
    """The newest state; None: there is no table.

    Raises:
        TableChanged: the log needs more than this program writes. RunAborted: it is damaged. UsageError, TransientError.
    """
    names = [file_name(path) for path in store.list(DELTA_LOG)]
    commits = sorted(int(found[1]) for name in names if (found := _COMMIT.fullmatch(name)))
    checkpoints = _whole_checkpoints(names)
    if not commits and not checkpoints:
        if any(".checkpoint." in name for name in names):
            raise TableChanged("its log begins with a checkpoint of a kind that is not read")
        return None
    state = LogState()
    try:
        if checkpoints:
            state.version = max(checkpoints)
            for name in checkpoints[state.version]:
                state.apply(pq.read_table(io.BytesIO(store.read(f"{DELTA_LOG}/{name}"))).to_pylist())
        newest = max([state.version, *commits])
        for number in range(state.version + 1, newest + 1):
            state.apply(_commit(store, number))
        state.version = newest
        state.run_id = _run_of(_commit(store, newest)) if newest in commits else None
        state.checkpointed = newest in checkpoints
    except (ValueError, KeyError, TypeError, pa.ArrowException, FileNotFoundError) as error:
        raise RunAborted(
            f"{store.uri_of(DELTA_LOG)}: the log of the Delta table is damaged ({error}); delete that folder, and the next "
            "start writes a new one"
        ) from None
    return state


def append(store: Store, version: int, actions: Sequence[Mapping[str, Any]]) -> bool:
    """Commit `actions` as that version. False: it is there already. Raises: UsageError, TransientError."""
    lines = "".join(f"{json.dumps(action, separators=(',', ':'))}\n" for action in actions)
    return store.put_if_absent(commit_path(version), lines.encode())


def checkpoint(store: Store, state: LogState, milliseconds: int) -> None:
    """Write the state as the checkpoint of its version. Removed files are named for seven days: VACUUM goes by that."""
    recent = [each for each in state.removes.values() if each.get("deletionTimestamp", 0) > milliseconds - TOMBSTONE_MS]
    rows: list[dict[str, Any]] = [{"protocol": state.protocol}, {"metaData": state.metadata}]
    rows += [{"txn": each} for each in state.transactions.values()]
    rows += [{"add": each | {"dataChange": False}} for each in state.adds.values()]
    rows += [{"remove": each | {"dataChange": False}} for each in recent]
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist([_with_pairs(row) for row in rows], _CHECKPOINT_SCHEMA), sink, compression="snappy")
    store.put(f"{DELTA_LOG}/{state.version:020d}.checkpoint.parquet", sink.getvalue())
    store.put(_LAST_CHECKPOINT, json.dumps({"version": state.version, "size": len(rows)}).encode())


def shorten(store: Store, kept: Sequence[str]) -> int:
    """Delete what only versions need up to the last one whose run is not in `kept`; returns how many versions that were.

    The newest version and its checkpoint stay. Nothing is deleted where the first version to keep has no checkpoint.
    """
    names = [file_name(path) for path in store.list(DELTA_LOG)]
    commits = sorted(int(found[1]) for name in names if (found := _COMMIT.fullmatch(name)))
    checkpoints = _whole_checkpoints(names)
    readable = itertools.takewhile(lambda number: _run_of(_commit(store, number)) in kept, reversed(commits))
    first = min(readable, default=None)
    if first is None or first not in checkpoints:
        return 0
    gone = [number for number in commits if number < first]
    old = [name for number, files in checkpoints.items() if number < first for name in files]
    # the oldest commit first: what is left is a log without a gap, wherever it is interrupted
    for path in (*(commit_path(number) for number in gone), *(f"{DELTA_LOG}/{name}" for name in old)):
        store.delete(path)
    return len(gone)


def commit_path(version: int) -> str:
    """Below OUTPUT."""
    return f"{DELTA_LOG}/{version:020d}.json"


def _commit(store: Store, number: int) -> list[dict[str, Any]]:
    lines = store.read(commit_path(number)).split(b"\n")  # not splitlines(): a text may hold other line breaks
    return [json.loads(line) for line in lines if line.strip()]


def _run_of(actions: Iterable[Mapping[str, Any]]) -> str | None:
    for action in actions:
        if "commitInfo" in action:
            run_id = action["commitInfo"].get(RUN_ID)
            return run_id if isinstance(run_id, str) else None
    return None


def _whole_checkpoints(names: Iterable[str]) -> dict[int, list[str]]:
    """Version -> its files, in order; only checkpoints of which all files are there."""
    found: dict[int, list[tuple[int, int, str]]] = {}
    for name in names:
        if matched := _CHECKPOINT.fullmatch(name):
            found.setdefault(int(matched[1]), []).append((int(matched[3] or 0), int(matched[2] or 0), name))
    whole = {}
    for version, files in found.items():
        for parts in {parts for parts, _, _ in files}:
            of_it = sorted(each for each in files if each[0] == parts)
            if len(of_it) == max(1, parts):
                whole[version] = [name for _, _, name in of_it]
    return whole


def _refuse_protocol(protocol: Mapping[str, Any]) -> None:
    features = {*protocol.get("readerFeatures", ()), *protocol.get("writerFeatures", ())}
    reader, writer = protocol["minReaderVersion"], protocol["minWriterVersion"]
    if reader not in (1, 3) or writer not in (1, 2, 7):
        raise TableChanged(f"it needs reader version {reader} and writer version {writer}")
    if features - _FEATURES:
        raise TableChanged(f"it needs the table feature {', '.join(sorted(features - _FEATURES))}")


def _without_nulls(value: Any) -> Any:
    """As JSON has it: what is null is left out, but for values of a map, and maps, which Arrow has as pairs, are dicts."""
    if isinstance(value, dict):
        return {
            name: dict(each or ()) if name in _MAPS else _without_nulls(each)
            for name, each in value.items()
            if each is not None
        }
    return value


def _with_pairs(row: Mapping[str, Any]) -> dict[str, Any]:
    """As Arrow takes maps: lists of pairs."""
    return {
        name: list(value.items())
        if name in _MAPS and isinstance(value, dict)
        else _with_pairs(value)
        if isinstance(value, dict)
        else value
        for name, value in row.items()
    }
