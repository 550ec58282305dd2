"""Index files against exact search and against peers: recall@10, milliseconds of CPU a query, seconds to build, bytes.

    python -m benchmarks.index OUTPUT|synthetic:ROWSxDIM [--files 1] [--precision bf16] [--connectivity 16] [--expansion 128]
                               [--queries 1000] [--timed 300] [--rounds 3] [--peers faiss] [--rows N] [--out FILE]

1. the vectors of a published snapshot (with pooling=tokens those of its tokens), or a mixture of groups, which is easier to
   search than texts are; `--queries` of them, chosen by hash, are held out and put into no index
2. built: `--files` files as the job builds them, written and mapped; faiss HNSW (M=32) in memory where it is installed
3. asked one at a time, on one thread, by turns (exact, index, peers), `--rounds` times: the median of all queries of all
   rounds. The index's hits are scored with the float vectors, as a search does; batches of 100 stand beside
4. recall@10 against the exact ten

One JSON object on stdout, progress on stderr.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from jobs.publish.open_snapshot import open_published
from workers.snapshot.vectors import iterate_vectors
from workers.table.vectors import unit_rows
from workers.vectors.index.build_files import CANDIDATES, EXPANSIONS, K
from workers.vectors.index.index_file import IndexShape, build, keys_of, nearest, open_mapped

BLOCK = 4096
Search = Callable[[np.ndarray], np.ndarray]  # [Q, D] -> [Q, 10] row numbers


def main() -> None:
    options = _options()
    vectors = _vectors(options.snapshot, options.rows)
    mixed = (np.arange(len(vectors), dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(11)
    order = np.argsort(mixed, kind="stable")
    queries, base = vectors[np.sort(order[: options.queries])], vectors[np.sort(order[options.queries :])]
    del vectors
    _say(f"{len(base):,} x {base.shape[1]} vectors, {len(queries):,} queries held out")
    with threadpool_limits(limits=1), tempfile.TemporaryDirectory() as folder:
        exact = exactly(base)
        truth = np.concatenate([exact(queries[at : at + 100]) for at in range(0, len(queries), 100)])
        ours, built = by_reembed(base, Path(folder), options)
        peers, peers_built = by_faiss(base) if "faiss" in options.peers else ({}, {})
        searches = {"exact": exact, **ours, **peers}
        timed = seconds_alone(searches, queries[: options.timed], options.rounds)
        result = {
            "rows": len(base),
            "dim": base.shape[1],
            "queries": len(queries),
            "built": built | peers_built,
            "searches": {name: _told(name, search, queries, truth, timed) for name, search in searches.items()},
        }
    print(json.dumps(result, indent=1))
    if options.out:
        Path(options.out).write_text(json.dumps(result, indent=1))


def _told(name: str, search: Search, queries: np.ndarray, truth: np.ndarray, timed: dict[str, float]) -> dict[str, Any]:
    found = np.concatenate([search(query[None]) for query in queries])
    recall = recall_at_10(found, truth)
    began = time.thread_time()
    for at in range(0, min(len(queries), 500), 100):
        search(queries[at : at + 100])
    batch = (time.thread_time() - began) / min(len(queries), 500)
    told = {
        "recall_at_10": round(recall, 4),
        "ms_alone": round(timed[name] * 1e3, 4),
        "times_exact_alone": round(timed["exact"] / timed[name], 1),
        "ms_in_batches_of_100": round(batch * 1e3, 4),
    }
    _say(f"{name}: {told}")
    return told


def recall_at_10(found: np.ndarray, truth: np.ndarray) -> float:
    """Share of the exact row numbers [Q, 10] that were found."""
    return float(np.mean([len(set(mine) & set(true)) / K for mine, true in zip(found, truth, strict=True)]))


def seconds_alone(searches: dict[str, Search], queries: np.ndarray, rounds: int) -> dict[str, float]:
    """Median seconds of the thread's own time for a query, asked alone: what else the machine does counts little."""
    seconds: dict[str, list[float]] = {name: [] for name in searches}
    for _ in range(rounds):
        for name, search in searches.items():
            for query in queries:
                began = time.thread_time()
                search(query[None])
                seconds[name].append(time.thread_time() - began)
    return {name: float(np.median(taken)) for name, taken in seconds.items()}


def exactly(base: np.ndarray) -> Search:
    def search(queries: np.ndarray) -> np.ndarray:
        scores = queries @ base.T
        return np.argpartition(-scores, K, axis=1)[:, :K].copy()  # a view would keep all of it

    return search


def by_reembed(base: np.ndarray, folder: Path, options: argparse.Namespace) -> tuple[dict[str, Search], dict[str, Any]]:
    shape = IndexShape(base.shape[1], options.precision, options.connectivity, options.expansion, tokens=False)
    ends = np.linspace(0, len(base), options.files + 1).astype(int)
    seconds, files = 0.0, []
    for piece, (first, stop) in enumerate(itertools.pairwise(ends)):
        began = time.process_time()
        index = build(
            shape,
            (
                (keys_of(np.arange(at, min(at + BLOCK, stop)), None), base[at : min(at + BLOCK, stop)])
                for at in range(first, stop, BLOCK)
            ),
        )
        index.save(str(folder / f"{piece}.usearch"))
        seconds += time.process_time() - began
        files.append(open_mapped(folder / f"{piece}.usearch", shape))
        _say(f"file {piece + 1} of {options.files}: {seconds:.1f} s of CPU so far")
    size = sum(file.stat().st_size for file in folder.glob("*.usearch"))

    def searcher(expansion: int) -> Search:
        def search(queries: np.ndarray) -> np.ndarray:
            found = [nearest(file, queries, CANDIDATES, expansion) for file in files]
            keys = np.concatenate([one[0] for one in found], axis=1).astype(np.int64)
            told = np.concatenate([one[1] for one in found], axis=1)
            best = np.argsort(-told, axis=1)[:, :CANDIDATES]
            rows = np.take_along_axis(keys, best, axis=1)
            scores = np.einsum("qcd,qd->qc", base[rows], queries)
            return np.take_along_axis(rows, np.argsort(-scores, axis=1)[:, :K], axis=1)

        return search

    built = {
        "cpu_seconds": round(seconds, 1),
        "rows_a_second": round(len(base) / seconds),
        "bytes": size,
        "bytes_of_float32": round(size / base.nbytes, 3),
        "files": options.files,
    }
    return {f"index {expansion}": searcher(expansion) for expansion in EXPANSIONS}, {"index": built}


def by_faiss(base: np.ndarray) -> tuple[dict[str, Search], dict[str, Any]]:
    import faiss

    faiss.omp_set_num_threads(1)
    began = time.process_time()
    index = faiss.IndexHNSWFlat(base.shape[1], 32, faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction = 128
    for at in range(0, len(base), BLOCK):
        index.add(base[at : at + BLOCK])
    seconds = time.process_time() - began
    _say(f"faiss: {seconds:.1f} s of CPU")

    def searcher(expansion: int) -> Search:
        def search(queries: np.ndarray) -> np.ndarray:
            index.hnsw.efSearch = expansion
            return index.search(queries, K)[1]

        return search

    size = len(faiss.serialize_index(index))
    built = {"cpu_seconds": round(seconds, 1), "bytes": size, "bytes_of_float32": round(size / base.nbytes, 3)}
    return {f"faiss HNSW32 {number}": searcher(number) for number in EXPANSIONS}, {"faiss HNSW32": built}


def _vectors(snapshot: str, rows: int | None) -> np.ndarray:
    if snapshot.startswith("synthetic:"):
        count, dim = map(int, snapshot.removeprefix("synthetic:").split("x"))
        return _mixture(count, dim)
    published = open_published(snapshot)
    paths = sorted(file.path for file in published.files)
    pieces, there = [], 0
    for batch in iterate_vectors(published.store, paths, published.schema, token_vectors=True):
        pieces.append(unit_rows(batch.vectors))
        there += len(batch.vectors)
        if rows is not None and there >= rows:
            break
    return np.concatenate(pieces)[:rows]


def _mixture(count: int, dim: int) -> np.ndarray:
    """Groups within groups, of very different sizes: the neighbours of a vector are many and near, as in texts."""
    rng = np.random.default_rng(0)
    coarse = rng.standard_normal((256, dim)).astype(np.float32)
    fine = coarse[rng.integers(0, 256, 16_384)] + rng.standard_normal((16_384, dim)).astype(np.float32) * 0.7
    vectors = np.empty((count, dim), np.float32)
    for at in range(0, count, 65_536):
        size = min(65_536, count - at)
        groups = (16_384 * rng.random(size) ** 2).astype(int)
        vectors[at : at + size] = fine[groups] + 0.5 * rng.standard_normal((size, dim)).astype(np.float32)
    return unit_rows(vectors)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("snapshot")
    parser.add_argument("--files", type=int, default=1)
    parser.add_argument("--precision", default="bf16")
    parser.add_argument("--connectivity", type=int, default=16)
    parser.add_argument("--expansion", type=int, default=128)
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--timed", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rows", type=int)
    parser.add_argument("--peers", nargs="*", default=["faiss"])
    parser.add_argument("--out")
    return parser.parse_args()


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
