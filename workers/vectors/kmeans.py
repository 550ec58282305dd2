"""k-means of rows in memory by faiss, on one thread and with a seed: equal rows give equal bits. For samples.

faiss is part of the extra `vectors`. It is imported when it is used, which takes a fifth of a second.
"""

from __future__ import annotations

import importlib.util

import numpy as np
from threadpoolctl import threadpool_limits

from workers.errors import UsageError
from workers.table.vectors import Floats


def require_faiss(job: str) -> None:
    """Raises: UsageError: it is not installed."""
    if importlib.util.find_spec("faiss") is None:
        raise UsageError(f"{job}: faiss is not installed; pip install 'reembed[vectors]'")


def train(
    rows_ND: Floats, clusters: int, *, iterations: int, seed: int, spherical: bool, begun: Floats | None = None
) -> Floats:
    """[clusters, D] centroids. `begun`: where they start, instead of chosen rows; `spherical`: of length 1."""
    import faiss

    threads = faiss.omp_get_max_threads()
    try:
        with threadpool_limits(limits=1):
            faiss.omp_set_num_threads(1)
            kmeans = faiss.Kmeans(
                rows_ND.shape[1],
                clusters,
                niter=iterations,
                seed=seed,
                spherical=spherical,
                min_points_per_centroid=1,  # below its own limit it writes warnings to stderr
                max_points_per_centroid=len(rows_ND),  # the sample is drawn already
            )
            kmeans.train(np.ascontiguousarray(rows_ND), init_centroids=begun)
            return np.array(kmeans.centroids, np.float32).reshape(clusters, -1)
    finally:
        faiss.omp_set_num_threads(threads)
