"""The bounded look at parts: of every vector type, however large the snapshot, whatever became of the files."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.publish.gate import samples as samples_module
from jobs.publish.gate.samples import compare_texts, measure_vectors, spread, text_cosine
from tests.jobs.gate_runs import LAST, NOW, made_run, noise, of_texts, rewritten
from tests.workers.output_samples import INT8_SCALE, rows, schema, unit_vectors, write
from workers.config import LongText, Pooling, VectorType
from workers.records.documents import text_hash
from workers.records.shard import ObjectSlice, OutputFile, Shard
from workers.snapshot.sample import PartUnreadable, find_rows, sample_part
from workers.storage.store import Store
from workers.table.vectors import VectorFormat


def one_part(folder: Path, count: int = 300, **stamp: Any) -> tuple[Store, OutputFile, VectorFormat]:
    folder.mkdir(parents=True, exist_ok=True)
    shape, store = schema(**{"int8_scale": INT8_SCALE, **stamp}), Store(str(folder), {})
    spool = folder / "spool"
    spool.mkdir(exist_ok=True)
    (file,) = write(store, shape, [rows(shape, count)], spool).files
    return store, file, VectorFormat(shape.stamp.vector, INT8_SCALE)


@pytest.mark.parametrize("vector", list(VectorType))
def test_the_first_rows_of_a_part(tmp_path: Path, vector: VectorType) -> None:
    store, file, stored = one_part(tmp_path, vector=vector)
    sample = sample_part(store, file, stored, 20)
    assert sample is not None
    assert sample.rows_in_part == 300
    assert sample.keys == [(text_hash(f"text {number}"), 0) for number in range(20)]
    expected = unit_vectors(300)[:20]
    if vector is VectorType.BINARY:
        expected = np.where(expected > 0, 1, -1)
    assert np.allclose(
        np.concatenate(sample.vectors), expected, atol={"float32": 0, "float16": 1e-3}.get(vector, INT8_SCALE)
    )
    whole = sample_part(store, file, stored, 1000)
    assert whole is not None
    assert len(whole.keys) == 300


def test_chunks_are_told_apart(tmp_path: Path) -> None:
    store, file, stored = one_part(tmp_path, long_text=LongText.CHUNKS)
    table = pq.read_table(io.BytesIO(store.read(file.path)))
    numbered = table.set_column(1, table.schema.field("chunk"), pa.array(range(300), pa.int32()))
    sink = io.BytesIO()
    pq.write_table(numbered, sink)
    store.put(file.path, sink.getvalue())
    sample = sample_part(store, replace(file, bytes=len(sink.getvalue())), stored, 3)
    assert sample is not None
    assert [chunk for _, chunk in sample.keys] == [0, 1, 2]


def test_lists_of_vectors_are_bounded_by_their_vectors(tmp_path: Path) -> None:
    """Rows of 1, 2, ... 7 vectors."""
    store, file, stored = one_part(tmp_path, pooling=Pooling.TOKENS, normalize=False)
    sample = sample_part(store, file, stored, 20)
    assert sample is not None
    assert [len(vectors) for vectors in sample.vectors] == [1, 2, 3, 4, 5, 6]
    found = find_rows(store, file, stored, {(text_hash("text 4"), 0), (text_hash("text 299"), 0)}, 20)
    assert {key: len(vectors) for key, vectors in found.items()} == {(text_hash("text 4"), 0): 5}


def test_rows_of_given_texts(tmp_path: Path) -> None:
    store, file, stored = one_part(tmp_path)
    wanted = {(text_hash(f"text {number}"), 0): number for number in (5, 270, 299, 1000)}
    found = find_rows(store, file, stored, wanted, 290)
    assert {wanted[key] for key in found} == {5, 270}
    assert all(np.array_equal(vectors[0], unit_vectors(300)[wanted[key]]) for key, vectors in found.items())


def test_what_publishing_would_find_is_left_to_it(tmp_path: Path) -> None:
    store, file, stored = one_part(tmp_path)
    assert sample_part(store, replace(file, bytes=file.bytes + 1), stored, 10) is None
    assert find_rows(store, replace(file, bytes=1), stored, {(b"", 0)}, 10) == {}
    store.delete(file.path)
    assert sample_part(store, file, stored, 10) is None


@pytest.mark.parametrize("damage", [b"not Parquet", b"PAR1 but not really PAR1", None])
def test_damage_within_is_named(tmp_path: Path, damage: bytes | None) -> None:
    store, file, stored = one_part(tmp_path)
    if damage is None:
        data = bytearray(store.read(file.path))
        data[4 : len(data) // 2] = b"\xff" * (len(data) // 2 - 4)
        damage = bytes(data)
    store.put(file.path, damage)
    with pytest.raises(PartUnreadable, match=r"part-0000003\.parquet cannot be read \("):
        sample_part(store, replace(file, bytes=len(damage)), stored, 300)


class Counting(Store):
    """Counts the bytes that are read of what is opened."""

    read_bytes = 0

    def open(self, path: str, **options: Any) -> IO[bytes]:
        stream = super().open(path, **options)
        plain = stream.read

        def counted(count: int = -1) -> bytes:
            data = plain(count)
            self.read_bytes += len(data)
            return data

        stream.read = counted  # type: ignore[method-assign]
        return cast("IO[bytes]", stream)


@pytest.mark.slow
def test_a_large_part_is_not_read_as_a_whole(tmp_path: Path) -> None:
    _, file, stored = one_part(tmp_path, 20_000, dim=384)
    assert file.bytes > 25_000_000
    store = Counting(str(tmp_path), {})
    sample = sample_part(store, file, stored, 64)
    assert sample is not None
    assert len(sample.keys) == 64
    assert store.read_bytes < 5_000_000


@pytest.mark.s3
def test_a_part_on_an_object_store(tmp_path: Path, s3_bucket: str) -> None:
    local, file, stored = one_part(tmp_path, 3000, dim=384)
    store = Store(f"s3://{s3_bucket}/out", {})
    store.put(file.path, local.read(file.path))
    sample = sample_part(store, file, stored, 64)
    assert sample is not None
    assert (sample.rows_in_part, len(sample.keys)) == (3000, 64)
    assert len(find_rows(store, file, stored, sample.keys, 100)) == 64
    assert sample_part(store, replace(file, bytes=1), stored, 64) is None
    store.delete(file.path)
    assert sample_part(store, file, stored, 64) is None


def test_figures_of_a_snapshot(tmp_path: Path) -> None:
    run = made_run(tmp_path, NOW, of_texts(), shards=6)
    figures, breaches = measure_vectors(run.stored)
    assert figures is not None
    assert (figures.count, figures.not_finite, breaches) == (240, 0, ())
    assert figures.mean_length == pytest.approx(1, abs=1e-6)
    assert np.allclose(figures.mean_D, of_texts()(0, 240).mean(axis=0), atol=1e-6)


def test_a_snapshot_of_many_parts_is_sampled_evenly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samples_module, "MOST_PARTS", 4)
    monkeypatch.setattr(samples_module, "MOST_VECTORS", 20)
    run = made_run(tmp_path, NOW, of_texts(), shards=8)
    figures, _ = measure_vectors(run.stored)
    assert figures is not None
    assert figures.count == 20
    expected = np.concatenate([of_texts()(start, 5) for start in (0, 80, 160, 240)])
    assert np.allclose(figures.mean_D, expected.mean(axis=0), atol=1e-6)
    assert spread(range(1000), 3) == [0, 333, 666]
    assert spread([1, 2], 3) == [1, 2]


def test_no_parts_no_figures(tmp_path: Path) -> None:
    run = replace(made_run(tmp_path, NOW, of_texts()), receipts={})
    assert measure_vectors(run.stored) == (None, ())


def test_parts_that_are_not_what_their_receipts_say(tmp_path: Path) -> None:
    run = made_run(tmp_path, NOW, of_texts())
    rewritten(run, 1, lambda table: pa.concat_tables([table, table.slice(0, 1)]))
    (file,) = run.receipts[2].files
    run.store.put(file.path, b"x" * file.bytes)
    figures, breaches = measure_vectors(run.stored)
    assert figures is not None
    assert figures.count == 80
    assert len(breaches) == 2
    assert "part-0000001.parquet holds 41 rows, its receipt says 40" in breaches[0]
    assert "part-0000002.parquet cannot be read" in breaches[1]


def test_nan_is_counted(tmp_path: Path) -> None:
    def spoil(table: pa.Table) -> pa.Table:
        cells = np.ones((40, 16), np.float32)
        cells[3, 7] = np.nan
        broken = pa.FixedSizeListArray.from_arrays(pa.array(cells.reshape(-1)), 16)
        return table.set_column(table.schema.get_field_index("embedding"), "embedding", broken)

    run = made_run(tmp_path, NOW, of_texts())
    rewritten(run, 3, spoil)
    figures, _ = measure_vectors(run.stored)
    assert figures is not None
    assert (figures.count, figures.not_finite) == (160, 1)


@pytest.mark.parametrize("vector", list(VectorType))
def test_the_same_texts_in_two_snapshots(tmp_path: Path, vector: VectorType) -> None:
    last = made_run(tmp_path, LAST, of_texts(), vector=vector)
    same = compare_texts(made_run(tmp_path, NOW, of_texts(), vector=vector).stored, last.stored)
    assert (same.count, same.least) == (160, pytest.approx(1, abs=1e-6))
    other = compare_texts(made_run(tmp_path, "other", noise(), vector=vector).stored, last.stored)
    assert other.least is not None
    assert (other.count, other.least < 0.3) == (160, True)


def test_texts_that_moved_are_found(tmp_path: Path) -> None:
    """Ten texts were inserted before them, and the objects were cut into other shards."""
    last = made_run(tmp_path, LAST, of_texts(), first=10)
    now = made_run(tmp_path, NOW, of_texts(), shards=2, texts=80)
    found = compare_texts(replace(now, shards=[_two_objects(shard.number) for shard in now.shards]).stored, last.stored)
    assert (found.count, found.least) == (140, pytest.approx(1, abs=1e-6)), "ten of them are in an object of the neighbour"


def _two_objects(number: int) -> Shard:
    pieces = tuple(ObjectSlice(f"s3://corpus/{at}", 100, "e", 0, 100) for at in (2 * number, 2 * number + 1))
    return Shard(number, pieces, 1000)


def test_a_corpus_that_has_moved(tmp_path: Path) -> None:
    last, now = made_run(tmp_path, LAST, of_texts()), made_run(tmp_path, NOW, of_texts())
    elsewhere = [replace(shard, slices=(replace(shard.slices[0], uri="gs://x"),)) for shard in now.shards]
    found = compare_texts(replace(now, shards=elsewhere).stored, last.stored)
    assert (found.count, found.least) == (160, pytest.approx(1, abs=1e-6))
    assert compare_texts(now.stored, replace(last, shards=[], receipts={}).stored).least is None


def test_nothing_to_compare(tmp_path: Path) -> None:
    last, now = made_run(tmp_path, LAST, of_texts()), made_run(tmp_path, NOW, of_texts(), first=5000)
    assert compare_texts(now.stored, last.stored).note == "no text of the sample stands in the last snapshot"
    carried = {number: replace(receipt, carried_from=LAST) for number, receipt in now.receipts.items()}
    found = compare_texts(replace(now, receipts=carried).stored, last.stored)
    assert (found.least, found.note) == (None, "no object that was embedded now is in the last snapshot")


def test_one_cosine_a_text() -> None:
    vectors = unit_vectors(3)
    plain, binary = VectorFormat(VectorType.FLOAT32), VectorFormat(VectorType.BINARY)
    assert text_cosine(vectors, vectors, plain) == pytest.approx(1)
    assert text_cosine(vectors, vectors[:2], plain) == -1
    assert text_cosine(vectors, -vectors, plain) == pytest.approx(-1)
    assert np.isnan(text_cosine(vectors * np.nan, vectors, plain))
    signs = np.ones((1, 400), np.float32)
    flipped = signs.copy()
    flipped[0, :8] = -1  # 2% of the signs: an angle of 0.02 pi
    assert text_cosine(flipped, signs, binary) == pytest.approx(np.cos(0.02 * np.pi))
