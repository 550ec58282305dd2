"""`reembed verify`: audits the published snapshot. It must hold every source row once, undamaged, embedded by its model.

1. folder     files on storage are compared with the receipts: missing, unknown
2. shards     parts and source of each shard are read and compared, on threads        (workers/snapshot/audit.py)
3. sample     documents sampled over all shards are embedded again and compared

The output of a job over a snapshot is compared with its receipts and with that snapshot (jobs/passes/verify.py).

Each finding names a file, object or shard. Without findings the audit passes. Nothing is written.
"""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from jobs.passes.verify import verify_derived
from jobs.publish.open_snapshot import load_embedder, open_current
from jobs.state.stored_run import StoredRun
from workers.config import VectorType
from workers.snapshot.audit import ShardAudit, audit_shard, compare

log = logging.getLogger("reembed")

THREADS = 4
LEAST_COSINE = {VectorType.FLOAT32: 0.999, VectorType.FLOAT16: 0.999, VectorType.INT8: 0.98, VectorType.BINARY: 0.97}
MAX_FINDINGS = 100


def verify_snapshot(target: str, sample: int) -> dict[str, Any]:
    """Audit the snapshot; `ok` is True if there are no findings.

    Raises:
        UsageError: nothing published, or (with a sample) its model is not available.
    """
    current, published = open_current(target)
    if published.job is not None:
        return verify_derived(current, published, _folder(published))
    findings = _folder(published)
    audits = _shards(published, sample)
    findings += [finding for audit in audits for finding in audit.findings]
    rows, documents = sum(audit.rows for audit in audits), sum(audit.documents for audit in audits)
    if not findings and rows != current.rows:
        findings.append(f"CURRENT.json says {current.rows} rows, the parts hold {rows}")
    cosines = _compare(published, audits, findings) if sample else []
    notes = sorted({note for audit in audits for note in audit.notes})
    return {
        "ok": not findings,
        "run_id": published.run_id,
        "data": current.data,
        "rows": rows,
        "documents_in_source": documents,
        "excluded_rows": sum(audit.excluded for audit in audits),
        "files": len(published.files),
        "sampled": len(cosines),
        "min_cosine": round(min(cosines), 6) if cosines else None,
        "findings": findings[:MAX_FINDINGS],
        "findings_total": len(findings),
        "notes": notes[:MAX_FINDINGS],
    }


def verify_text(report: dict[str, Any]) -> str:
    sampled = report["sampled"] is not None
    lines = [
        f"snapshot {report['run_id']}: {'OK' if report['ok'] else str(report['findings_total']) + ' FINDINGS'}",
        f"  rows        {report['rows']:,} in {report['files']:,} files; {report['documents_in_source']:,} read again"
        + (f", {report['excluded_rows']:,} left out by corpus.exclude" if report.get("excluded_rows") else ""),
        *([f"  sample      {report['sampled']} embedded again, least cosine {report['min_cosine']}"] if sampled else []),
    ]
    lines += [f"  finding     {finding}" for finding in report["findings"]]
    lines += [f"  note        {note}" for note in report["notes"]]
    return "\n".join(lines)


def _folder(published: StoredRun) -> list[str]:
    """Findings for unknown files. Missing files are found when their shard is audited."""
    store = published.store
    described = {file.path for file in published.files}
    there = store.list(published.paths.data)
    return [
        f"{store.uri_of(path)}: no receipt describes it; a reader of the folder would see its rows"
        for path in there
        if path not in described
    ]


def _shards(published: StoredRun, sample: int) -> list[ShardAudit]:
    store, plan, schema = published.store, published.plan, published.schema
    work = [(shard, published.receipts[shard.number]) for shard in published.shards if shard.number in published.receipts]
    total = sum(receipt.documents for _, receipt in work) or 1
    drawn = [-(-sample * receipt.documents // total) for _, receipt in work]
    with ThreadPoolExecutor(THREADS) as pool:
        return list(
            pool.map(
                lambda item: audit_shard(store, item[0][0], item[0][1], plan, schema, published.run_id, item[1]),
                zip(work, drawn, strict=True),
            )
        )


def _compare(published: StoredRun, audits: list[ShardAudit], findings: list[str]) -> list[float]:
    """The cosines of the main column; findings are of all."""
    embedder = load_embedder(published)
    stamp = published.stamp
    main = stamp.formats[0].column
    cosines: list[float] = []
    for audit in audits:
        keys = [key for key in audit.texts if key in audit.stored[main]]
        fresh = dict(zip(keys, embedder.embed([audit.texts[key] for key in keys]), strict=True)) if keys else {}
        for form in stamp.formats:
            least, beside = LEAST_COSINE[form.vector], "" if form.column == main else f" in {form.column}"
            for key, cosine in compare(audit, fresh, form, normalize=stamp.normalize).items():
                cosines += [cosine] if form.column == main else []
                if not cosine >= least:
                    findings.append(
                        f"document {key[0]!r}: embedded again its cosine to the stored vector{beside} is {cosine:.4f}, "
                        f"less than {least}"
                    )
    return cosines
