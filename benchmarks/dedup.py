"""Pairs that `reembed dedup` finds, against brute force on all of them, with peers beside it.

    python -m benchmarks.dedup OUTPUT [--thresholds 0.95 0.9] [--probes 1 2] [--rounds 3] [--out FILE]

OUTPUT is a published snapshot of some ten thousand rows: brute force holds every pair in memory. For each threshold:

1. brute force in NumPy: every pair at or above it, and its connected components
2. the job's program for each probe, in this process on one thread, with a fresh folder (probe 1 is NeMo Curator's recipe:
   pairs within one's own k-means cell). Pairs found, pairs that are wrong, groups that brute force does not have
3. faiss range search on everything, in memory; SemHash on the same vectors, where it is installed

Pairs of equal texts count as pairs. A row's cells are read back from scratch: the pairs of brute force whose rows share a
cell must be exactly those that were counted. Seconds are medians of CPU seconds. One JSON object on stdout.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from threadpoolctl import threadpool_limits

from benchmarks.vector_peers.elsewhere import by_semhash
from jobs.dedup.config import DedupConfig
from jobs.dedup.job import DedupJob
from jobs.dedup.layout import Layout
from jobs.passes.in_process import InProcess
from jobs.passes.passes import Passes
from jobs.passes.source import SourceSnapshot
from workers.snapshot.vectors import iterate_vectors
from workers.vectors.derived import DerivedStamp
from workers.vectors.duplicates.cells import cells_for
from workers.vectors.duplicates.find_pairs import EDGE
from workers.vectors.duplicates.shuffle import Shuffle
from workers.vectors.step import Partial
from workers.vectors.worker import VectorWorker, WorkerSettings

Pairs = NDArray[np.int64]  # [P, 2] row numbers, the smaller first
RUN = "20260101T000000Z-00000000"


class NoJournal:
    """Every round computes everything."""

    def read(self, _place: int, _name: str, _digest: str) -> Partial | None:
        return None

    def write(self, place: int, name: str, digest: str, value: Partial) -> None:
        pass


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output")
    parser.add_argument("--thresholds", type=float, nargs="+", default=[0.95, 0.9])
    parser.add_argument("--probes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    source = SourceSnapshot.open(asked.output, {}, "OUTPUT")
    unit, text = _read(source)
    with threadpool_limits(limits=1):
        found = [_at(source, unit, text, threshold, asked) for threshold in asked.thresholds]
    report = {"rows": len(unit), "dim": unit.shape[1], "rounds": asked.rounds, "results": found}
    if asked.out:
        asked.out.write_text(json.dumps(report, indent=1))
    print(json.dumps(report))


def _read(source: SourceSnapshot) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Unit vectors and a number for each distinct text, in order of the snapshot."""
    paths = [piece.uri for shard in source.shards for piece in shard.slices]
    batches = list(iterate_vectors(source.store, paths, source.schema, ["text_hash"]))
    vectors = np.concatenate([batch.vectors for batch in batches])
    hashes = [cell for batch in batches for cell in batch.columns.column("text_hash").to_pylist()]
    numbers: dict[bytes, int] = {}
    text = np.array([numbers.setdefault(cell, len(numbers)) for cell in hashes])
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True), text


def _at(
    source: SourceSnapshot, unit: NDArray[np.float32], text: NDArray[np.int64], threshold: float, asked: Any
) -> dict[str, Any]:
    brute, seconds = _timed(lambda: all_pairs(unit, text, threshold), 1)
    _, component = connected_components(
        coo_array((np.ones(len(brute), bool), brute.T), shape=(len(unit), len(unit))), directed=False
    )
    methods = [{"method": "brute force, NumPy", "pairs": len(brute), "found": 1.0, "seconds": seconds}]
    for probe in asked.probes:
        methods.append(_ours(source, brute, component, text, threshold, probe, asked.rounds))
        say(methods[-1])
    for peer in (_faiss, _semhash):
        try:
            methods.append(peer(unit, text, brute, threshold))
        except ImportError as error:
            methods.append({"method": peer.__name__.strip("_"), "skipped": str(error)})
        say(methods[-1])
    return {"threshold": threshold, "methods": methods}


def all_pairs(unit: NDArray[np.float32], text: NDArray[np.int64], threshold: float) -> Pairs:
    """By brute force, block by block; rows of one text are a pair whatever their cosine."""
    found = []
    for at in range(0, len(unit), 1000):
        near = unit[at : at + 1000] @ unit[at:].T >= threshold
        near |= text[at : at + 1000, None] == text[None, at:]
        rows, columns = np.nonzero(near)
        later = columns > rows
        found.append(np.stack([rows[later], columns[later]], axis=1) + at)
    return np.concatenate(found)


def _ours(
    source: SourceSnapshot, brute: Pairs, component: NDArray[np.int32], text: NDArray[np.int64],
    threshold: float, probe: int, rounds: int,
) -> dict[str, Any]:  # fmt: skip
    settings = {"snapshot": source.uri, "threshold": threshold, "probe": probe}
    job = DedupJob(DedupConfig.model_validate({"dedup": settings, "output": {"uri": "unused"}}))
    columns = job.check(source)
    spent = []
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as folder:
            numbers = [shard.number for shard in source.shards]
            stamp = DerivedStamp(RUN, "dedup", source.run_id, source.uri)
            worker = VectorWorker(
                WorkerSettings(
                    source.uri, folder, source.schema, stamp, "benchmark", columns, source.first_rows, numbers, 1 << 30, True
                ),
                "benchmark",
            )
            try:
                passes = Passes(source, InProcess(worker, 1, 1, lambda: None), NoJournal())
                outcome, seconds = _timed(lambda passes=passes: job.program(passes, None), 1)  # type: ignore[misc]
                shared, wrong_groups = _check(source, worker, brute, component, text, probe)
            finally:
                worker.close()
            spent.append(seconds)
    return {
        "method": f"reembed dedup, probe {probe}",
        "pairs": outcome.facts["pairs"],
        "found": round(outcome.facts["pairs"] / len(brute), 5),
        "wrong": outcome.facts["pairs"] - shared,  # pairs of brute force that share a cell, and no others, were counted
        "wrong_groups": wrong_groups,
        "seconds": statistics.median(spent),
        "groups": outcome.facts["groups"],
    }


def _check(
    source: SourceSnapshot,
    worker: VectorWorker,
    brute: Pairs,
    component: NDArray[np.int32],
    text: NDArray[np.int64],
    probe: int,
) -> tuple[int, int]:
    """Pairs of brute force that share a cell or a text; links between rows that brute force does not connect."""
    layout = Layout.of(source)
    most = max(shard.rows or 0 for shard in source.shards)
    pieces = layout.pieces(cells_for(source.rows), probe, most)
    cells = np.full((source.rows, probe), -1)
    for sent in pieces.sent(layout.places.numbers):
        routed = sent.read(worker.workplace, 0, pieces.width)
        cells[routed["row"]] = routed["cells"]
    _, first, of_text = np.unique(text, return_index=True, return_inverse=True)
    cells = cells[first[of_text]]  # a copy stands for the first row of its text
    left, right = cells[brute[:, 0]], cells[brute[:, 1]]
    shared = (left[:, :, None] == right[:, None, :]).any(axis=(1, 2)) | (text[brute[:, 0]] == text[brute[:, 1]])
    shuffle = Shuffle("edges", 1, EDGE)
    units = len(worker.workplace.output.list(shuffle.folder(worker.workplace)))
    edges = shuffle.sent_by(range(units)).read(worker.workplace, 0, 1)
    return int(shared.sum()), int((component[edges["row"]] != component[edges["other"]]).sum())


def _faiss(unit: NDArray[np.float32], _text: NDArray[np.int64], brute: Pairs, threshold: float) -> dict[str, Any]:
    import faiss

    def search() -> int:
        index = faiss.IndexFlatIP(unit.shape[1])
        index.add(unit)
        return sum(len(index.range_search(unit[at : at + 1000], threshold)[1]) for at in range(0, len(unit), 1000))

    ends, seconds = _timed(search, 1)
    pairs = (ends - len(unit)) // 2
    return {"method": "faiss range search, flat", "pairs": pairs, "found": round(pairs / len(brute), 5), "seconds": seconds}


def _semhash(unit: NDArray[np.float32], text: NDArray[np.int64], brute: Pairs, threshold: float) -> dict[str, Any]:
    found, spent = by_semhash(unit, text, brute, threshold)
    return {"method": "SemHash", **found, "seconds": round(spent["cpu_seconds"], 2)}  # of pairs of distinct texts


def _timed(work: Callable[[], Any], rounds: int) -> tuple[Any, float]:
    spent = []
    for _ in range(rounds):
        began = time.process_time()
        result = work()
        spent.append(time.process_time() - began)
    return result, round(statistics.median(spent), 2)


def say(what: Any) -> None:
    print(json.dumps(what), file=sys.stderr)


if __name__ == "__main__":
    main()
