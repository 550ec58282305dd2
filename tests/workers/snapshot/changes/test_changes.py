"""Changes of whole snapshots against dictionaries: random edits, with chunks and partitions; parts read; files."""

from __future__ import annotations

import dataclasses
import itertools
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import workers.snapshot.changes.compare as compare_module
import workers.snapshot.changes.scan as scan_module
import workers.snapshot.changes.write as write_module
from tests.described_snapshots import (
    SHARDS,
    Corpus,
    Doc,
    Key,
    Snapshot,
    edited,
    expected,
    made,
    schema_of,
    write_snapshot,
)
from tests.documented import apply_changes
from tests.workers.output_samples import plan, stamp
from workers.config import LongText, VectorType
from workers.errors import ObjectError
from workers.records.documents import text_hash
from workers.records.shard import OutputFile
from workers.snapshot.changes.compare import Comparison
from workers.snapshot.changes.sides import sides_of, why_not
from workers.snapshot.changes.write import write_changes
from workers.storage.store import Store
from workers.table.schema import OutputSchema, output_schema

CASES = int(os.environ.get("REEMBED_CHANGE_CASES", "6"))


@dataclass
class Read:
    """Parts and columns that were read."""

    parts: list[str] = field(default_factory=list)
    columns: Counter[tuple[str, bool]] = field(default_factory=Counter)  # part, with its vectors?


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> Read:
    found, real = Read(), scan_module.open_part

    def counted(store: Store, path: str, **more: Any) -> Any:
        found.parts.append(path)
        return real(store, path, **more)

    def batches(self: Any, rows: int, columns: Sequence[str], **more: Any) -> Any:
        found.columns[self.uri, "embedding" in columns] += 1
        return real_batches(self, rows, columns, **more)

    from workers.table.part_file import PartReader

    real_batches = PartReader.batches
    monkeypatch.setattr(scan_module, "open_part", counted)
    monkeypatch.setattr(PartReader, "batches", batches)
    return found


def run_comparison(store: Store, old: Snapshot | None, new: Snapshot, folder: Path) -> tuple[Comparison, list[OutputFile]]:
    folder.mkdir()
    sides = sides_of(old.facts if old is not None else None, new.facts)
    comparison = Comparison(store, *sides, folder)
    return comparison, write_changes(comparison, store, store, f"{folder.name}-out", folder, lambda: None)


def ops_of(store: Store, files: Sequence[OutputFile]) -> dict[str, list[Key]]:
    found: dict[str, list[Key]] = {name: [] for name in ("added", "changed", "patched", "deleted")}
    for file in files:
        table = pq.read_table(pa.BufferReader(store.read(file.path)))
        assert len(table) == file.rows
        chunks = table["chunk"].to_pylist() if "chunk" in table.column_names else [None] * len(table)
        for op, id_, chunk in zip(table["op"].to_pylist(), table["id"].to_pylist(), chunks, strict=True):
            found[op].append((id_, chunk))
    return found


def sorted_rows(table: pa.Table) -> pa.Table:
    keys = [("id", "ascending"), *([("chunk", "ascending")] if "chunk" in table.column_names else [])]
    return table.select(sorted(table.column_names)).sort_by(keys).combine_chunks()


@pytest.mark.parametrize("seed", range(CASES))
def test_random_edits(seed: int, tmp_path: Path, read: Read, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exactly the edits; applied as documented they give the new rows bit for bit; no common part is opened."""
    rng, fresh = np.random.default_rng(seed), itertools.count()
    monkeypatch.setattr(compare_module, "BUCKET_BYTES", [56 * 7, 16 << 20][seed % 2])
    monkeypatch.setattr(write_module, "FILE_BYTES", [2000, 128 << 20][seed // 2 % 2])
    monkeypatch.setattr(write_module, "ROW_GROUP_ROWS", [3, 65_536][seed // 3 % 2])
    store = Store(str(tmp_path / "out"), {})
    stamped: dict[str, Any] = {"long_text": [LongText.CHUNKS, LongText.TRUNCATE][seed % 3 == 2]}
    partition_by = [(), ("lang",)][seed // 2 % 2]
    first = {number: made(rng, fresh, int(rng.integers(0, 12))) for number in range(SHARDS)}
    old = write_snapshot(store, tmp_path / "spool", schema_of("run-1", partition_by, **stamped), first, part_rows=7)
    corpus = edited(first, rng, fresh)
    new = write_snapshot(store, tmp_path / "spool", schema_of("run-2", partition_by, **stamped), corpus, old, part_rows=7)
    read.parts.clear()
    comparison, files = run_comparison(store, old, new, tmp_path / "work")
    opened = list(read.parts)

    wanted = expected(old, new)
    assert {name: sorted(keys) for name, keys in ops_of(store, files).items()} == {n: sorted(k) for n, k in wanted.items()}
    assert dataclasses.asdict(comparison.counts) == {name: len(keys) for name, keys in wanted.items()} | {"shared_keys": 0}
    uris = [store.uri_of(file.path) for file in files]
    before, after = old.table(store), new.table(store)
    if len(after):
        assert sorted_rows(apply_changes(before, uris)).equals(sorted_rows(after))
    unchanged = {number for number in first if first[number] == corpus[number]}
    assert not [path for path in opened for number in unchanged if f"part-{number:07d}" in path]
    again = run_comparison(store, old, new, tmp_path / "again")[1]
    assert [(file.rows, file.sha256) for file in again] == [(file.rows, file.sha256) for file in files]


@pytest.mark.parametrize("seed", range(max(2, CASES // 4)))
def test_ids_that_occur_twice(seed: int, tmp_path: Path) -> None:
    """Deleted by key and added, the rows are those of the new snapshot, however often a key occurs among the parts read."""
    rng, fresh = np.random.default_rng(1000 + seed), itertools.count()
    store = Store(str(tmp_path / "out"), {})
    schema = schema_of("run-1", long_text=[LongText.CHUNKS, LongText.TRUNCATE][seed % 2])
    empty = {number: list[Doc]() for number in range(SHARDS)}
    first = edited(
        edited({0: made(rng, fresh, 9), **{n: empty[n] for n in range(1, SHARDS)}}, rng, fresh, False), rng, fresh, False
    )
    old = write_snapshot(store, tmp_path / "spool", schema, first)
    second = {number: [] for number in range(SHARDS)} | {9: edited(first, rng, fresh, False)[0] + first[1][:1] * 2}
    new = write_snapshot(store, tmp_path / "spool", dataclasses.replace(schema, stamp=stamp_of(schema, "run-2")), second)
    comparison, files = run_comparison(store, old, new, tmp_path / "work")
    counted = [Counter(key for key, *_ in side.rows()) for side in (old, new)]
    assert comparison.counts.shared_keys == sum(max(side[key] for side in counted) > 1 for key in counted[0] | counted[1])
    ops = ops_of(store, files)
    gone = set(ops["deleted"] + ops["changed"])
    tables = [pq.read_table(pa.BufferReader(store.read(file.path))) for file in files]
    left = [row for row in full_rows(old.table(store)) if row[0] not in gone | set(ops["patched"])]
    written = [row for table in tables if "embedding" in table.column_names for row in full_rows(table)]
    patched = Counter(row for row in full_rows(new.table(store)) if row[0] in ops["patched"])
    assert Counter(left) + Counter(written) + patched == Counter(full_rows(new.table(store)))


def stamp_of(schema: OutputSchema, run_id: str) -> Any:
    return dataclasses.replace(schema.stamp, run_id=run_id)


def full_rows(table: pa.Table) -> list[tuple[Any, ...]]:
    chunks = table["chunk"].to_pylist() if "chunk" in table.column_names else [None] * len(table)
    names = ["embedding", "text_hash", "lang", "tags", "num_tokens"]
    cells = [table[name].to_pylist() for name in names]
    return [((i, c), *map(repr, rest)) for i, c, *rest in zip(table["id"].to_pylist(), chunks, *cells, strict=True)]


def night(store: Store, tmp_path: Path, change: Callable[[Corpus], None], **stamped: Any) -> tuple[Snapshot, Snapshot]:
    rng, fresh = np.random.default_rng(0), itertools.count()
    first = {number: made(rng, fresh, 20) for number in range(SHARDS)}
    old = write_snapshot(store, tmp_path / "spool", schema_of("run-1"), first)
    second = {number: [dataclasses.replace(doc) for doc in docs] for number, docs in first.items()}
    change(second)
    return old, write_snapshot(store, tmp_path / "spool", schema_of("run-2", **stamped), second, None if stamped else old)


def counts(comparison: Comparison) -> tuple[int, ...]:
    found = comparison.counts
    return found.added, found.changed, found.patched, found.deleted


def test_vectors_are_read_only_where_they_decide_or_are_shipped(tmp_path: Path, read: Read) -> None:
    store = Store(str(tmp_path / "out"), {})
    new_docs = [Doc(f"new{number}", ["x"]) for number in range(3)]
    old, new = night(store, tmp_path, lambda corpus: corpus.update({0: [], 7: new_docs}))
    comparison, _ = run_comparison(store, old, new, tmp_path / "work")
    assert counts(comparison) == (3, 0, 0, 20)
    assert len(read.parts) == 4, "scanned once each; the deleted rows' keys; the added rows"
    assert [uri for (uri, vectors), _ in read.columns.items() if vectors] == [store.uri_of(new.files[-1].path)]


def test_a_row_that_moves_is_no_change(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "out"), {})

    def move(corpus: Corpus) -> None:
        corpus[1] += corpus[0]
        corpus[0] = []

    old, new = night(store, tmp_path, move)
    assert counts(run_comparison(store, old, new, tmp_path / "work")[0]) == (0, 0, 0, 0)


def test_another_model_changes_what_differs_in_bits(tmp_path: Path) -> None:
    """binary keeps signs alone: a vector whose signs are the same is the same."""
    store = Store(str(tmp_path / "out"), {})
    old, new = night(store, tmp_path, lambda corpus: None, weights_digest="other")
    assert counts(run_comparison(store, old, new, tmp_path / "work")[0]) == (0, 100, 0, 0)


@pytest.mark.parametrize(
    "stamped", [{"dim": 16}, {"vector": VectorType.FLOAT16}, {"vector": VectorType.INT8, "int8_scale": 0.02}]
)
def test_another_kind_of_vector_changes_all(tmp_path: Path, stamped: Mapping[str, Any]) -> None:
    store = Store(str(tmp_path / "out"), {})
    old, new = night(store, tmp_path, lambda corpus: None, **stamped)
    assert counts(run_comparison(store, old, new, tmp_path / "work")[0]) == (0, 100, 0, 0)


def test_whole_documents_become_chunks(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "out"), {})
    old, new = night(store, tmp_path, lambda corpus: None, long_text=LongText.CHUNKS)
    comparison, files = run_comparison(store, old, new, tmp_path / "work")
    assert counts(comparison) == (len(new.rows()), 0, 0, 100)
    assert {chunk for _, chunk in ops_of(store, files)["deleted"]} == {None}
    assert sorted_rows(apply_changes(old.table(store), [store.uri_of(file.path) for file in files])).equals(
        sorted_rows(new.table(store))
    )


def test_a_first_load_adds_all(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "out"), {})
    old, _ = night(store, tmp_path, lambda corpus: None)
    comparison, files = run_comparison(store, None, old, tmp_path / "work")
    assert counts(comparison) == (100, 0, 0, 0)
    (file,) = files
    table = pq.read_table(pa.BufferReader(store.read(file.path)))
    assert table["old_text_hash"].null_count == 100
    assert table.drop_columns(["op", "old_text_hash"]).select(old.schema.rows.names).equals(old.table(store))


def test_the_columns_of_each_file(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "out"), {})

    def change(corpus: Corpus) -> None:
        corpus[0][0].tags = ["patched"]
        corpus[0][1].words = ["changed"]
        corpus[0][2].made = 5
        del corpus[0][3]

    old, new = night(store, tmp_path, change)
    _, files = run_comparison(store, old, new, tmp_path / "work")
    found = {file.path.rpartition("/")[2]: pq.read_table(pa.BufferReader(store.read(file.path))) for file in files}
    rest = ["embedding", "num_tokens", "truncated", "lang", "tags"]
    assert {name: table.column_names for name, table in found.items()} == {
        "deletes-00000.parquet": ["op", "id", "old_text_hash"],
        "upserts-00000.parquet": ["op", "id", "old_text_hash", "text_hash", *rest],
        "patches-00000.parquet": ["op", "id", "old_text_hash", "text_hash", *rest[1:]],
    }
    (upserted,) = [file.path for file in files if "upserts" in file.path]
    footer = pq.read_metadata(pa.BufferReader(store.read(upserted))).metadata
    assert (footer[b"reembed.changes_from"], footer[b"reembed.changes_to"]) == (b"run-1", b"run-2")
    assert footer[b"reembed.vector"] == b"float32"
    docs = old.corpus[0]
    hashes = {doc.id: text_hash(" ".join(doc.words)) for doc in docs}
    for table in found.values():
        for row in table.to_pylist():
            assert row["old_text_hash"] == hashes[row["id"]]
    assert found["deletes-00000.parquet"]["id"].to_pylist() == [docs[3].id]
    upserts = found["upserts-00000.parquet"]
    assert dict(zip(upserts["id"].to_pylist(), upserts["text_hash"].to_pylist(), strict=True)) == {
        docs[1].id: text_hash("changed"), docs[2].id: hashes[docs[2].id],
    }  # fmt: skip


def test_other_kept_columns_patch_every_row(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "out"), {})
    rng, fresh = np.random.default_rng(0), itertools.count()
    corpus = {0: made(rng, fresh, 5)}
    old = write_snapshot(store, tmp_path / "spool", schema_of("run-1"), corpus)
    fewer = output_schema(plan({"lang": pa.string()}), stamp(run_id="run-2", dim=8), ())
    new = write_snapshot(store, tmp_path / "spool", fewer, corpus)
    assert counts(run_comparison(store, old, new, tmp_path / "work")[0]) == (0, 0, 5, 0)


def test_ids_of_another_type_are_refused() -> None:
    numbers = output_schema(plan(id_type=pa.int64()), stamp(), ())
    assert why_not(schema_of("a"), numbers) == "its ids are int64, those of the other snapshot string"
    assert why_not(numbers, numbers) is None


def test_a_part_that_is_gone_or_altered_is_named(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "out"), {})
    old, new = night(store, tmp_path, lambda corpus: corpus[0].pop(0) and None)
    (path,) = [file.path for file in old.files if "0000000" in file.path]
    data = store.read(path)
    store.put(path, data[:-1])
    with pytest.raises(ObjectError, match=f"{path}: a part of snapshot run-1 is missing or altered"):
        run_comparison(store, old, new, tmp_path / "work")
    store.delete(path)
    with pytest.raises(ObjectError, match="missing or altered"):
        run_comparison(store, old, new, tmp_path / "work2")


def test_a_key_that_stands_in_a_part_of_both_is_found_on_demand(tmp_path: Path) -> None:
    """Shard 1 is the same in both; the new shard repeats one of its ids."""
    store = Store(str(tmp_path / "out"), {})
    old, new = night(store, tmp_path, lambda corpus: corpus.update({7: [Doc(corpus[1][0].id, ["another"])]}))
    assert counts(run_comparison(store, old, new, tmp_path / "work")[0]) == (1, 0, 0, 0)
    folder = tmp_path / "whole"
    folder.mkdir()
    comparison = Comparison(store, *sides_of(old.facts, new.facts, whole=True), folder)
    assert (counts(comparison), comparison.counts.shared_keys) == ((2, 0, 0, 1), 1)
    files = write_changes(comparison, store, store, "whole-out", folder, lambda: None)
    ops = ops_of(store, files)
    twice = old.corpus[1][0].id
    assert (ops["deleted"], ops["added"]) == ([(twice, None)], [(twice, None)] * 2)
    left = [row for row in full_rows(old.table(store)) if row[0][0] != twice]
    (upserts,) = [file.path for file in files if "upserts" in file.path]
    added = full_rows(pq.read_table(pa.BufferReader(store.read(upserts))))
    assert Counter(left + added) == Counter(full_rows(new.table(store)))
