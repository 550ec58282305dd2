"""Texts that stand several times in a shard, or in an earlier snapshot: computed once or not at all, the rows as ever."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.workers.corpus_files import plan_of, slice_of
from tests.workers.output_samples import rows, schema
from tests.workers.shard_line import MAX_TOKENS, SETTINGS, Line, documents
from workers.config import Pooling, VectorType
from workers.dedup.deduplicator import PROBE_TEXTS
from workers.dedup.vector_cache import VectorCache
from workers.records.shard import TOKEN_BINS, Receipt, Shard
from workers.snapshot.audit import audit_shard

TEXTS = [f"text {'and ' * (number % 12)}number {number}" for number in range(40)]  # up to 14 words, 3 chunks
FEW_WORDS = 150  # bytes of a window: a few texts


@pytest.fixture(params=list(SETTINGS))
def line(request: pytest.FixtureRequest, tmp_path: Path) -> Line:
    return Line(tmp_path, SETTINGS[request.param])


def words(texts: Sequence[str], line: Line) -> int:
    """Tokens that the model is given for these texts."""
    return sum(len(text.split()) if line.chunked else min(len(text.split()), MAX_TOKENS) for text in texts)


def by_id(rows: Sequence[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        found.setdefault(row["id"], []).append({name: cell for name, cell in row.items() if name != "id"})
    return found


def same(one: Sequence[dict[str, Any]], other: Sequence[dict[str, Any]]) -> None:
    """The same rows in the same order, to the bit."""
    assert len(one) == len(other)
    for left, right in zip(one, other, strict=True):
        assert left.keys() == right.keys()
        for name in left:
            assert np.array_equal(left[name], right[name]), (name, left, right)


def check(line: Line, run_id: str, rows: Sequence[dict[str, Any]], receipt: Receipt) -> None:
    """What `reembed verify` would find: source and parts agree, digests hold, each row once."""
    source = line.folder / f"{run_id}-0.jsonl"
    shard = Shard(0, (slice_of(source, first_row=0),), 0)
    plan = replace(plan_of(None, id="id"), window_bytes=1 << 20)
    assert audit_shard(line.store, shard, receipt, plan, line.schema(run_id), run_id, 0).findings == []
    assert receipt.rows == len(line.rows(receipt)) == sum(file.rows for file in receipt.files)
    assert (receipt.documents, sum(receipt.token_histogram)) == (len(rows), len(rows))


def test_a_text_is_embedded_once_wherever_it_stands(line: Line) -> None:
    texts = [TEXTS[number * number % 23] for number in range(120)]
    distinct = list(dict.fromkeys(texts))
    alone = line.run("alone", documents(distinct))
    assert (alone.repeated_rows, alone.reused_rows, alone.probed, alone.probe_cosine) == (0, 0, 0, None)
    rows_of = dict(zip(distinct, by_id(line.rows(alone)).values(), strict=True))

    receipt = line.run("run", documents(texts), window_bytes=FEW_WORDS)
    assert len(line.shapes) > 10
    assert line.shown == distinct
    same(line.rows(receipt), [{"id": f"doc-{place}"} | row for place, text in enumerate(texts) for row in rows_of[text]])
    check(line, "run", texts, receipt)
    assert receipt.repeated_rows == receipt.rows - alone.rows
    assert (receipt.tokens, receipt.padded_tokens) == (alone.tokens, alone.padded_tokens) == (words(distinct, line),) * 2
    assert receipt.truncated == sum(rows_of[text][0]["truncated"] for text in texts)
    tokens = [sum(row["num_tokens"] for row in rows_of[text]) for text in texts]
    assert receipt.token_histogram == tuple(
        sum(low < count <= high for count in tokens)
        for low, high in zip((-1, *TOKEN_BINS), (*TOKEN_BINS, 10**9), strict=True)
    )
    assert receipt.ended > 1.7e9


def test_vectors_come_from_earlier_parts_and_all_else_from_the_new_source(line: Line) -> None:
    line.partition_by = ["lang"]
    before = documents(TEXTS[:30], lang=["a", "b"] * 15, note=["old"] * 30)
    base = line.run("base", before)
    new = [*TEXTS[20:40], "brand new text", TEXTS[3], TEXTS[39], TEXTS[3]]
    now = documents(new, first=100, lang=["c", "a", "b"] * 8, note=["new"] * 24)
    earlier = [file.path for file in base.files]
    receipt = line.run("next", now, earlier, window_bytes=FEW_WORDS)
    rows, shown = line.rows(receipt), list(line.shown)
    full = line.run("full", now, window_bytes=FEW_WORDS)
    same(rows, line.rows(full))
    assert {row["note"] for row in rows} == {"new"}
    assert [file.path.replace("/next/", "/full/") for file in receipt.files] == [file.path for file in full.files]

    reused = [text for text in new if text in TEXTS[:30]]
    assert receipt.reused_rows == sum(len(by_id(rows)[row["id"]]) for row in now if row["text"] in TEXTS[:30])
    assert receipt.repeated_rows == len(by_id(rows)["doc-119"])  # has the text of doc-122
    assert (full.reused_rows, full.token_histogram, full.truncated) == (0, receipt.token_histogram, receipt.truncated)
    probes = [text for text in shown if text in reused]
    assert len(probes) == receipt.probed > 0
    assert [text for text in shown if text not in probes] == [*TEXTS[30:40], "brand new text"]
    assert receipt.tokens == words(shown, line)
    assert receipt.probe_cosine is not None
    assert receipt.probe_cosine > 0.998


def test_when_nothing_is_new_only_the_probe_is_computed(line: Line) -> None:
    base = line.run("base", documents(TEXTS))
    receipt = line.run("next", documents(TEXTS, first=7), [file.path for file in base.files])
    assert (receipt.reused_rows, receipt.rows, receipt.probed) == (base.rows, base.rows, PROBE_TEXTS)
    assert line.shapes == [PROBE_TEXTS]
    assert line.shown[0] == TEXTS[0]
    assert line.shown[-1] == TEXTS[-1]
    again = line.run("third", documents(TEXTS), [file.path for file in receipt.files])
    same(line.rows(again), line.rows(base))


def test_the_probe_finds_a_replica_that_returns_noise(line: Line) -> None:
    base = line.run("base", documents(TEXTS))
    line.noise = True
    for run_id, texts in (("same", TEXTS), ("more", [*TEXTS, "new one"])):
        receipt = line.run(run_id, documents(texts), [file.path for file in base.files])
        assert receipt.probe_cosine is not None
        assert receipt.probe_cosine < 0.9
        same(line.rows(receipt)[: base.rows], line.rows(base))  # what is stored stays what it was


def test_long_texts_are_not_probed_where_there_are_short_ones(tmp_path: Path) -> None:
    line = Line(tmp_path)
    long = [f"{'word ' * 4000}{number}" for number in range(3)]
    base = line.run("base", documents([*long, *TEXTS[:2]]))
    line.run("next", documents([*long, *TEXTS[:2]]), [file.path for file in base.files])
    assert line.shown == TEXTS[:2]
    line.run("long", documents(long), [file.path for file in base.files])
    assert line.shown == long[:1]


@pytest.mark.parametrize(("word", "reason"), [("nan", "vector has NaN or Inf"), ("zero", "vector is all zeros")])
def test_a_bad_vector_takes_every_document_that_has_its_text(word: str, reason: str, line: Line) -> None:
    bad = f"{'good ' * 7}{word}" if line.chunked else word
    texts = [TEXTS[0], bad, TEXTS[1], bad, *TEXTS[2:30], bad, TEXTS[0]]
    receipt = line.run("run", documents(texts), window_bytes=FEW_WORDS)
    assert (receipt.documents, receipt.quarantined_rows, receipt.rows_read) == (31, 3, 34)
    assert [row["id"] for row in line.rows(receipt) if row.get("chunk", 0) == 0] == [
        f"doc-{place}" for place, text in enumerate(texts) if text != bad
    ]
    assert receipt.quarantine is not None
    found = pq.read_table(line.store.uri_of(receipt.quarantine.path)).to_pylist()
    assert [(row["id"], row["row"], row["reason"]) for row in found] == [
        (f"doc-{place}", place, reason) for place, text in enumerate(texts) if text == bad
    ]
    assert line.shown.count(bad) == 1
    check(line, "run", texts[:31], receipt)
    # and what was never written is not in the cache of the next run
    line.run("next", documents(texts), [file.path for file in receipt.files])
    assert line.shown.count(bad) == 1


def test_clipped_components_count_as_often_as_they_are_written(tmp_path: Path) -> None:
    line = Line(
        tmp_path, {"vector": VectorType.INT8, "int8_scale": 0.002}
    )  # up to 0.254: most vectors are clipped somewhere
    distinct = line.run("distinct", documents(TEXTS[:10]))
    twice = line.run("twice", documents(TEXTS[:10] * 2), window_bytes=FEW_WORDS)
    assert twice.clipped == 2 * distinct.clipped > 0
    reused = line.run("reused", documents([*TEXTS[:10], TEXTS[11]]), [file.path for file in distinct.files])
    assert reused.clipped == line.run("one", documents([TEXTS[11]])).clipped
    chunks = Line(tmp_path, SETTINGS["chunks int8"] | {"int8_scale": 0.002})
    assert chunks.run("c2", documents(TEXTS[:20] * 2)).clipped == 2 * chunks.run("c1", documents(TEXTS[:20])).clipped > 0


def test_kept_columns_may_have_the_names_that_the_local_disk_uses(tmp_path: Path) -> None:
    for number, setting in enumerate(("int8", "chunks int8", "float32")):
        line = Line(tmp_path, SETTINGS[setting])
        names = {
            name: [f"{name} {place}" for place in range(5)] for name in ("clipped", "row", "rows", "keep.text", "cache")
        }
        base = line.run(f"base-{number}", documents(TEXTS[:5], **names))
        receipt = line.run(f"next-{number}", documents(TEXTS[:5] * 2, **{key: cells * 2 for key, cells in names.items()}),
                           [file.path for file in base.files])  # fmt: skip
        for row in line.rows(receipt):
            assert {row[name] for name in names} == {f"{name} {int(row['id'][4:]) % 5}" for name in names}


def test_every_attempt_computes_the_same_batches(line: Line) -> None:
    base = [line.run("base", documents(TEXTS[:15])), line.run("base", documents(TEXTS[10:30]), shard=1)]
    earlier = [file.path for receipt in base for file in receipt.files]
    calls, rows = [], []
    for number, paths in enumerate((earlier, earlier[::-1], earlier * 2)):
        receipt = line.run(f"run-{number}", documents(TEXTS * 2), paths, window_bytes=FEW_WORDS)
        calls.append((line.shapes, line.shown))
        rows.append(line.rows(receipt))
    assert calls[0] == calls[1] == calls[2]
    same(rows[0], rows[1])
    same(rows[0], rows[2])


def test_white_space_is_counted_and_quarantined(tmp_path: Path) -> None:
    receipt = Line(tmp_path).run("run", documents(["a", " ", "\n\t", "b"]))
    assert (receipt.empty, receipt.quarantined_rows, receipt.documents) == (2, 2, 2)


def test_a_shard_without_documents(line: Line) -> None:
    receipt = line.run("run", documents([" ", ""]))
    assert (receipt.rows, receipt.documents, receipt.files, sum(receipt.token_histogram)) == (0, 0, (), 0)


@pytest.mark.parametrize("pooling", [Pooling.MEAN, Pooling.TOKENS])
def test_rows_in_any_order_from_both_files(pooling: Pooling, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workers.dedup.vector_cache.GATHERED_ROWS", 64)  # several turns
    shape = schema(pooling=pooling)
    cache, tables = VectorCache(tmp_path, shape), []
    for number, put in enumerate([cache.prefill, cache.prefill, cache.append, cache.append, cache.append]):
        tables.append(rows(shape, 50 + number, seed=number).select(list(shape.of_text)))
        put(tables[-1])
    everything = pa.concat_tables(tables)
    assert cache.rows == len(everything) == 260
    generator = np.random.default_rng(1)
    with cache.open() as found:
        for chosen in (generator.integers(0, 260, 300), np.sort(generator.integers(0, 260, 40)), np.arange(30, 230), [259]):
            taken = found.take(np.array(chosen, np.int64))
            cache.release()
            assert taken.equals(everything.take(pa.array(chosen)))
        assert found.numbers("num_tokens").tolist() == everything["num_tokens"].to_pylist()
