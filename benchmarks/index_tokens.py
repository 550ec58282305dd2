"""An index over millions of token vectors: recall of questions that are not in it, times exact search, bytes.

    python -m benchmarks.index_tokens OUTPUT QUESTIONS [--threads 2] [--queries 1000] [--timed 50] [--rounds 3] [--folder F]

OUTPUT, QUESTIONS: snapshots with model.pooling=tokens of different texts, by one model.

1. the program of `reembed index` over OUTPUT, by threads of this process, a group of shards each: recall of vectors held
   out, bytes, CPU seconds. The files stay in --folder: a second call takes them from there and builds nothing
2. `--queries` token vectors of QUESTIONS against every vector of OUTPUT in NumPy: recall@10 by the cosines, so a vector that
   is equal to one of the ten is no miss
3. one query at a time, one thread, by turns: exact, and the files with 32 to 256 candidates each; median CPU milliseconds

Memory: all vectors in float32. One JSON object on stdout, progress on stderr.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from benchmarks.index import Search, exactly, seconds_alone
from benchmarks.machine import commit, hardware
from jobs.index.config import IndexConfig
from jobs.index.job import IndexJob
from jobs.passes.source import SourceSnapshot
from tests.vector_snapshots import passes_over
from workers.snapshot.vectors import iterate_vectors
from workers.table.vectors import unit_rows
from workers.vectors.index.build_files import CANDIDATES, EXPANSIONS, K
from workers.vectors.index.index_file import IndexShape, nearest, open_mapped, row_of_key

TIE = 1e-5  # as the job counts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("snapshot")
    parser.add_argument("questions")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--timed", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = options.folder or Path(place)
        built = _built(options.snapshot, folder / "index", options.threads)
        result = {"benchmark": "index_tokens", "hardware": hardware(), **commit(), "index": built}
        with threadpool_limits(limits=1):
            result |= _searched(options, folder / "index", int(built["vectors"]))
    print(json.dumps(result, indent=1))
    if options.out:
        options.out.write_text(json.dumps(result, indent=1) + "\n")


def _built(snapshot: str, output: Path, threads: int) -> dict[str, Any]:
    """What the program says and costs. Its files are in the scratch folder below `output`."""
    job = _job(snapshot)
    columns = job.check(SourceSnapshot.open(snapshot, {}, "OUTPUT"))
    began, cpu = time.perf_counter(), time.process_time()
    with passes_over(snapshot, columns, threads=threads, work=output, divide=lambda all_: job.divide(all_, None)) as passes:
        outcome = job.program(passes, None)
    spent = {"seconds": round(time.perf_counter() - began), "cpu_seconds": round(time.process_time() - cpu)}
    told = dict(outcome.facts) | spent | {"threads": threads, "passed": all(check.ok for check in outcome.checks)}
    _say(f"program: {told}")
    return told


def _job(snapshot: str) -> IndexJob:
    return IndexJob(IndexConfig.model_validate({"index": {"snapshot": snapshot}, "output": {"uri": "unused"}}))


@dataclass(frozen=True)
class _File:
    index: Any
    row_starts: np.ndarray  # number of the first vector of each row of the file's shard, among all vectors


def _searched(options: argparse.Namespace, output: Path, count: int) -> dict[str, Any]:
    source = SourceSnapshot.open(options.snapshot, {}, "OUTPUT")
    source = source.divided(_job(options.snapshot).divide(source, None))
    base, row_starts = _vectors(source, count)
    shape = IndexShape(source.dim, "bf16", 16, 128, tokens=True)
    paths = sorted(output.rglob("*.usearch"))
    files = [_File(open_mapped(path, shape), row_starts[int(path.name.partition("-")[0])]) for path in paths]
    asked = SourceSnapshot.open(options.questions, {}, "QUESTIONS")
    questions = np.random.default_rng(0).permutation(_vectors(asked, None)[0])[: options.queries]
    _say(f"{len(base):,} x {source.dim} vectors in {len(files)} files, {len(questions):,} questions")
    exact = exactly(base)
    truth = np.concatenate([exact(questions[at : at + 50]) for at in range(0, len(questions), 50)])
    least = np.einsum("qkd,qd->qk", base[truth], questions).min(axis=1) - TIE
    searches: dict[str, Search] = {str(number): _search(base, files, number) for number in EXPANSIONS}
    timed = seconds_alone({"exact": exact} | searches, questions[: options.timed], options.rounds)
    found: dict[str, Any] = {"exact": {"ms_alone": round(timed["exact"] * 1e3, 3)}}
    for name, search in searches.items():
        hits = np.concatenate([search(question[None]) for question in questions])
        cosines = np.einsum("qkd,qd->qk", base[hits], questions)
        found[f"{name} candidates a file"] = {
            "recall_at_10": round(float((cosines >= least[:, None]).mean()), 4),
            "ms_alone": round(timed[name] * 1e3, 3),
            "times_exact_alone": round(timed["exact"] / timed[name]),
        }
        _say(f"{name}: {found[f'{name} candidates a file']}")
    size = sum(path.stat().st_size for path in paths)
    return {"queries": len(questions), "bytes": size, "bytes_of_float32": round(size / base.nbytes, 3), "searches": found}


def _vectors(source: SourceSnapshot, count: int | None) -> tuple[np.ndarray, dict[int, np.ndarray]]:
    """All vectors [V, D] of length 1, and by shard the number of each row's first one.

    `count`: V, so that they are read into one array; None: there are few.
    """
    whole = None if count is None else np.empty((count, source.dim), np.float32)
    pieces, row_starts, at = [], {}, 0
    for shard in source.shards:
        starts = []
        paths = [piece.uri for piece in shard.slices]
        for batch in iterate_vectors(source.store, paths, source.schema, token_vectors=True):
            vectors, counts = unit_rows(batch.vectors), np.asarray(batch.counts)
            starts.append(at + np.cumsum(counts) - counts)
            if whole is None:
                pieces.append(vectors)
            else:
                whole[at : at + len(vectors)] = vectors
            at += len(vectors)
        row_starts[shard.number] = np.concatenate(starts)
    return (np.concatenate(pieces) if whole is None else whole[:at]), row_starts


def _search(base: np.ndarray, files: Sequence[_File], expansion: int) -> Search:
    """The files' answers together, scored with the float vectors, as a search does."""

    def search(queries: np.ndarray) -> np.ndarray:
        numbers, told = [], []
        for file in files:
            keys, cosines = nearest(file.index, queries, CANDIDATES, expansion)
            token = (keys & np.uint64(0xFFFF)).astype(np.int64)
            numbers.append(file.row_starts[row_of_key(keys, tokens=True)] + token)
            told.append(cosines)
        best = np.argsort(-np.concatenate(told, axis=1), axis=1)[:, :CANDIDATES]
        rows = np.take_along_axis(np.concatenate(numbers, axis=1), best, axis=1)
        scores = np.einsum("qcd,qd->qc", base[rows], queries)
        return np.take_along_axis(rows, np.argsort(-scores, axis=1)[:, :K], axis=1)

    return search


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
