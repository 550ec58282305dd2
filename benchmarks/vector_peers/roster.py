"""Who takes part in which task, in the order of the table."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Contestant:
    task: str
    function: str  # of `module`
    title: str
    module: str = "here"
    environment: str = ""  # of benchmarks/contestants/environments.py; "": this one


ELSEWHERE = ("elsewhere", "vectors")
TASKS = ("classify", "cluster", "cluster a sample", "dedup", "search")
ROSTER = (
    Contestant("classify", "evaluate", "reembed evaluate: probe, C by folds, neighbours, curve, intervals"),
    Contestant("classify", "logistic_regression", "scikit-learn LogisticRegression, one fit"),
    Contestant("classify", "mteb", "MTEB's classifier, 8 rows a class, 10 times", *ELSEWHERE),
    Contestant("cluster", "cluster", "reembed cluster"),
    Contestant("cluster", "faiss_kmeans", "faiss Kmeans, 25 iterations"),
    Contestant("cluster", "minibatch", "scikit-learn MiniBatchKMeans"),
    Contestant("cluster a sample", "cluster_sample", "reembed cluster, without words"),
    Contestant("cluster a sample", "bertopic", "BERTopic", *ELSEWHERE),
    Contestant("dedup", "brute_force", "NumPy, all pairs"),
    Contestant("dedup", "dedup", "reembed dedup"),
    Contestant("dedup", "faiss_range", "faiss flat range search"),
    Contestant("dedup", "semhash", "SemHash", *ELSEWHERE),
    Contestant("search", "exact_search", "NumPy, exact"),
    Contestant("search", "index", "reembed index, 64 candidates"),
    Contestant("search", "faiss_hnsw", "faiss HNSW32, 64 candidates"),
)
PACKAGES = (
    "bertopic",
    "datasets",
    "faiss-cpu",
    "hdbscan",
    "mteb",
    "numpy",
    "scikit-learn",
    "semhash",
    "umap-learn",
    "usearch",
)
