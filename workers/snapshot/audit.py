"""Audit of one shard: its output holds its source, every row once, undamaged. The worker's half of `reembed verify`.

    audit_shard    the source read again: the multiset of (id, text hash) is the one in the receipt and in the parts; each
                   part: there, size, SHA-256, schema, stamp, finite, norms, rows and rows digest as its receipt says. Of
                   several columns of vectors all are looked at; where one holds the model's own numbers, the others must be
                   what is made of them, bit for bit
    compare        sampled documents embedded again: cosine to the stored vectors of each column

Findings are sentences that name the file or object; an empty list is a pass. Nothing is written.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from workers.config import VectorType
from workers.errors import ObjectChanged, ObjectError, ObjectMissing, UsageError
from workers.reading.reader import read_windows
from workers.records.documents import ROW, TEXT, ReadPlan, RowsDigest, text_hash
from workers.records.shard import OutputFile, Receipt, Shard
from workers.storage.store import Store
from workers.table.left_out import LeftOut, load_left_out, without
from workers.table.part_file import part_in_memory
from workers.table.paths import RunPaths
from workers.table.quarantine_file import read_quarantine
from workers.table.representations import derived, whole
from workers.table.schema import CHUNK, EMBEDDING, ID, OF_THE_VECTORS, PREFIX, TEXT_HASH, OutputSchema, same_columns
from workers.table.sparse import INDICES, WEIGHTS, dense_rows, flaws
from workers.table.vectors import (
    Floats,
    VectorFormat,
    as_float32,
    bad_rows,
    cosines_to_stored,
    stored_cells,
    to_arrow,
    vectors_per_row,
)

DocumentKey = tuple[str, bytes]  # id, text hash
NORM_TOLERANCE = {VectorType.FLOAT32: 1e-3, VectorType.FLOAT16: 5e-3, VectorType.INT8: 0.1}


@dataclass(slots=True)
class ShardAudit:
    """Findings, and the documents sampled for comparison: (id, text hash) -> text and stored vectors, by column."""

    findings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    rows: int = 0
    documents: int = 0
    excluded: int = 0  # rows that corpus.exclude leaves out
    texts: dict[DocumentKey, str] = field(default_factory=dict)
    stored: dict[str, dict[DocumentKey, Floats]] = field(default_factory=lambda: defaultdict(dict))


def audit_shard(
    store: Store, shard: Shard, receipt: Receipt, plan: ReadPlan, schema: OutputSchema, run_id: str, sample: int
) -> ShardAudit:
    """Audit one shard; `sample` documents are remembered for `compare`."""
    audit = ShardAudit()
    try:
        left_out = load_left_out(store, RunPaths(run_id).left_out, plan.exclusion)
    except UsageError as error:
        audit.findings.append(str(error))
        return audit
    _audit_source(shard, receipt, plan, left_out, _quarantined_rows(store, receipt, audit), sample, audit)
    digest = RowsDigest()
    for file in receipt.files:
        _audit_part(store, file, schema, None if receipt.carried_from else run_id, digest, audit)
    if not audit.findings and str(digest) != receipt.source_digest:
        audit.findings.append(
            f"shard {shard.number}: its parts do not hold the documents that were read (other ids or texts, or a row twice)"
        )
    return audit


def compare(
    audit: ShardAudit, vectors: Mapping[DocumentKey, Floats], form: VectorFormat, *, normalize: bool
) -> dict[DocumentKey, float]:
    """Cosine between a column's stored vectors and the fresh ones of each sampled document; for binary of the signs.

    `vectors`: [n, M] of the model. `normalize`: as derived().
    """
    scores = {}
    for key, of_model in vectors.items():
        fresh, stored = derived(of_model, form, normalize=normalize), audit.stored[form.column].get(key)
        # a row that is in the source several times, id and text, is stored as often
        copies = len(stored) // len(fresh) if stored is not None and len(fresh) else 0
        fresh = np.tile(fresh, (copies, 1))
        if stored is None or not copies or stored.shape != fresh.shape:
            scores[key] = -1.0
            continue
        scores[key] = float(cosines_to_stored(stored, fresh, form.vector).min())
    return scores


def _audit_part(
    store: Store, file: OutputFile, schema: OutputSchema, run_id: str | None, digest: RowsDigest, audit: ShardAudit
) -> None:
    """`run_id` None: a part that was carried over, made by any run."""
    uri = store.uri_of(file.path)
    try:
        data = store.read(file.path)
    except FileNotFoundError:
        audit.findings.append(f"{uri}: is missing")
        return
    if len(data) != file.bytes or hashlib.sha256(data).hexdigest() != file.sha256:
        audit.findings.append(
            f"{uri}: altered after it was written ({len(data)} bytes, {file.bytes} in its receipt; SHA-256 differs)"
        )
        return
    part = part_in_memory(data, uri)
    if not same_columns(part.schema, schema.part):
        audit.findings.append(f"{uri}: schema is {part.schema.names}, the run's is {schema.part.names}")
        return
    stamped = part.footer.get(PREFIX + "run_id", "")
    if not stamped or run_id not in (None, stamped):
        audit.findings.append(f"{uri}: stamped with run {stamped or 'none'}, not {run_id or 'the one that made it'}")
    ours = schema.stamp.footer()
    for name in OF_THE_VECTORS:
        theirs, expected = part.footer.get(name), ours.get(name)
        if theirs != expected:
            audit.findings.append(f"{uri}: stamped {name}={theirs or 'nothing'}, the snapshot's is {expected or 'nothing'}")
    rows, rows_digest = 0, RowsDigest()
    chunked = schema.chunked
    for batch in part.batches(8192, threads=True):
        rows += batch.num_rows
        _audit_vectors(uri, batch, rows - batch.num_rows, schema, audit)
        chunks = batch.column(CHUNK).to_pylist() if chunked else [0] * batch.num_rows
        hashes = batch.column(TEXT_HASH).to_pylist()
        for id_, hash_, chunk in zip(batch.column(ID).to_pylist(), hashes, chunks, strict=True):
            rows_digest.add(id_, hash_, chunk)
            if chunk == 0:
                digest.add(id_, hash_)
        _remember(batch, schema, audit)
    audit.rows += rows
    if rows != file.rows or str(rows_digest) != file.rows_digest:
        audit.findings.append(f"{uri}: holds {rows} rows, its receipt says {file.rows}, or other ids")


def _audit_vectors(uri: str, batch: pa.RecordBatch, first: int, schema: OutputSchema, audit: ShardAudit) -> None:
    """`first`: number of the batch's first row within the part."""
    stamp = schema.stamp
    for form in stamp.formats:
        where = uri if form.column == EMBEDDING or form.sparse else f"{uri}: column {form.column}"
        vectors = as_float32(batch.column(form.column), form.vector, form.int8_scale)
        for row, reason in list(_bad_rows(batch, form, vectors).items())[:3]:
            audit.findings.append(f"{where}: row {first + row}: {reason}")
        if stamp.normalize and form.vector in NORM_TOLERANCE and len(vectors):
            off = float(np.abs(np.linalg.norm(vectors, axis=1) - 1).max())
            if not off <= NORM_TOLERANCE[form.vector]:
                audit.findings.append(f"{where}: a vector's length is off from 1 by {off:.4f}")
    source = whole(stamp.formats)
    if source is not None and len(stamp.formats) > 1:
        _audit_derived(uri, batch, first, source, schema, audit)


def _audit_derived(
    uri: str, batch: pa.RecordBatch, first: int, source: VectorFormat, schema: OutputSchema, audit: ShardAudit
) -> None:
    """Every other column must be what is made of the column `source`, bit for bit."""
    vectors = as_float32(batch.column(source.column), source.vector)
    row_V = np.repeat(np.arange(batch.num_rows), vectors_per_row(batch.column(source.column)))
    for form in schema.stamp.formats:
        if form == source:
            continue
        cut = derived(vectors, form, normalize=schema.stamp.normalize)
        if bad_rows(cut, form.vector):
            continue  # told already
        expected = stored_cells(to_arrow(cut, form.vector, form.int8_scale)[0], form.vector)
        there = stored_cells(batch.column(form.column), form.vector)
        if there.shape != expected.shape:
            audit.findings.append(f"{uri}: column {form.column}: has {len(there)} vectors, {source.column} {len(expected)}")
        elif len(other := np.flatnonzero((there != expected).any(axis=1))):
            audit.findings.append(
                f"{uri}: row {first + int(row_V[other[0]])}: {form.column} is not made of {source.column} "
                f"({len(other)} such vectors of {len(there)})"
            )


def _remember(batch: pa.RecordBatch, schema: OutputSchema, audit: ShardAudit) -> None:
    """Keep the stored vectors of sampled documents; chunks of one document in order."""
    sampled = pa.array([key[1] for key in audit.texts], batch.schema.field(TEXT_HASH).type)
    for index in np.flatnonzero(pc.is_in(batch.column(TEXT_HASH), value_set=sampled).to_numpy(zero_copy_only=False)):
        row = batch.slice(int(index), 1)
        key = (str(row.column(ID)[0].as_py()), row.column(TEXT_HASH)[0].as_py())
        if key not in audit.texts:
            continue
        for form in schema.stamp.formats:
            if form.sparse and _bad_rows(row, form, np.empty((0, 1), np.float32)):
                continue  # told already
            vectors, known = _model_vectors(row, form), audit.stored[form.column]
            known[key] = np.concatenate([known[key], vectors]) if key in known else vectors


def _bad_rows(batch: pa.RecordBatch, form: VectorFormat, vectors: Floats) -> dict[int, str]:
    """Row -> reason; of lists of vectors the number of the vector."""
    return flaws(batch.column(INDICES), batch.column(WEIGHTS), form.dim) if form.sparse else bad_rows(vectors)


def _model_vectors(row: pa.RecordBatch, form: VectorFormat) -> Floats:
    """[n, D] of one row."""
    if form.sparse:
        return dense_rows(row.column(INDICES), row.column(WEIGHTS), form.dim)
    return as_float32(row.column(form.column), form.vector, form.int8_scale)


def _audit_source(
    shard: Shard,
    receipt: Receipt,
    plan: ReadPlan,
    left_out: LeftOut | None,
    skip: set[tuple[int | None, str]],
    sample: int,
    audit: ShardAudit,
) -> None:
    """Read the source again; `skip` are quarantined rows: those that have been read, by number and id, have no vector."""
    digest = RowsDigest()
    rows = 0
    try:
        for window in without(read_windows(shard, plan, dict.fromkeys(receipt.excluded, "excluded")), left_out):
            rows += window.rows_read
            audit.excluded += window.excluded_rows
            columns = (window.table[name].to_pylist() for name in (ROW, ID, TEXT))
            for number, id_, text in zip(*columns, strict=True):
                if (number, str(id_)) in skip:
                    continue
                hashed = text_hash(text)
                digest.add(id_, hashed)
                audit.documents += 1
                if len(audit.texts) < sample:
                    audit.texts[(str(id_), hashed)] = text
    except (ObjectMissing, ObjectChanged) as error:
        audit.notes.append(f"source changed since the run, its rows are compared with the receipt only: {error}")
        return
    except ObjectError as error:
        audit.findings.append(f"source cannot be read again: {error}")
        return
    if rows != receipt.rows_read:
        audit.findings.append(f"shard {shard.number}: the source has {rows} rows, {receipt.rows_read} were read")
    if audit.excluded != receipt.excluded_rows:
        audit.findings.append(
            f"shard {shard.number}: corpus.exclude leaves out {audit.excluded} rows, {receipt.excluded_rows} by its receipt"
        )
    if str(digest) != receipt.source_digest:
        audit.findings.append(
            f"shard {shard.number}: the source's documents are not those of its receipt (rows lost, added or altered)"
        )


def _quarantined_rows(store: Store, receipt: Receipt, audit: ShardAudit) -> set[tuple[int | None, str]]:
    """(row of its object, id) of what was not embedded, whatever the reason; what could not be read, is refused again."""
    if receipt.quarantine is None:
        return set()
    try:
        table = read_quarantine(store.read(receipt.quarantine.path))
    except FileNotFoundError:
        audit.findings.append(f"{store.uri_of(receipt.quarantine.path)}: is missing")
        return set()
    return {(row["row"], row["id"]) for row in table.to_pylist() if row["id"] is not None}
