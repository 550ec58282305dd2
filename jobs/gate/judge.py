"""From storage to verdict: collects the facts of a finished run and of the last snapshot, and has the gate judge them.

1. own figures     counts from the receipts; length and mean of a sample of vectors, read once, then kept with the run
2. the last ones   those of the snapshot that CURRENT.json names, as they were kept; made from its parts where they were not
3. comparisons     golden texts; probes of the replicas, or the same texts in both snapshots where nothing was reused
4. checks          jobs/gate/checks.py

A run is judged again, with other limits, without embedding anything. Needs no model, no Ray and not the source.
"""

from __future__ import annotations

import dataclasses
import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jobs.config import GateConfig
from jobs.gate.checks import GateCheck, GateFacts, check_run
from jobs.gate.figures import Comparison, Figures, Golden, load_figures, load_golden, save_figures, save_golden
from jobs.gate.samples import Side, compare_texts, measure_vectors, of_angle
from jobs.publish.publish import Current, read_current
from jobs.state.accounting import Totals
from jobs.state.ledger import Accounting, Ledger, load_receipts
from jobs.state.manifest import load_manifest
from jobs.state.receipts import Files
from jobs.state.records import RunPaths, RunRecord, read_run
from workers.config import LongText, VectorType
from workers.records.shard import Receipt, Shard
from workers.snapshot.sample import Stored
from workers.storage.objects import Store

log = logging.getLogger("reembed")

IDENTITY = (
    "weights_digest", "tokenizer_digest", "pooling", "normalize", "prompt", "dim", "max_tokens", "long_text", "precision",
    "vector",
)  # fmt: skip
"""Facts of RunRecord.model that decide the vector of a text. Neither the model's name nor where it lies does."""


@dataclass(frozen=True, slots=True)
class _Snapshot:
    """The last published one, as far as it is still there."""

    current: Current
    record: RunRecord | None
    figures: Figures
    golden: Golden | None


def judge(
    store: Store,
    record: RunRecord,
    shards: Sequence[Shard],
    receipts: Mapping[int, Receipt],
    totals: Totals,
    accounting: Accounting,
    gate: GateConfig,
    max_quarantined_rows: int,
) -> list[GateCheck]:
    """All checks of a run that has nothing pending, `totals` being its receipts'. Keeps its figures in the run's folder.

    Raises:
        UsageError, TransientError: storage. RunAborted: CURRENT.json, or a document of its run, is not readable.
    """
    paths = RunPaths(record.run_id)
    now = _figures(store, record, receipts, totals)
    golden = load_golden(store, record.run_id)
    last, alone = _last(store, record.run_id)
    same = last is not None and not now.changes(last.figures)
    if last is not None and same and golden is None and last.golden is not None:
        save_golden(store, record.run_id, last.golden)  # nothing was embedded: the vectors are the last snapshot's own
        golden = last.golden
    facts = GateFacts(
        accounting=dataclasses.replace(accounting, breaches=accounting.breaches + now.breaches),
        receipts=store.uri_of(paths.receipts),
        quarantine=store.uri_of(paths.quarantine),
        now=now,
        last=last.figures if last else None,
        alone=alone,
        golden=_compare_golden(record, golden, last),
        probes=_probes(receipts, _stored(record)),
        joined=_compare_texts(store, record, shards, receipts, last) if last is not None and same else Comparison(),
    )
    return check_run(facts, gate, max_quarantined_rows)


def identity(record: RunRecord) -> dict[str, Any]:
    """What decides the vector of a text."""
    facts = {name: record.model[name] for name in IDENTITY if name in record.model}
    if record.model.get("long_text") != LongText.TRUNCATE:
        facts["chunk_overlap"] = record.config.get("model", {}).get("chunk_overlap")
    return facts


def _figures(store: Store, record: RunRecord, receipts: Mapping[int, Receipt], totals: Totals) -> Figures:
    """As they were kept, where they were made from these very parts."""
    files = Files(receipts)
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.path} {file.rows} {file.bytes} {file.sha256}\n".encode())
    kept = load_figures(store, record.run_id)
    counts = Figures(
        run_id=record.run_id,
        model=identity(record),
        rows_read=totals.rows_read,
        documents=totals.documents,
        truncated=totals.truncated,
        empty=totals.empty,
        vectors=None,
        parts=digest.hexdigest(),
    )
    if kept is not None and kept.parts == counts.parts and not kept.breaches:
        return dataclasses.replace(counts, vectors=kept.vectors)
    vectors, breaches = measure_vectors(store, files, _stored(record))
    figures = dataclasses.replace(counts, vectors=vectors, breaches=breaches)
    save_figures(store, figures)
    return figures


def _last(store: Store, run_id: str) -> tuple[_Snapshot | None, str]:
    """The snapshot that readers see, or why there is none to compare with."""
    current = read_current(store)
    if current is None:
        return None, "nothing is published yet"
    if current.run_id == run_id:
        return None, "readers see this run already"
    record = read_run(store, current.run_id)
    if record is None:
        log.warning("%s: missing; only what CURRENT.json tells is compared", store.uri_of(RunPaths(current.run_id).record))
        model = {name: value for name, value in current.facts.get("model", {}).items() if name in IDENTITY}
        documents = current.facts.get("documents", current.rows)
        return _Snapshot(current, None, Figures(current.run_id, model, documents, documents, None, 0, None), None), ""
    figures = load_figures(store, current.run_id)
    if figures is None:
        receipts = load_receipts(store, current.run_id)
        figures = _figures(store, record, receipts, Ledger.totals(receipts))
    return _Snapshot(current, record, figures, load_golden(store, current.run_id)), ""


def _compare_golden(record: RunRecord, golden: Golden | None, last: _Snapshot | None) -> Comparison:
    if record.model.get("pooling") == "tokens":
        return Comparison(note="pooling=tokens: texts have no single vector")
    if golden is None or golden.run_id != record.run_id:
        return Comparison(note="no replica of this run told its vectors of the golden texts")
    if last is None or last.golden is None:
        return Comparison(note="the last snapshot has no vectors of the golden texts")
    return golden.compare(last.golden)


def _probes(receipts: Mapping[int, Receipt], stored: Stored) -> Comparison:
    """What replicas found when they embedded some of the reused texts again: of binary vectors, cosines of signs."""
    probed, each = 0, []
    for receipt in receipts.values():
        if receipt.probed and receipt.probe_cosine is not None:
            probed += receipt.probed
            each.append(of_angle(receipt.probe_cosine, stored.vector))
    return Comparison(probed, Comparison.of(each, "").least)


def _compare_texts(
    store: Store, record: RunRecord, shards: Sequence[Shard], receipts: Mapping[int, Receipt], last: _Snapshot | None
) -> Comparison:
    """For a run that reused nothing: a vector that was carried over would be compared with itself."""
    if record.base is not None:
        return Comparison(note="vectors were carried over, and none of them was embedded again to compare")
    if last is None or last.record is None:
        return Comparison(note="the last snapshot's run is gone")
    paths = RunPaths(last.record.run_id)
    try:
        earlier, _ = load_manifest(store, paths.manifest)
    except FileNotFoundError:
        return Comparison(note="the last snapshot's manifest is gone")
    before = Side(earlier, load_receipts(store, last.record.run_id), _stored(last.record))
    return compare_texts(store, Side(shards, receipts, _stored(record)), before)


def _stored(record: RunRecord) -> Stored:
    return Stored(VectorType(record.model["vector"]), record.int8_scale)
