"""Runs on storage, judged: made-up disasters name themselves, and nothing is read twice."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pytest

from jobs.publish.gate.checks import GateCheck
from jobs.publish.gate.figures import Golden, load_figures, load_golden, save_figures, save_golden
from jobs.state.ledger import Ledger
from tests.jobs.gate_runs import LAST, NOW, MadeRun, made_run, noise, of_texts, rewritten
from workers.config import VectorType
from workers.storage.store import Store
from workers.table.paths import RunPaths


class Watched(Store):
    """Remembers which parts were opened."""

    opened: tuple[str, ...] = ()

    def open(self, path: str, **options: Any) -> IO[bytes]:
        self.opened += (path,)
        return super().open(path, **options)


def failing(checks: dict[str, GateCheck]) -> list[str]:
    return [name for name, check in checks.items() if not check.ok]


@pytest.fixture
def last(tmp_path: Path) -> MadeRun:
    run = made_run(tmp_path, LAST, of_texts())
    run.publish()
    return run


def test_the_first_run(tmp_path: Path) -> None:
    checks = made_run(tmp_path, NOW, of_texts()).judge()
    assert failing(checks) == []
    assert checks["row_change"].note == "nothing is published yet"
    assert (checks["norms"].ok, checks["norms"].skipped) == (True, False)


def test_a_good_run_after_a_good_one(tmp_path: Path, last: MadeRun) -> None:
    checks = made_run(tmp_path, NOW, of_texts()).judge()
    assert failing(checks) == []
    assert [name for name, check in checks.items() if check.skipped] == ["golden"]
    assert "160 unchanged texts" in checks["sample"].note


def test_noise(tmp_path: Path, last: MadeRun) -> None:
    checks = made_run(tmp_path, NOW, noise()).judge()
    assert failing(checks) == ["sample", "mean_vector"]
    assert checks["norms"].ok, "noise of unit length"


@pytest.mark.parametrize("vector", list(VectorType))
def test_a_collapsed_snapshot_on_the_first_night(tmp_path: Path, vector: VectorType) -> None:
    """Vectors that differ by the rounding of bfloat16, whatever they are stored as."""
    once = np.random.default_rng(5).standard_normal(16)

    def collapsed(start: int, count: int) -> Any:
        noise = np.random.default_rng(start).standard_normal((count, 16)) * 2**-9
        vectors_ND = once + once * noise
        return (vectors_ND / np.linalg.norm(vectors_ND, axis=1, keepdims=True)).astype(np.float32)

    checks = made_run(tmp_path, NOW, collapsed, vector=vector).judge()
    assert failing(checks) == ["spread"]
    assert "160 vectors looked at, of 160 different texts" in checks["spread"].note
    (tmp_path / "good").mkdir()
    assert failing(made_run(tmp_path / "good", NOW, of_texts(), vector=vector).judge()) == []


def test_figures_of_an_earlier_version_are_made_again(tmp_path: Path) -> None:
    """They lack the distance of pairs; a judgement of the same run must not pass for want of it."""
    run = made_run(tmp_path, NOW, lambda start, count: np.tile(np.eye(16, dtype=np.float32)[0], (count, 1)))
    assert failing(run.judge()) == ["spread"]
    stored = load_figures(run.store, NOW)
    assert stored is not None
    assert stored.vectors is not None
    save_figures(run.store, replace(stored, vectors=replace(stored.vectors, pair_distance=None, texts=None)))
    assert failing(run.judge()) == ["spread"]


def test_half_of_the_corpus(tmp_path: Path, last: MadeRun) -> None:
    assert failing(made_run(tmp_path, NOW, of_texts(), shards=2).judge()) == ["row_change"]


def test_all_texts_truncated_or_empty(tmp_path: Path, last: MadeRun) -> None:
    run = made_run(tmp_path, NOW, of_texts())
    run.receipts = {number: replace(receipt, truncated=40, empty=40) for number, receipt in run.receipts.items()}
    checks = run.judge()
    assert failing(checks) == ["truncated", "empty"]
    assert "gate.max_truncated_increase=0.1" in checks["truncated"].reason
    assert failing(run.judge(max_truncated_increase=1, max_truncated=1, max_empty=1)) == []


def test_vectors_with_nan(tmp_path: Path, last: MadeRun) -> None:
    def spoil(table: pa.Table) -> pa.Table:
        cells = pa.FixedSizeListArray.from_arrays(pa.array(np.full(40 * 16, np.nan, np.float32)), 16)
        return table.set_column(table.schema.get_field_index("embedding"), "embedding", cells)

    run = made_run(tmp_path, NOW, of_texts())
    rewritten(run, 2, spoil)
    checks = run.judge()
    assert failing(checks) == ["sample", "norms"]
    assert checks["norms"].note == "40 of 160 vectors looked at have NaN or Inf"


def test_a_row_counted_twice(tmp_path: Path, last: MadeRun) -> None:
    """By a receipt that does not add up, and by one that does but is not what the part holds."""
    run = made_run(tmp_path, NOW, of_texts())
    good = run.receipts[1]
    run.receipts[1] = replace(good, documents=41)
    checks = run.judge()
    assert failing(checks) == ["accounting"]
    assert "shard 1 (s3://corpus/1): 40 rows read, 41 embedded or quarantined" in checks["accounting"].reason

    run.shards[1] = replace(run.shards[1], slices=(replace(run.shards[1].slices[0], rows=None),))
    files = (replace(good.files[0], rows=41),)
    run.receipts[1] = replace(good, rows_read=41, documents=41, rows=41, files=files)
    checks = run.judge()
    assert failing(checks) == ["accounting"]
    assert "part-0000001.parquet holds 40 rows, its receipt says 41" in checks["accounting"].reason


def test_probes_that_do_not_agree(tmp_path: Path, last: MadeRun) -> None:
    run = made_run(tmp_path, NOW, of_texts())
    run.record = replace(run.record, base=LAST)
    carried = {number: replace(receipt, carried_from=LAST) for number, receipt in run.receipts.items()}
    run.receipts = carried
    check = run.judge()["sample"]
    assert (check.skipped, check.note.startswith("vectors were carried over")) == (True, True)
    run.receipts = carried | {3: replace(run.receipts[3], carried_from=None, probed=16, probe_cosine=0.31)}
    checks = run.judge()
    assert failing(checks) == ["sample"]
    assert "cosines of 0.310000 and more between 16 unchanged texts" in checks["sample"].reason


def test_golden_texts(tmp_path: Path, last: MadeRun) -> None:
    run = made_run(tmp_path, NOW, of_texts())
    vectors = np.random.default_rng(0).standard_normal((26, 16)).astype(np.float32)
    save_golden(run.store, LAST, Golden.made_by(LAST, [vectors]))
    assert run.judge()["golden"].note == "no replica of this run told its vectors of the golden texts"
    kept = load_golden(run.store, NOW)
    assert kept is not None
    assert kept.run_id == LAST, "for the night after: nothing was embedded in this one"
    assert run.judge()["golden"].skipped, "they are still not its own"

    save_golden(run.store, NOW, Golden.made_by(NOW, [vectors, vectors + np.float32(1e-4)]))
    assert run.judge()["golden"].measured == pytest.approx(1, abs=1e-5)
    save_golden(run.store, NOW, Golden.made_by(NOW, [vectors, vectors[::-1]]))
    assert failing(run.judge()) == ["golden"]
    run.store.put(RunPaths(NOW).golden, b"damaged")
    assert run.judge()["golden"].skipped


def test_another_use_of_the_model(tmp_path: Path, last: MadeRun) -> None:
    run = made_run(tmp_path, NOW, noise(), pooling="cls")
    checks = run.judge()
    assert failing(checks) == ["model_change"]
    assert checks["model_change"].measured == "pooling: mean -> cls"
    assert failing(run.judge(allow_model_change=True)) == []


def test_chunks_that_overlap_otherwise_are_another_use(tmp_path: Path) -> None:
    made_run(tmp_path, LAST, of_texts(), long_text="chunks").publish()
    run = made_run(tmp_path, NOW, of_texts(), long_text="chunks")
    assert failing(run.judge()) == []
    run.record = replace(run.record, config={"model": {"chunk_overlap": 8}})
    checks = run.judge()
    assert failing(checks) == ["model_change"]
    assert checks["model_change"].measured == "chunk_overlap: 64 -> 8"
    cut = {"chunk_overlap": 64, "chunk_by": "sentences", "chunk_tokens": "auto", "chunk_language": "en"}
    run.record = replace(run.record, config={"model": cut})
    assert run.judge()["model_change"].measured == "chunk_by: tokens -> sentences"


def test_a_run_that_is_published_already(tmp_path: Path, last: MadeRun) -> None:
    checks = last.judge()
    assert failing(checks) == []
    assert checks["model_change"].note == "readers see this run already"


def test_parts_are_looked_at_once(tmp_path: Path, last: MadeRun) -> None:
    run = made_run(tmp_path, NOW, of_texts())
    run.record = replace(run.record, base=LAST)
    first = run.judge()
    watched = Watched(str(tmp_path / "out"), {})
    run.store = watched
    assert run.judge() == first
    assert watched.opened == ()
    kept = load_figures(run.store, NOW)
    assert kept is not None
    assert (kept.documents, kept.parts) == (160, kept.parts)
    run.store.put(RunPaths(NOW).figures, b"damaged")
    assert run.judge() == first
    assert {path.partition("/")[2].partition("/")[0] for path in watched.opened} == {NOW}


def test_parts_embedded_again_are_looked_at_again(tmp_path: Path, last: MadeRun) -> None:
    run = made_run(tmp_path, NOW, of_texts())
    run.judge()
    (file,) = run.receipts[0].files
    run.receipts[0] = replace(run.receipts[0], files=(replace(file, sha256="other"),))
    run.store = watched = Watched(str(tmp_path / "out"), {})
    run.judge()
    assert any(NOW in path for path in watched.opened)


def test_a_snapshot_whose_run_folder_is_gone(tmp_path: Path, last: MadeRun) -> None:
    """What CURRENT.json tells is compared all the same."""
    for path in last.store.list(RunPaths(LAST).root):
        last.store.delete(path)
    checks = made_run(tmp_path, NOW, of_texts(), shards=2, pooling="cls").judge()
    assert failing(checks) == ["row_change", "model_change"]
    checks = made_run(tmp_path, "other", of_texts()).judge()
    assert failing(checks) == []
    assert [name for name, check in checks.items() if check.skipped] == ["golden", "sample", "mean_vector"]


def test_a_part_that_is_gone_is_for_publishing_to_find(tmp_path: Path, last: MadeRun) -> None:
    run = made_run(tmp_path, NOW, of_texts())
    run.store.delete(run.receipts[1].files[0].path)
    assert failing(run.judge()) == []


def test_the_last_snapshot_of_an_earlier_version(tmp_path: Path, last: MadeRun) -> None:
    """It has no figures: they are made from its receipts and parts, and kept."""
    assert load_figures(last.store, LAST) is None
    with Ledger(last.store, LAST) as ledger:
        assert len(ledger.load()) == 4
    made_run(tmp_path, NOW, of_texts()).judge()
    kept = load_figures(last.store, LAST)
    assert kept is not None
    assert kept.vectors is not None
    assert (kept.documents, kept.vectors.count) == (160, 160)
