"""A plane that shows a sample of the rows: their two principal components.

The plane is computed once and kept with the centroids, so that the next night's rows are shown on the same one.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from workers.table.vectors import Floats
from workers.vectors.step import Partial


def plane_of(vectors: Floats) -> Partial:
    """`origin` [D] and `axes` [2, D] of the sample [n, D], and `share`: of its variance, on the plane. float32.

    The sign of an axis is arbitrary in PCA; here its largest component is positive.
    """
    dim = vectors.shape[1]
    if not len(vectors):
        return {"origin": np.zeros(dim, np.float32), "axes": np.zeros((2, dim), np.float32), "share": np.array(0.0)}
    with threadpool_limits(limits=1):
        origin = vectors.mean(axis=0, dtype=np.float64)
        centred = vectors.astype(np.float64) - origin
        values, axes = np.linalg.eigh(centred.T @ centred)
    first = axes[:, ::-1][:, :2].T
    if len(first) < 2:
        first = np.concatenate([first, np.zeros((1, dim))])
    first = first * np.sign(first[np.arange(2), np.abs(first).argmax(axis=1)])[:, None]
    total = float(values.sum())
    share = float(values[::-1][:2].sum()) / total if total > 0 else 0.0
    return {"origin": origin.astype(np.float32), "axes": first.astype(np.float32), "share": np.array(share)}


def on_plane(plane: Partial, vectors: Floats) -> NDArray[np.float32]:
    """[n, 2]"""
    with threadpool_limits(limits=1):
        points: NDArray[np.float32] = (vectors - plane["origin"]) @ plane["axes"].T
    return points
