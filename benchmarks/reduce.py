"""What `reembed reduce` keeps of nearest neighbours: `python -m benchmarks.reduce OUTPUT [--dims 256 128] [--queries 2000]`.

OUTPUT is a published snapshot. For each number of components: the overlap of the ten nearest rows (cosine, the row itself
left out) with those by all components; beside it the first components alone and scikit-learn's centred PCA. `tie_aware`: a
row counts if its cosine by all components is at least that of the tenth nearest, since equal texts have equal vectors and
any of them may be found. Eigenvalues are compared with NumPy's of all vectors at once.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.dataset as ds
from sklearn.decomposition import PCA

from benchmarks.machine import commit, hardware
from jobs.config import parse_section
from jobs.passes.job import run_job
from jobs.publish.open_snapshot import open_current
from jobs.reduce.config import ReduceConfig
from jobs.reduce.job import Reduce
from workers.storage.store import Store
from workers.table.vectors import unit_rows
from workers.vectors.arrays import load_arrays

NEAREST = 10


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("output")
    parser.add_argument("--dims", type=int, nargs="+", default=[256, 128])
    parser.add_argument("--queries", type=int, default=2000)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    current, _ = open_current(options.output)
    vectors = unit_rows(_read(current.data))
    chosen = np.linspace(0, len(vectors) - 1, options.queries).astype(int)
    full = _nearest(vectors, chosen)
    least = np.array([(vectors[found] @ vectors[row]).min() for row, found in zip(chosen, full, strict=True)])
    found = [_measured(options.output, dim, vectors, chosen, full, least) for dim in options.dims]
    report: dict[str, Any] = {"hardware": hardware(), "commit": commit(), "rows": len(vectors), "queries": options.queries}
    report |= {"dims": found}
    print(json.dumps(report, indent=1))
    if options.out:
        options.out.write_text(json.dumps(report, indent=1) + "\n")


def _measured(
    output: str,
    dim: int,
    vectors: np.ndarray[Any, Any],
    chosen: np.ndarray[Any, Any],
    full: np.ndarray[Any, Any],
    least: np.ndarray[Any, Any],
) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        raw = {"reduce": {"snapshot": output, "dim": dim}, "output": {"uri": f"{folder}/out"}}
        began = time.monotonic()
        summary = run_job(Reduce(parse_section(raw, "benchmark", ReduceConfig)))
        seconds = time.monotonic() - began
        reduced = unit_rows(_read(summary["data"]))
        state = load_arrays(Store(f"{folder}/out", {}), f"runs/{summary['run_id']}/state.npz") or {}
    wide = vectors.astype(np.float64)
    exact = np.linalg.eigvalsh(wide.T @ wide / len(wide))[::-1]
    return {
        "dim": dim,
        "seconds": round(seconds, 2),
        "vector_bytes_read": summary["vector_bytes_read"],
        "vector_bytes": vectors.nbytes,
        "energy": summary["energy"],
        "largest_eigenvalue_error": float(np.abs(state["values"] - exact).max()),
        "overlap_at_10": _overlaps(vectors, chosen, full, least, reduced),
        "first_components": _overlaps(vectors, chosen, full, least, unit_rows(vectors[:, :dim])),
        "centred_pca": _overlaps(
            vectors, chosen, full, least, unit_rows(PCA(dim, svd_solver="full").fit_transform(vectors))
        ),
    }


def _read(data: str) -> np.ndarray[Any, Any]:
    """[N, D] in order of ids."""
    table = ds.dataset(data, partitioning="hive").to_table(columns=["id", "embedding"]).sort_by("id")
    column = table.column("embedding").combine_chunks()
    return np.asarray(column.flatten().to_numpy().reshape(len(table), -1))


def _nearest(vectors: np.ndarray[Any, Any], chosen: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """[queries, 10] row numbers, without the query itself."""
    scores = vectors[chosen] @ vectors.T
    scores[np.arange(len(chosen)), chosen] = -2
    return np.argpartition(-scores, NEAREST, axis=1)[:, :NEAREST]


def _overlaps(
    vectors: np.ndarray[Any, Any],
    chosen: np.ndarray[Any, Any],
    full: np.ndarray[Any, Any],
    least: np.ndarray[Any, Any],
    other: np.ndarray[Any, Any],
) -> dict[str, float]:
    found = _nearest(other, chosen)
    shared = [len(np.intersect1d(left, right)) for left, right in zip(full, found, strict=True)]
    near = [(vectors[rows] @ vectors[row] >= low - 1e-6).sum() for row, rows, low in zip(chosen, found, least, strict=True)]
    return {"by_row": round(float(np.mean(shared)) / NEAREST, 4), "tie_aware": round(float(np.mean(near)) / NEAREST, 4)}


if __name__ == "__main__":
    main()
