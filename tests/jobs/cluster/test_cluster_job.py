"""The program of `cluster` over small snapshots in this process: figures against brute force and faiss, nights, mistakes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.metrics import adjusted_rand_score

from jobs.cluster.config import ClusterJobConfig
from jobs.cluster.job import ClusterJob
from jobs.config import parse_section
from jobs.passes.kind import Kept, Outcome
from jobs.passes.source import SourceSnapshot
from tests.vector_snapshots import MemoryJournal, passes_over, publish_vectors
from workers.errors import UsageError
from workers.records.shard import Assignment, Receipt, Shard
from workers.storage.store import Store
from workers.vectors.derived import DerivedStamp
from workers.vectors.worker import VectorWorker, WorkerSettings

RUN, LATER = "20260101T000000Z-00000000", "20260102T000000Z-00000000"
ROWS, DIM, GROUPS = 1500, 16, 12


def _blobs(rows: int = ROWS, seed: int = 0, spread: float = 0.25) -> tuple[np.ndarray, np.ndarray]:
    """Vectors around GROUPS centres, the last of which has most, and the group of each."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).standard_normal((GROUPS, DIM))
    shares = np.arange(1, GROUPS + 1) / np.arange(1, GROUPS + 1).sum()
    group = rng.choice(GROUPS, rows, p=shares)
    return (centres[group] + spread * rng.standard_normal((rows, DIM))).astype(np.float32), group


def _job(source: Path, **settings: Any) -> ClusterJob:
    section = {"snapshot": str(source), "clusters": GROUPS, "words": 0, **settings}
    raw = {"cluster": section, "output": {"uri": f"{source}.clusters"}}
    return ClusterJob(parse_section(raw, "test", ClusterJobConfig))


def _run(job: ClusterJob, source: Path, kept: Kept | None = None, **options: Any) -> Outcome:
    columns = job.check(SourceSnapshot.open(str(source), {}, "snapshot"))
    with passes_over(source, columns, work=f"{source}.clusters", **options) as passes:
        return job.program(passes, kept)


def _write(outcome: Outcome, source: Path, run_id: str = RUN, target: str = "") -> tuple[pa.Table, Sequence[Shard]]:
    """The rows that the last pass writes, in the order of the source; and Kept.shards of that run."""
    opened = SourceSnapshot.open(str(source), {}, "snapshot")
    numbers, target = [shard.number for shard in opened.shards], target or f"{source}.clusters"
    stamp = DerivedStamp(run_id, "cluster", opened.run_id, opened.uri, outcome.step.footer() if outcome.step else {})
    worker = VectorWorker(
        WorkerSettings(str(source), target, opened.schema, stamp, "f", (), opened.first_rows, numbers, 1 << 30, True), "w"
    )
    tables = []
    assert outcome.step is not None
    for shard in opened.shards:
        receipt = worker.write(outcome.step, Assignment(shard, 1, 1))
        assert isinstance(receipt, Receipt), receipt
        tables += [pq.read_table(pa.BufferReader(Store(target, {}).read(file.path))) for file in receipt.files]
    worker.close()
    return pa.concat_tables(tables), opened.shards


def _kept(outcome: Outcome, shards: Sequence[Shard]) -> Kept:
    return Kept(RUN, outcome.state, outcome.facts, shards)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cluster") / "out"
    publish_vectors(folder, _blobs()[0], shards=5)
    return folder


@pytest.mark.parametrize("metric", ["cosine", "l2"])
def test_every_row_has_its_nearest_two_clusters_and_the_groups_are_found(source: Path, tmp_path: Path, metric: str) -> None:
    vectors, group = _blobs()
    outcome = _run(_job(source, metric=metric), source)
    table, _ = _write(outcome, source, target=str(tmp_path / "clusters"))
    centroids = np.stack(outcome.tables["clusters"].column("centroid").to_pylist()).astype(np.float64)
    rows = vectors.astype(np.float64)
    if metric == "cosine":
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        distances = 1 - rows @ centroids.T
        np.testing.assert_allclose(np.linalg.norm(centroids, axis=1), 1, atol=1e-6)
        inertia = 2 * distances.min(axis=1).sum()
    else:
        distances = np.linalg.norm(rows[:, None] - centroids[None], axis=2)
        inertia = (distances.min(axis=1) ** 2).sum()
    nearest = np.argsort(distances, axis=1)[:, :2]
    cluster = table.column("cluster").to_numpy()
    assert table.column("id").to_pylist() == [str(row) for row in range(ROWS)]
    assert (cluster == nearest[:, 0]).all()
    assert (table.column("second").to_numpy() == nearest[:, 1]).all()
    np.testing.assert_allclose(table.column("distance").to_numpy(), distances.min(axis=1), atol=2e-6)
    assert outcome.facts["inertia"] == pytest.approx(inertia, rel=1e-5)
    assert outcome.facts["rows"] == ROWS
    assert outcome.facts["clusters"] == GROUPS
    assert adjusted_rand_score(group, cluster) > 0.7
    counts = outcome.tables["clusters"].column("rows").to_numpy()
    assert (counts == np.bincount(cluster, minlength=GROUPS)).all()
    assert (np.diff(counts) <= 0).all(), "the largest is number 0"


def test_inertia_is_that_of_faiss_on_everything(source: Path) -> None:
    vectors, _ = _blobs()
    kmeans = faiss.Kmeans(DIM, 40, niter=25, seed=1, min_points_per_centroid=1, max_points_per_centroid=ROWS)
    kmeans.train(vectors)
    distances, _ = kmeans.index.search(vectors, 1)
    outcome = _run(_job(source, metric="l2", clusters=40, passes=10), source)
    assert outcome.facts["inertia"] <= 1.03 * distances.sum(), "few rows a cluster: starts differ more than at scale"


@pytest.mark.slow
def test_same_bits_whatever_the_threads_and_again_from_the_journal(source: Path) -> None:
    states = []
    for threads in (1, 2, 3):
        journal = MemoryJournal()
        outcomes = [_run(_job(source), source, threads=threads, journal=journal) for _ in range(2)]
        states += [{name: cells.tobytes() for name, cells in outcome.state.items()} for outcome in outcomes]
        states[-1]["report"] = states[-2]["report"] = b""
        assert outcomes[0].report == outcomes[1].report
        assert outcomes[0].tables["clusters"].equals(outcomes[1].tables["clusters"])
    assert all(state == states[0] for state in states)


def test_sample_and_start_do_not_depend_on_order_and_shards(tmp_path: Path) -> None:
    vectors, _ = _blobs()
    ids = [f"row-{row}" for row in range(ROWS)]
    order = np.random.default_rng(5).permutation(ROWS)
    publish_vectors(tmp_path / "one", vectors, ids=ids, shards=2)
    publish_vectors(tmp_path / "other", vectors[order], ids=[ids[row] for row in order], shards=7)
    found = []
    for name in ("one", "other"):
        outcome = _run(_job(tmp_path / name, sample=16, clusters=20, passes=1), tmp_path / name)
        found.append(outcome.tables["clusters"].drop_columns(["examples"]))
    centroids = [np.stack(table.column("centroid").to_pylist()) for table in found]
    np.testing.assert_allclose(centroids[0], centroids[1], atol=1e-5)


def test_the_next_night_keeps_centroids_and_reads_new_shards_alone(source: Path, tmp_path: Path) -> None:
    vectors, _ = _blobs()
    later = tmp_path / "out"
    first = tmp_path / "first"
    publish_vectors(first, vectors, shards=5)
    outcome = _run(_job(first), first)
    _, shards = _write(outcome, first)
    kept = _kept(outcome, shards)
    # the same output, and every shard the same but the last, which has rows replaced
    vectors[-100:] = _blobs(100, seed=7)[0]
    publish_vectors(later, vectors, shards=5)
    new = SourceSnapshot.open(str(later), {}, "snapshot")
    (tmp_path / "out.clusters").symlink_to(tmp_path / "first.clusters")
    again = _run(_job(later), later, Kept(kept.run_id, kept.state, kept.facts, new.shards[:4]))
    assert again.carry
    assert not again.facts["fitted"]
    assert [check.ok for check in again.checks] == [True]
    assert all((again.state[name] == value).all() for name, value in outcome.state.items())
    table, _ = _write(again, later, LATER)
    cluster = table.column("cluster").to_numpy()
    of_new = table.column("distance").to_numpy()[1200:].mean(dtype=np.float64)
    assert again.facts["drift"] == pytest.approx(of_new / outcome.facts["mean_distance"] - 1, abs=1e-5)
    described = again.tables["clusters"]
    assert (described.column("rows").to_numpy() == np.bincount(cluster, minlength=GROUPS)).all()
    assert again.facts["inertia"] == pytest.approx(
        2 * table.column("distance").to_numpy().astype(np.float64).sum(), rel=1e-6
    )
    nearest = np.argsort(table.column("distance").to_numpy(), kind="stable")
    for number, examples in enumerate(described.column("examples").to_pylist()):
        expected = [row for row in nearest if cluster[row] == number][: len(examples)]
        distances = table.column("distance").to_numpy()[expected]
        assert [example["distance"] for example in examples] == distances.tolist()


@pytest.mark.parametrize("on_drift", ["refit", "refuse"])
def test_rows_that_drift(tmp_path: Path, on_drift: str) -> None:
    vectors, _ = _blobs()
    publish_vectors(tmp_path / "out", vectors, shards=5)
    source = tmp_path / "out"
    outcome = _run(_job(source, on_drift=on_drift), source)
    before, _ = _write(outcome, source)
    vectors[1200:] = np.random.default_rng(3).standard_normal((300, DIM)).astype(np.float32)  # the last shard: no group
    later = tmp_path / "later"
    publish_vectors(later, vectors, shards=5)
    new = SourceSnapshot.open(str(later), {}, "snapshot")
    (tmp_path / "later.clusters").symlink_to(tmp_path / "out.clusters")
    again = _run(_job(later, on_drift=on_drift), later, Kept(RUN, outcome.state, outcome.facts, new.shards[:4]))
    assert again.facts["drift"] > 0.5
    if on_drift == "refuse":
        (check,) = again.checks
        assert not check.ok
        assert "cluster.max_drift is 10.0%" in check.reason
        assert again.carry
    else:
        assert again.facts["fitted"]
        assert not again.carry
        assert sorted(again.state["numbers"].tolist()) == list(range(GROUPS))
        table, _ = _write(again, later, LATER)
        same_rows = slice(0, 1200)
        stays = before.column("cluster").to_numpy()[same_rows] == table.column("cluster").to_numpy()[same_rows]
        assert stays.mean() > 0.5, "clusters that go on keep their numbers"


def test_two_levels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workers.vectors.clustering.fit.ONE_LEVEL", 16)
    vectors, _ = _blobs()
    source = tmp_path / "out"
    publish_vectors(source, vectors, shards=3)
    outcome = _run(_job(source, clusters=100, metric="l2"), source)
    assert outcome.facts["cells"] == 10
    assert outcome.facts["clusters"] == 100
    table, shards = _write(outcome, source)
    cluster, second = table.column("cluster").to_numpy(), table.column("second").to_pylist()
    centroids = np.stack(outcome.tables["clusters"].column("centroid").to_pylist())
    own = np.linalg.norm(vectors - centroids[cluster], axis=1)
    np.testing.assert_allclose(table.column("distance").to_numpy(), own, atol=1e-5)
    assert all(other != number for other, number in zip(second, cluster.tolist(), strict=True))
    flat = faiss.Kmeans(DIM, 100, niter=25, seed=1, min_points_per_centroid=1, max_points_per_centroid=ROWS)
    flat.train(vectors)
    distances, _ = flat.index.search(vectors, 1)
    assert outcome.facts["inertia"] <= 1.15 * distances.sum()
    again = _run(_job(source, clusters=100, metric="l2", keep_state=False), source, _kept(outcome, shards))
    assert (again.state["numbers"] == outcome.state["numbers"]).all(), "matched cell by cell with themselves"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"clusters": 1}, "cluster.clusters: should be greater than or equal to 2"),
        ({"clusters": 1501}, "cluster.clusters=1501: the snapshot has 1,500 rows; give at most 1500"),
        ({"clusters": "many"}, "cluster.clusters"),
        ({"metric": "dot"}, "cluster.metric: should be 'cosine' or 'l2'"),
        ({"cluster": 3}, "unknown key cluster.cluster; did you mean clusters?"),
    ],
)
def test_bad_input(source: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=re.escape(message)) as raised:
        _run(_job(source, **settings), source)
    assert "\n" not in str(raised.value)


def test_more_clusters_than_distinct_vectors(tmp_path: Path) -> None:
    vectors = np.repeat(np.eye(8, DIM, dtype=np.float32), 25, axis=0)
    publish_vectors(tmp_path / "out", vectors)
    with pytest.raises(UsageError, match=r"cluster\.clusters=9: the snapshot has 8 distinct vectors; give at most 8"):
        _run(_job(tmp_path / "out", clusters=9), tmp_path / "out")
    outcome = _run(_job(tmp_path / "out", clusters=8, metric="l2"), tmp_path / "out")
    assert outcome.facts["inertia"] == pytest.approx(0, abs=1e-9)
    assert outcome.facts["empty"] == 0


def test_without_faiss(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"faiss is not installed; pip install 'reembed\[vectors\]'"):
        _job(source).check(SourceSnapshot.open(str(source), {}, "snapshot"))


def test_lines_for_a_terminal(source: Path) -> None:
    job = _job(source)
    lines = job.text(_run(job, source).facts)
    assert lines[0].startswith(f"clusters    {GROUPS} (cosine; ")
    assert "of 1,500 rows, mean distance 0." in lines[1]


def test_auto_is_the_root_of_the_rows_and_ray_settings_do_not_change_the_output(source: Path) -> None:
    outcome = _run(_job(source, clusters="auto"), source)
    assert outcome.facts["clusters"] == 38
    assert _job(source, replicas=3, address="local").settings() == _job(source).settings()
    assert _job(source, clusters=5).settings() != _job(source).settings()
