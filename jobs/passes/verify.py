"""Audit of a derived run: every file has the digest of its receipt, and the rows of each part are those of its source part.

A part's rows are known by a digest of (id, text_hash, chunk), which is computed again from the part. While the source's
snapshot is kept, the digests are compared with its receipts as well, so a row that was lost, added or exchanged is found.
What a job has computed of the rows is not computed again.
"""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from jobs.state.current import Current
from jobs.state.records import SOURCE
from jobs.state.stored_run import StoredRun
from workers.errors import ObjectError, ReembedError
from workers.records.documents import RowsDigest
from workers.records.shard import OutputFile
from workers.storage.store import Store
from workers.table.part_file import PartName, part_in_memory
from workers.table.schema import CHUNK, ID, TEXT_HASH

THREADS = 4
MAX_FINDINGS = 100
_ROWS = 8192


def verify_derived(current: Current, run: StoredRun, findings: list[str]) -> dict[str, Any]:
    """The report of `reembed verify`. `findings`: those about the folder. Raises: UsageError, TransientError: the store."""
    before = _source_digests(run)
    with ThreadPoolExecutor(THREADS) as pool:
        audits = pool.map(lambda file: _audit(run.store, file, before.get(_place(run.run_id, file.path))), run.files)
        findings = [*findings, *(finding for found in audits for finding in found)]
    notes = (
        []
        if before or not any(map(_aligned, run.files))
        else ["the source's snapshot is gone: compared with receipts alone"]
    )
    rows, source_rows = sum(file.rows for file in run.files), int(run.record.extra[SOURCE]["rows"])
    if rows > source_rows:  # of an index: its file stays while half of its rows do
        notes.append(f"{rows - source_rows:,} rows in files are no longer in the source's snapshot: no search finds them")
    return {
        "ok": not findings,
        "run_id": run.run_id,
        "data": current.data,
        "rows": rows,
        "documents_in_source": source_rows,
        "files": len(run.files),
        "sampled": None,
        "min_cosine": None,
        "findings": findings[:MAX_FINDINGS],
        "findings_total": len(findings),
        "notes": notes,
    }


def _audit(store: Store, file: OutputFile, expected: str | None) -> list[str]:
    where = store.uri_of(file.path)
    try:
        data = store.read(file.path)
    except FileNotFoundError:
        return [f"{where}: is missing"]
    if len(data) != file.bytes or hashlib.sha256(data).hexdigest() != file.sha256:
        return [f"{where}: differs from its receipt (size or SHA-256)"]
    if not _aligned(file):
        return []
    try:
        digest = RowsDigest()
        part = part_in_memory(data, where)
        names = [ID, TEXT_HASH, *([CHUNK] if CHUNK in part.schema.names else [])]
        for batch in part.batches(_ROWS, names):
            digest.add_rows(batch.num_rows, [*batch.columns, *([] if CHUNK in names else [0])])
    except ObjectError as error:
        return [str(error)]
    found = []
    if str(digest) != file.rows_digest:
        found.append(f"{where}: its rows are not those of its receipt")
    if expected is not None and expected != file.rows_digest:
        found.append(f"{where}: its rows are not those of the source's part")
    return found


def _source_digests(run: StoredRun) -> dict[str, str]:
    """Place of a part -> digest of its rows, by the source's receipts; empty if it is gone or cannot be reached."""
    source = run.record.extra[SOURCE]
    try:
        stored = StoredRun.open(Store(source["uri"], {}), source["run_id"])
        return {_place(source["run_id"], file.path): file.rows_digest for file in stored.files} if stored is not None else {}
    except ReembedError:
        return {}


def _place(run_id: str, path: str) -> str:
    return path.partition(f"{run_id}/")[2]


def _aligned(file: OutputFile) -> bool:
    """Whether it is a part that stands for a part of the source."""
    return file.path.endswith(".parquet") and PartName.parse(file.path) is not None and bool(file.rows_digest)
