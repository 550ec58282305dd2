"""Contestants of this environment: the jobs of this project, and scikit-learn, faiss and NumPy with everything in memory.

Each function takes the material, and returns figures of quality and what the work cost: of a job its program, in this
process and on one thread, as it runs on each actor; of the others the library's calls.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.vector_peers.material import Material
from benchmarks.vector_peers.stopwatch import measured

Found = tuple[dict[str, Any], dict[str, float]]
C = 10.0  # of the logistic regressions
EXPANSION = 64  # candidates that an index looks at in a search
HELD_OUT = 1000


def evaluate(material: Material) -> Found:
    from jobs.evaluate import classify
    from jobs.evaluate.config import EvaluateSection
    from jobs.passes.source import SourceSnapshot
    from tests.vector_snapshots import passes_over

    uri = material.settings["snapshot"]
    raw = {"snapshot": uri, "label": material.settings["label"], "c": [C], "sample": 0, "split": {"column": "split"}}
    section = EvaluateSection.model_validate(raw)
    columns = classify.check(SourceSnapshot.open(uri, {}, "snapshot"), section)
    with tempfile.TemporaryDirectory() as work, passes_over(uri, columns, work=work) as passes:
        outcome, spent = measured(lambda: classify.evaluate(passes, section, None))
    return {name: float(outcome.facts[name]) for name in ("macro_f1", "accuracy")}, spent


def logistic_regression(material: Material) -> Found:
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import f1_score

    x, y, training = material.vectors, material.column("label"), material.column("training")
    said, spent = measured(
        lambda: LogisticRegression(C=C, max_iter=5000).fit(x[training], y[training]).predict(x[~training])
    )
    truth = y[~training]
    return {"macro_f1": float(f1_score(truth, said, average="macro")), "accuracy": float((said == truth).mean())}, spent


def cluster(material: Material) -> Found:
    from benchmarks.cluster import by_reembed

    return _clustered(material, lambda: by_reembed(material.settings["snapshot"], material.settings["clusters"], "cosine"))


def faiss_kmeans(material: Material) -> Found:
    from benchmarks.cluster import by_faiss

    vectors = material.vectors
    return _clustered(material, lambda: by_faiss(vectors, material.settings["clusters"], "cosine"))


def minibatch(material: Material) -> Found:
    from benchmarks.cluster import by_minibatch

    vectors = material.vectors
    return _clustered(material, lambda: by_minibatch(vectors, material.settings["clusters"], "cosine"))


def _clustered(material: Material, run: Callable[[], tuple[Any, Any, float]]) -> Found:
    """V-measure against the label, and the sum of squared distances to the centroids, in float64."""
    from sklearn.metrics import v_measure_score

    (centroids, place, seconds), spent = measured(run)
    centroids = centroids.astype(np.float64) / np.linalg.norm(centroids, axis=1, keepdims=True)
    vectors = material.vectors
    best = [(vectors[at : at + 4096] @ centroids.T).max(axis=1) for at in range(0, len(vectors), 4096)]
    inertia = float((2 - 2 * np.concatenate(best)).sum())
    found = {"v_measure": float(v_measure_score(material.column("label"), place)), "inertia": inertia}
    return found, spent | {"cpu_seconds": seconds}  # without reading, as benchmarks/cluster.py counts it


def cluster_sample(material: Material) -> Found:
    """The same rows that BERTopic is given, `clusters: auto`."""
    from sklearn.metrics import v_measure_score

    from benchmarks.cluster import by_reembed

    rows = material.column("sample")
    clusters = round(len(rows) ** 0.5)
    (_, place, seconds), spent = measured(lambda: by_reembed(material.settings["sample_snapshot"], clusters, "cosine"))
    labels = material.column("label")[rows]
    found = {"v_measure": float(v_measure_score(labels, place)), "clusters": clusters, "left_out": 0.0}
    return found, spent | {"cpu_seconds": seconds}


def brute_force(material: Material) -> Found:
    """All pairs, block by block; they are the truth for the others."""
    from benchmarks.dedup import all_pairs

    vectors, text = material.vectors, material.column("text")
    pairs, spent = measured(lambda: all_pairs(vectors, text, material.settings["threshold"]))
    np.save(material.folder / "pairs.npy", pairs)
    return {"pairs_found": 1.0, "pairs": len(pairs)}, spent


def dedup(material: Material) -> Found:
    from jobs.dedup.config import DedupConfig
    from jobs.dedup.job import DedupJob
    from jobs.passes.source import SourceSnapshot
    from tests.vector_snapshots import passes_over

    uri = material.settings["snapshot"]
    settings = {"snapshot": uri, "threshold": material.settings["threshold"]}
    job = DedupJob(DedupConfig.model_validate({"dedup": settings, "output": {"uri": "unused"}}))
    columns = job.check(SourceSnapshot.open(uri, {}, "snapshot"))
    with tempfile.TemporaryDirectory() as work, passes_over(uri, columns, work=work) as passes:
        outcome, spent = measured(lambda: job.program(passes, None))
    pairs = len(material.column("pairs"))
    return {"pairs_found": outcome.facts["pairs"] / pairs, "kept": outcome.facts["kept"]}, spent


def faiss_range(material: Material) -> Found:
    import faiss

    vectors, threshold = material.vectors, material.settings["threshold"]
    faiss.omp_set_num_threads(1)

    def search() -> int:
        index = faiss.IndexFlatIP(vectors.shape[1])
        index.add(vectors)
        return sum(len(index.range_search(vectors[at : at + 1000], threshold)[1]) for at in range(0, len(vectors), 1000))

    ends, spent = measured(search)
    return {"pairs_found": (ends - len(vectors)) / 2 / len(material.column("pairs"))}, spent


def exact_search(material: Material) -> Found:
    from benchmarks.index import exactly

    return _searched(material, lambda base: {"exact": exactly(base)}, "exact")


def index(material: Material) -> Found:
    from benchmarks.index import by_reembed

    shape = argparse.Namespace(files=1, precision="bf16", connectivity=16, expansion=128)
    with tempfile.TemporaryDirectory() as folder:
        return _searched(material, lambda base: by_reembed(base, Path(folder), shape)[0], f"index {EXPANSION}")


def faiss_hnsw(material: Material) -> Found:
    from benchmarks.index import by_faiss

    return _searched(material, lambda base: by_faiss(base)[0], f"faiss HNSW32 {EXPANSION}")


def _searched(material: Material, build: Callable[[np.ndarray], dict[str, Any]], name: str) -> Found:
    """Recall of rows held out, and milliseconds of CPU of a query alone; what is counted is the building."""
    from benchmarks.index import exactly, recall_at_10, seconds_alone

    rows = np.random.default_rng(0).permutation(len(material.vectors))
    queries, base = material.vectors[rows[:HELD_OUT]], material.vectors[np.sort(rows[HELD_OUT:])]
    searches, spent = measured(lambda: build(base))
    search = searches[name]
    exact = exactly(base)
    truth = np.concatenate([exact(queries[at : at + 100]) for at in range(0, HELD_OUT, 100)])
    found = np.concatenate([search(query[None]) for query in queries])
    alone = seconds_alone({"it": search}, queries[:300], 3)["it"]
    return {"recall_at_10": recall_at_10(found, truth), "ms_a_query": alone * 1e3}, spent
