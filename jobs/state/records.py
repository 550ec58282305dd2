"""The JSON documents of a run on storage.

    runs/<run_id>/run.json         what the run is; written once and last, so a run without it has not begun
                  manifest.parquet, objects.parquet, receipts/, ledger/, staged/, quarantine/
                  golden.npz, gate.npz   figures with which the gate compares the next snapshot
                  status.json      progress, replaced while the run works
                  summary.json     how it ended
                  report.html      the same as a page

Run ids sort by time. Only this order and the contents of the documents decide which run is resumed. No secret is stored:
storage_options are removed from the configuration, and credentials from URIs. Knows nothing of shards, receipts or locks.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

import pyarrow as pa

from jobs.config import RunConfig
from workers.config import CorpusConfig
from workers.errors import RunAborted
from workers.reading.widening import RULES
from workers.records.documents import ID, Exclusion, ReadPlan
from workers.records.pinned_table import PinnedTable, TableColumn
from workers.storage.store import Store
from workers.storage.uris import redact
from workers.table.paths import RUNS, RunPaths, is_run_id
from workers.table.vector_identity import LATER_RECIPE, LATER_SETTINGS, as_first_stored

ROW_RULES = "row_rules"  # in the stored plan: see ReadPlan
_THREADS = 16
EXCLUDE = "exclude"  # in the stored plan: see Exclusion
TABLE = "table"  # in the stored plan: see PinnedTable
NULLABLE_ELEMENTS = "nullable_elements"  # in RunRecord.extra
WAY = "way"  # in RunRecord.extra
INT8_SCALES = "int8_scales"  # in RunRecord.extra: column -> scale, of the int8 columns beside the main one
JOB, SOURCE = "job", "source"  # in RunRecord.extra of a derived run: its job's name; uri, run_id and digest of its source
SETTINGS = "settings"  # likewise: JobKind.settings()


class RunState(StrEnum):
    """`state` of status.json and summary.json."""

    RUNNING = "running"
    STOPPED = "stopped"  # stopped by a signal
    ABORTED = "aborted"
    COMPLETE = "complete"
    REFUSED = "refused"  # finished, but not published: a check failed, or the run was taken back


UNFINISHED = frozenset({RunState.RUNNING, RunState.STOPPED, RunState.ABORTED})


@dataclass(frozen=True, slots=True)
class RunRecord:
    """run.json: the decisions made at planning time. They never change."""

    run_id: str
    fingerprint: str  # settings_fingerprint()
    source_fingerprint: str  # of the objects listed
    config: dict[str, Any]  # config_snapshot()
    plan: dict[str, Any]  # plan_to_json()
    model: dict[str, Any]  # facts: name, digests, pooling, dim, …
    shards: int
    rows: int | None  # planned; None: not known before reading
    code_version: str
    created: str  # ISO 8601, UTC
    int8_scale: float | None = None
    batch_tokens: int | None = None  # token budget; None: of a run begun by an earlier version
    base: str | None = None  # run id of the snapshot whose parts and vectors are reused
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def nullable_elements(self) -> bool:
        """Whether its parts declare the elements of their lists as nullable. Runs begun by version 0.1.0 do not tell."""
        return bool(self.extra.get(NULLABLE_ELEMENTS, True))

    @property
    def way(self) -> str | None:
        """The way to run the model that the first replica settled; None: of a run begun by an earlier version."""
        way = self.extra.get(WAY)
        return way if isinstance(way, str) else None

    @property
    def int8_scales(self) -> dict[str, float]:
        """By column; of the int8 columns of vectors beside the main one."""
        return dict(self.extra.get(INT8_SCALES, {}))

    @property
    def job(self) -> str | None:
        """The job over a snapshot that made it (`reduce`, `cluster`, ...); None: `embed`."""
        job = self.extra.get(JOB)
        return job if isinstance(job, str) else None

    @property
    def column(self) -> str | None:
        """Of a derived run: the column of vectors that its job was told to read; None: the main one."""
        column = self.extra.get(SETTINGS, {}).get("column")
        return column if isinstance(column, str) else None

    def facts(self) -> dict[str, Any]:
        """The facts that identify the run's snapshot, for summary.json and CURRENT.json."""
        names = ("model", "fingerprint", "source_fingerprint", "int8_scale", "code_version")
        beside = {INT8_SCALES: self.int8_scales} if self.int8_scales else {}
        return {name: getattr(self, name) for name in names} | beside

    def read_plan(self, corpus: CorpusConfig) -> ReadPlan:
        """The read plan as decided; `corpus` is the present configuration's section, which has the storage_options."""
        return plan_from_json(self.plan, corpus)


def new_run_id(fingerprint: str, now: datetime) -> str:
    """`20261120T100312Z-1a2b3c4d`: sorts by time; the tail separates runs of one second. `now`: timezone-aware."""
    moment = now.astimezone(UTC)
    return f"{moment:%Y%m%dT%H%M%SZ}-{hashlib.sha256(f'{fingerprint} {moment.isoformat()}'.encode()).hexdigest()[:8]}"


def settings_fingerprint(
    config: RunConfig,
    weights_digest: str,
    tokenizer_digest: str,
    recipe: Mapping[str, Any] | None = None,
    exclude: str | None = None,
) -> str:
    """SHA-256 (hex) of everything that changes the rows or vectors of a run.

    Without the location of model and output, cluster, limits, cost and storage options: a run can be resumed with others.
    `recipe` holds the values that `auto` resolved to (pooling, precision, …) by the model's own files; `exclude` is the run
    that corpus.exclude is pinned to, whose location does not count.
    """
    model = config.model.model_dump(mode="json", exclude={"storage_options", "name", "revision"})
    model["prompt"] = model["prompt"] or ""  # the recipe tells an empty prompt from the model's own
    settings = {
        "corpus": config.corpus.model_dump(mode="json", exclude={"storage_options", "table_options", "exclude"}),
        "model": as_first_stored(model, LATER_SETTINGS),
        "output": {**_forms(config), "partition_by": config.output.partition_by},
        **({"exclude": exclude} if exclude else {}),  # only where it is set: runs begun before are known by their settings
        "shard_bytes": config.run.shard_bytes,
        "weights": weights_digest,
        "tokenizer": tokenizer_digest,
        "recipe": as_first_stored(recipe or {}, LATER_RECIPE),
    }
    return hashlib.sha256(json.dumps(settings, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _forms(config: RunConfig) -> dict[str, Any]:
    """The columns of vectors; of the main one alone only its type, however it was written."""
    main, *others = config.output.columns
    if not others and main.dim is None:
        return {"vector": main.type}
    return {"vectors": [column.model_dump(mode="json") for column in (main, *others)]}


def config_snapshot(config: RunConfig) -> dict[str, Any]:
    """The configuration in the form that is stored: without storage_options, and with URIs without credentials."""
    snapshot = config.model_dump(mode="json", exclude={"search", "lineage"})
    for section in ("corpus", "model", "output"):
        del snapshot[section]["storage_options"]
    snapshot["corpus"].pop("table_options", None)
    snapshot["corpus"]["uri"] = [redact(uri) for uri in snapshot["corpus"]["uri"]]
    if "exclude" in snapshot["corpus"]:
        snapshot["corpus"]["exclude"] = redact(snapshot["corpus"]["exclude"])
    snapshot["output"]["uri"] = redact(snapshot["output"]["uri"])
    snapshot["model"]["name"] = redact(snapshot["model"]["name"])
    snapshot["cluster"]["address"] = redact(snapshot["cluster"]["address"])
    return snapshot


def plan_to_json(plan: ReadPlan) -> dict[str, Any]:
    """The inferred types: an Arrow IPC schema of the id and the kept columns in base64, and the same in readable form.

    `rules`: by which values were converted to them; runs of earlier versions have none.
    """
    schema = plan.keep.insert(0, pa.field(ID, plan.id_type))
    arrow = base64.b64encode(schema.serialize().to_pybytes()).decode()
    return {
        "arrow_schema": arrow,
        "columns": [[column.name, str(column.type)] for column in schema],
        "rules": RULES,
        ROW_RULES: plan.row_rules,
        **({EXCLUDE: asdict(plan.exclusion)} if plan.exclusion else {}),
        **({TABLE: json.loads(json.dumps(asdict(plan.table)))} if plan.table else {}),
    }


def plan_from_json(raw: Mapping[str, Any], corpus: CorpusConfig) -> ReadPlan:
    schema = pa.ipc.read_schema(pa.py_buffer(base64.b64decode(raw["arrow_schema"])))
    rules = int(raw.get(ROW_RULES, 1))
    exclusion = Exclusion(**raw[EXCLUDE]) if raw.get(EXCLUDE) else None
    table = _pinned_table(raw[TABLE]) if raw.get(TABLE) else None
    return ReadPlan(corpus, schema.field(0).type, schema.remove(0), row_rules=rules, exclusion=exclusion, table=table)


def _pinned_table(raw: Mapping[str, Any]) -> PinnedTable:
    columns = [
        TableColumn(item["name"], item["field_id"], tuple(item["names"]), tuple(map(tuple, item["inner"])))
        for item in raw["columns"]
    ]
    return PinnedTable(raw["format"], raw["uri"], raw["version"], tuple(columns), tuple(map(tuple, raw["types"])))


def create_run(store: Store, record: RunRecord) -> None:
    """Store run.json, which begins the run; everything it refers to must already be stored. Idempotent.

    Raises: RunAborted when the id is taken. UsageError, TransientError.
    """
    path = RunPaths(record.run_id).record
    if not store.put_if_absent(path, _encode(asdict(record))):
        raise RunAborted(f"{store.uri_of(path)}: is another run's; run the same command again")


def read_run(store: Store, run_id: str) -> RunRecord | None:
    """None if there is no such run. Raises: RunAborted: the document is invalid."""
    path = RunPaths(run_id).record
    raw = _read(store, path)
    try:
        return None if raw is None else RunRecord(**raw)
    except TypeError as error:
        raise RunAborted(f"{store.uri_of(path)}: written by another version of this program ({error})") from None


def run_folders(store: Store, below: str = RUNS) -> list[str]:
    """Names of run folders below RUNS or DATA, oldest first, including runs that were not begun or were deleted."""
    return list(filter(is_run_id, store.folders(below)))


def list_runs(store: Store) -> list[str]:
    """Ids of the begun runs, oldest first. Costs one listing, and one request for each run."""
    ids = run_folders(store)
    with ThreadPoolExecutor(_THREADS) as pool:
        begun = list(pool.map(lambda run_id: store.exists(RunPaths(run_id).record), ids))
    return [run_id for run_id, there in zip(ids, begun, strict=True) if there]


def newest_run(store: Store, fingerprint: str | None = None, source: str | None = None) -> RunRecord | None:
    """The latest run; only of these settings and this source, if their fingerprints are given."""
    ids = run_folders(store)[::-1]
    with ThreadPoolExecutor(_THREADS) as pool:  # many folders hold only the summary of a deleted run
        for at in range(0, len(ids), _THREADS):
            for record in pool.map(lambda run_id: read_run(store, run_id), ids[at : at + _THREADS]):
                if record and fingerprint in (None, record.fingerprint) and source in (None, record.source_fingerprint):
                    return record
    return None


def find_unfinished(store: Store, fingerprint: str) -> RunRecord | None:
    """The latest run of these settings, if it has not ended: no summary, or one that says running, stopped or aborted."""
    newest = newest_run(store, fingerprint)
    if newest is None:
        return None
    summary = read_summary(store, newest.run_id)
    return newest if summary is None or summary.get("state") in UNFINISHED else None


def write_status(store: Store, run_id: str, status: Mapping[str, Any]) -> None:
    store.put(RunPaths(run_id).status, _encode(status))


def read_status(store: Store, run_id: str) -> dict[str, Any] | None:
    return _read(store, RunPaths(run_id).status)


def write_summary(store: Store, run_id: str, summary: Mapping[str, Any]) -> None:
    store.put(RunPaths(run_id).summary, _encode(summary))


def read_summary(store: Store, run_id: str) -> dict[str, Any] | None:
    return _read(store, RunPaths(run_id).summary)


def _encode(document: Mapping[str, Any]) -> bytes:
    return json.dumps(document, indent=1).encode()


def _read(store: Store, path: str) -> dict[str, Any] | None:
    try:
        document = json.loads(store.read(path))
    except FileNotFoundError:
        return None
    except ValueError:
        document = None
    if not isinstance(document, dict):
        raise RunAborted(f"{store.uri_of(path)}: not a document of this program; restore it, or remove the run's folder")
    return document
