"""Judging a run: collects the facts of a finished run and of the last snapshot from storage, then checks them.

1. own figures       counts from the receipts; figures of a sample of vectors, read once, then stored with the run
2. the baseline      the same figures of the snapshot that CURRENT.json names, as stored, or else made from its parts
3. comparisons       golden texts; probes of the replicas, or the same texts in both snapshots if nothing was reused
4. checks            checks.py

A run can be judged again with other limits, without embedding anything. Needs neither the model nor Ray nor the source.
"""

from __future__ import annotations

import dataclasses
import hashlib
import logging
from collections.abc import Mapping
from typing import Any, NamedTuple

from jobs.config import GateConfig
from jobs.publish.gate.checks import GateCheck, GateFacts, check_run
from jobs.publish.gate.figures import (
    BESIDE,
    Comparison,
    Figures,
    Golden,
    load_figures,
    load_golden,
    save_figures,
    save_golden,
)
from jobs.publish.gate.samples import compare_texts, measure_agreement, measure_vectors, of_angle
from jobs.state.accounting import Accounting, Totals, totals
from jobs.state.current import read_current
from jobs.state.records import RunRecord
from jobs.state.stored_run import StoredRun
from workers.config import BY_TOKEN, LongText, Pooling, VectorType
from workers.records.shard import Receipt
from workers.storage.store import Store
from workers.table.paths import RunPaths
from workers.table.representations import parsed
from workers.table.vector_identity import LATER_SETTINGS, OF_CHUNKS, OF_SPARSE, VECTOR_FACTS
from workers.table.vectors import VectorFormat

log = logging.getLogger("reembed")


class _Baseline(NamedTuple):
    """The last published snapshot, as a baseline. `run` None: only CURRENT.json is left of it."""

    run: StoredRun | None
    figures: Figures
    golden: Golden | None


def judge(
    run: StoredRun, sums: Totals, accounting: Accounting, gate: GateConfig, max_quarantined_rows: int
) -> list[GateCheck]:
    """All checks of a run without pending shards; its figures are stored in its folder.

    `sums`: of the run's receipts.

    Raises:
        UsageError, TransientError: storage. RunAborted: CURRENT.json, or a document of its run, is not readable.
    """
    store, paths = run.store, run.paths
    now = _figures(run, sums)
    golden = load_golden(store, run.run_id)
    last, alone = _baseline(store, run.run_id)
    same = last is not None and not now.changes(last.figures)
    if last is not None and same and golden is None and last.golden is not None:
        save_golden(store, run.run_id, last.golden)  # nothing was embedded, so the vectors are those of the last snapshot
        golden = last.golden
    facts = GateFacts(
        accounting=dataclasses.replace(accounting, breaches=accounting.breaches + now.breaches),
        receipts=store.uri_of(paths.receipts),
        quarantine=store.uri_of(paths.quarantine),
        now=now,
        last=last.figures if last else None,
        alone=alone,
        golden=_compare_golden(run.record, golden, last),
        probes=_probes(run.receipts, run.stored.vector),
        joined=_compare_texts(run, last.run) if last is not None and same else Comparison(),
        absent=_absent(run),
    )
    return check_run(facts, gate, max_quarantined_rows)


def identity(record: RunRecord) -> dict[str, Any]:
    """What decides the vector of a text."""
    facts = _facts(record.model)
    if record.model.get("long_text") != LongText.TRUNCATE:
        settings = record.config.get("model", {})
        facts |= {name: settings.get(name, LATER_SETTINGS.get(name)) for name in OF_CHUNKS}
    if record.model.get("pooling") == Pooling.SPARSE:
        settings = record.config.get("model", {})
        facts |= {name: settings.get(name, LATER_SETTINGS.get(name)) for name in OF_SPARSE}
    return facts


def _facts(model: Mapping[str, Any]) -> dict[str, Any]:
    """Of RunRecord.model, with a fact for each column of vectors beside the main one."""
    facts = {name: model[name] for name in VECTOR_FACTS if name in model}
    main = VectorFormat(VectorType(facts.get("vector", VectorType.FLOAT32)))
    beside = parsed(main, facts.pop("vectors", ""))[1:]
    return facts | {BESIDE + form.column: f"{form.vector.value} of {form.dim}" for form in beside}


def _figures(run: StoredRun, sums: Totals) -> Figures:
    """The stored figures, if they were made from these parts."""
    digest = hashlib.sha256()
    for file in run.files:
        digest.update(f"{file.path} {file.rows} {file.bytes} {file.sha256}\n".encode())
    kept = load_figures(run.store, run.run_id)
    figures = Figures(run.run_id, identity(run.record), sums.counts, parts=digest.hexdigest())
    if kept is not None and kept.parts == figures.parts and not kept.breaches and not _of_earlier_version(kept):
        return dataclasses.replace(figures, vectors=kept.vectors, agreement=kept.agreement)
    vectors, breaches = measure_vectors(run)
    agreement = measure_agreement(run) if len(run.formats) > 1 else {}
    figures = dataclasses.replace(figures, vectors=vectors, breaches=breaches, agreement=agreement)
    save_figures(run.store, figures)
    return figures


def _of_earlier_version(figures: Figures) -> bool:
    """Whether they lack what today's checks compare."""
    if figures.vectors is None:
        return False
    return figures.vectors.texts is None or (
        not figures.agreement and any(name.startswith(BESIDE) for name in figures.model)
    )


def _baseline(store: Store, run_id: str) -> tuple[_Baseline | None, str]:
    """The snapshot that readers see, or why there is none to compare with."""
    current = read_current(store)
    if current is None:
        return None, "nothing is published yet"
    if current.run_id == run_id:
        return None, "readers see this run already"
    last = StoredRun.open(store, current.run_id)
    if last is None:
        log.warning("%s: missing; only what CURRENT.json tells is compared", store.uri_of(RunPaths(current.run_id).record))
        model = _facts(current.facts.get("model", {}))
        documents = current.facts.get("documents", current.rows)
        return _Baseline(None, Figures(current.run_id, model, {"rows_read": documents, "documents": documents}), None), ""
    figures = load_figures(store, last.run_id) or _figures(last, totals(last.receipts))
    return _Baseline(last, figures, load_golden(store, last.run_id)), ""


def _compare_golden(record: RunRecord, golden: Golden | None, last: _Baseline | None) -> Comparison:
    if (pooling := record.model.get("pooling")) in BY_TOKEN:
        return Comparison(note=f"pooling={pooling}: texts have no single vector")
    if record.model.get("pooling") == Pooling.SPARSE:
        return Comparison(note="pooling=sparse: vectors of golden texts are not kept, probes and samples are compared")
    if golden is None or golden.run_id != record.run_id:
        return Comparison(note="no replica of this run told its vectors of the golden texts")
    if last is None or last.golden is None:
        return Comparison(note="the last snapshot has no vectors of the golden texts")
    return golden.compare(last.golden)


def _probes(receipts: Mapping[int, Receipt], vector: VectorType) -> Comparison:
    """Cosines of reused texts that replicas embedded again; for binary vectors, cosines of the signs."""
    probed, each = 0, []
    for receipt in receipts.values():
        if receipt.probed and receipt.probe_cosine is not None:
            probed += receipt.probed
            each.append(of_angle(receipt.probe_cosine, vector))
    return Comparison(probed, Comparison.of(each, "").least)


def _absent(run: StoredRun) -> tuple[str, ...]:
    """Kept columns that no row of the run had; those that corpus.schema states may be absent."""
    rows, absent = 0, set(run.record.config.get("corpus", {}).get("keep", ()))
    absent -= set(run.record.config.get("corpus", {}).get("schema", ()))
    for receipt in run.receipts.values():
        absent &= set(receipt.absent or ())  # None: of an earlier version, which did not look
        rows += receipt.rows_read
        if not absent:
            break
    return tuple(sorted(absent)) if rows else ()


def _compare_texts(run: StoredRun, last: StoredRun | None) -> Comparison:
    """Only for a run that reused nothing: a carried vector would be compared with itself."""
    if run.record.base is not None:
        return Comparison(note="vectors were carried over, and none of them was embedded again to compare")
    if last is None:
        return Comparison(note="the last snapshot's run is gone")
    try:
        _ = last.shards
    except FileNotFoundError:
        return Comparison(note="the last snapshot's manifest is gone")
    return compare_texts(run, last)
