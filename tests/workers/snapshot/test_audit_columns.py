"""`verify` and several columns of vectors: each is looked at, and must be made of the same numbers."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.workers.corpus_files import plan_of, slice_of
from tests.workers.shard_line import Line, documents
from tests.workers.writing.test_columns import ENTRIES, TEXTS, stamped
from workers.records.shard import Receipt, Shard
from workers.snapshot.audit import ShardAudit, audit_shard, compare


def audited(line: Line, receipt: Receipt, sample: int = 0) -> ShardAudit:
    plan = replace(plan_of(None, id="id"))
    shard = Shard(0, (slice_of(line.folder / "run-0.jsonl", first_row=0),), 0)
    return audit_shard(line.store, shard, receipt, plan, line.schema("run"), "run", sample)


@pytest.fixture
def line(tmp_path: Path) -> Line:
    return Line(tmp_path, stamped(ENTRIES, scale=0.01))


def altered(line: Line, receipt: Receipt, name: str, change: Callable[[np.ndarray], np.ndarray]) -> Receipt:
    """The part with another column, and the receipt that fits to it."""
    (file,) = receipt.files
    parquet = pq.ParquetFile(io.BytesIO(line.store.read(file.path)))
    table = parquet.read()
    column = table[name].combine_chunks()
    cells = column.flatten().to_numpy(zero_copy_only=False).reshape(len(table), -1).copy()
    made = pa.FixedSizeListArray.from_arrays(pa.array(change(cells).reshape(-1)), type=column.type)
    table = table.set_column(table.column_names.index(name), table.schema.field(name), made)
    sink = io.BytesIO()
    with pq.ParquetWriter(sink, table.schema) as writer:
        writer.write_table(table)
        entries = {key: cell for key, cell in parquet.metadata.metadata.items() if key != b"ARROW:schema"}
        writer.add_key_value_metadata(entries)
    data = sink.getvalue()
    line.store.put(file.path, data)
    described = replace(file, bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
    return replace(receipt, files=(described,))


def test_a_good_part_has_no_findings(line: Line) -> None:
    assert audited(line, line.run("run", documents(TEXTS))).findings == []


@pytest.mark.parametrize("name", ["cut", "bits", "half"])
def test_one_component_of_one_row_is_found(line: Line, name: str) -> None:
    def change(cells: np.ndarray) -> np.ndarray:
        cells[7, 1] = cells[7, 1] + 1 if name != "half" else np.nextafter(cells[7, 1], np.float16(2))
        return cells

    receipt = altered(line, line.run("run", documents(TEXTS)), name, change)
    (finding,) = audited(line, receipt).findings
    assert finding.endswith(f"row 7: {name} is not made of embedding (1 such vectors of 40)")


def test_a_column_of_nothing_is_told_with_its_name(line: Line) -> None:
    receipt = altered(line, line.run("run", documents(TEXTS)), "half", lambda cells: cells * np.float16(np.nan))
    findings = audited(line, receipt).findings
    assert sum("column half: row" in finding and "NaN or Inf" in finding for finding in findings) == 3


def test_each_column_is_compared_with_texts_embedded_again(line: Line) -> None:
    audit = audited(line, line.run("run", documents(TEXTS)), sample=5)
    assert {name: len(known) for name, known in audit.stored.items()} == dict.fromkeys(
        ("embedding", "cut", "bits", "half"), 5
    )
    fresh = {key: audit.stored["embedding"][key] for key in audit.texts}
    for form in line.schema("run").stamp.formats:
        scores = compare(audit, fresh, form, normalize=True)
        stored = audit.stored[form.column]
        for key, score in scores.items():
            full = fresh[key][0].astype(np.float64)
            if form.column == "cut":
                full = full[:8]
            if form.column == "bits":
                full = np.where(full > 0, 1, -1)
            there = stored[key][0].astype(np.float64)
            assert score == pytest.approx(full @ there / np.linalg.norm(full) / np.linalg.norm(there), abs=1e-5)
            assert score > 0.99
