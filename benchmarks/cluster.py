"""`reembed cluster` beside k-means of others on the same vectors: inertia, agreement with a label, time, memory.

    python -m benchmarks.cluster SNAPSHOT [--label section] [--clusters 256] [--rounds 3] [--out FILE]

Contestants, each in a process of its own with one thread, in turns:

    reembed         a sample of 128 rows a cluster, exact passes, and the pass that assigns every row
    faiss           Kmeans on all rows in memory, 25 iterations, and a search that assigns every row
    minibatch       scikit-learn's MiniBatchKMeans on all rows in memory
    minibatch-once  its partial_fit, every row once

Inertia is computed for all by one function in float64, from the centroids alone. For cosine, rows and centroids have length
1; MiniBatchKMeans knows no spherical k-means, so its centroids are divided by their lengths afterwards. Seconds are of
the process's CPU, without imports and without reading. One JSON object on stdout.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from workers.vectors.clustering.centroids import assigned
from workers.vectors.clustering.steps import Assign
from workers.vectors.shard_rows import ShardRows
from workers.vectors.step import Combiner, Concatenation, Partial, Step

CONTESTANTS = ("reembed", "faiss", "minibatch", "minibatch-once")
METRICS = ("cosine", "l2")
BATCH = 4096


@dataclass(frozen=True)
class _Touch(Step):
    """Makes the worker read, as the others have read."""

    def of_shard(self, rows: ShardRows) -> Partial:
        return {"rows": np.array(len(rows))}


@dataclass(frozen=True)
class _Clusters(Step):
    """What the last pass would write."""

    assign: Assign

    def of_shard(self, rows: ShardRows) -> Partial:
        return {"cluster": self.assign.centroids.numbers[assigned(rows, self.assign.centroids).place]}

    def combiner(self) -> Combiner:
        return Concatenation()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("snapshot")
    parser.add_argument("--label", default="section")
    parser.add_argument("--clusters", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--metrics", nargs="+", choices=METRICS, default=list(METRICS))
    parser.add_argument("--out", type=Path)
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(one(options.snapshot, options.label, options.clusters, *options.one)))
        return
    result = compared(options)
    if options.out:
        options.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result))


def compared(options: argparse.Namespace) -> dict[str, Any]:
    """All contestants in turns; of each the medians, and its ratios to faiss."""
    from benchmarks.machine import commit, hardware

    found: dict[str, dict[str, list[dict[str, Any]]]] = {
        metric: {name: [] for name in CONTESTANTS} for metric in options.metrics
    }
    for number in range(options.rounds):
        for metric in options.metrics:
            for name in CONTESTANTS if number % 2 == 0 else CONTESTANTS[::-1]:
                command = [sys.executable, "-m", "benchmarks.cluster", options.snapshot, "--label", options.label]
                command += ["--clusters", str(options.clusters), "--one", name, metric]
                single = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
                done = subprocess.run(command, env=os.environ | single, stdout=subprocess.PIPE, text=True, check=True)
                found[metric][name].append(json.loads(done.stdout.splitlines()[-1]))
                print(metric, name, found[metric][name][-1], os.getloadavg(), file=sys.stderr)
    table: dict[str, Any] = {}
    for metric, contestants in found.items():
        base = contestants["faiss"]
        for name, runs in contestants.items():
            row = {key: statistics.median(run[key] for run in runs) for key in runs[0]}
            row["inertia_ratio"] = row["inertia"] / statistics.median(run["inertia"] for run in base)
            row["seconds_ratio"] = row["seconds"] / statistics.median(run["seconds"] for run in base)
            row["seconds_all"] = [run["seconds"] for run in runs]
            table[f"{metric} {name}"] = row
    return {
        "benchmark": "cluster",
        "clusters": options.clusters,
        "label": options.label,
        "rounds": options.rounds,
        "load": os.getloadavg(),
        "hardware": hardware(),
        **commit(),
        "contestants": table,
    }


def one(snapshot: str, label: str, clusters: int, name: str, metric: str) -> dict[str, Any]:
    """One contestant in this process."""
    from sklearn.metrics import v_measure_score

    if name == "reembed":  # it reads the snapshot itself
        centroids, place, seconds = by_reembed(snapshot, clusters, metric)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        vectors, labels = _read(snapshot, label, unit=metric == "cosine")
    else:
        vectors, labels = _read(snapshot, label, unit=metric == "cosine")
        run = {"faiss": by_faiss, "minibatch": by_minibatch, "minibatch-once": by_minibatch_once}[name]
        centroids, place, seconds = run(vectors, clusters, metric)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    centroids = centroids.astype(np.float64)
    if metric == "cosine":
        centroids /= np.maximum(np.linalg.norm(centroids, axis=1, keepdims=True), 1e-30)
    inertia, rows = 0.0, vectors.astype(np.float64)
    for at in range(0, len(rows), BATCH):
        some = rows[at : at + BATCH]
        squares = (some**2).sum(axis=1)[:, None] - 2 * some @ centroids.T + (centroids**2).sum(axis=1)[None]
        inertia += float(squares.min(axis=1).sum())
    return {"inertia": inertia, "v_measure": v_measure_score(labels, place), "seconds": seconds, "peak_mib": peak / 1024}


def _read(snapshot: str, label: str, *, unit: bool) -> tuple[Any, list[str]]:
    """All vectors in memory, in the order of the snapshot."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from jobs.passes.source import SourceSnapshot
    from workers.table.vectors import as_float32, unit_rows

    source = SourceSnapshot.open(snapshot, {}, "SNAPSHOT")
    tables = [
        pq.read_table(pa.BufferReader(source.store.read(piece.uri)), columns=["embedding", label])
        for shard in source.shards
        for piece in shard.slices
    ]
    stamp = source.run.stamp
    vectors = np.concatenate([as_float32(table.column("embedding"), stamp.vector, stamp.int8_scale) for table in tables])
    labels = [str(cell) for table in tables for cell in table.column(label).to_pylist()]
    return (unit_rows(vectors) if unit else vectors), labels


def by_reembed(snapshot: str, clusters: int, metric: str) -> tuple[Any, Any, float]:
    import faiss  # noqa: F401 - imports are not counted, as for the others
    import scipy.sparse  # noqa: F401

    from jobs.cluster.config import ClusterJobConfig
    from jobs.cluster.job import ClusterJob
    from jobs.config import parse_section
    from jobs.passes.source import SourceSnapshot
    from tests.vector_snapshots import passes_over
    from workers.host.without_pandas import without_pandas

    without_pandas()  # as the command begins
    section = {"snapshot": snapshot, "clusters": clusters, "metric": metric, "words": 0, "map": 0, "examples": 0}
    with tempfile.TemporaryDirectory() as work:
        job = ClusterJob(parse_section({"cluster": section, "output": {"uri": work}}, "benchmark", ClusterJobConfig))
        columns = job.check(SourceSnapshot.open(snapshot, {}, "SNAPSHOT"))
        with passes_over(snapshot, columns, work=work) as passes:
            passes.run(_Touch())
            began = time.process_time()
            outcome = job.program(passes, None)
            assert isinstance(outcome.step, Assign)
            place = passes.run(_Clusters(outcome.step))["cluster"]
            seconds = time.process_time() - began
    centroids = np.stack(outcome.tables["clusters"].column("centroid").to_pylist()).astype(np.float32)
    return centroids, place, seconds


def by_faiss(vectors: Any, clusters: int, metric: str) -> tuple[Any, Any, float]:
    import faiss

    faiss.omp_set_num_threads(1)
    began = time.process_time()
    kmeans = faiss.Kmeans(
        vectors.shape[1], clusters, niter=25, seed=1, spherical=metric == "cosine", max_points_per_centroid=len(vectors)
    )
    kmeans.train(vectors)
    _, place = kmeans.index.search(vectors, 1)
    return kmeans.centroids, place[:, 0], time.process_time() - began


def by_minibatch(vectors: Any, clusters: int, metric: str) -> tuple[Any, Any, float]:  # noqa: ARG001 - it knows one metric
    from sklearn.cluster import MiniBatchKMeans

    began = time.process_time()
    kmeans = MiniBatchKMeans(clusters, batch_size=BATCH, n_init=1, random_state=1).fit(vectors)
    place = kmeans.predict(vectors)
    return kmeans.cluster_centers_, place, time.process_time() - began


def by_minibatch_once(vectors: Any, clusters: int, metric: str) -> tuple[Any, Any, float]:  # noqa: ARG001
    from sklearn.cluster import MiniBatchKMeans

    began = time.process_time()
    kmeans = MiniBatchKMeans(clusters, n_init=1, random_state=1)
    for at in range(0, len(vectors), BATCH):
        if len(vectors) - at >= clusters:
            kmeans.partial_fit(vectors[at : at + BATCH])
    place = kmeans.predict(vectors)
    return kmeans.cluster_centers_, place, time.process_time() - began


if __name__ == "__main__":
    main()
