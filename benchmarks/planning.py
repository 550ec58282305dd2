"""The cost of planning a corpus of many small objects: seconds of listing, sharding, storing and loading; peak memory.

    python -m benchmarks.planning s3://BUCKET/PREFIX [--objects 10000] [--format jsonl] [--repeat 3] [--leave]

Writes the objects below PREFIX/corpus first (endpoint and keys by environment), plans them in a fresh process each time so
that the memory is planning's own, and removes everything unless --leave. Prints JSON; medians over the repeats.
"""

from __future__ import annotations

import argparse
import io
import json
import multiprocessing
import os
import platform
import resource
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from itertools import pairwise
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import s3fs

DOCUMENTS = 10  # of one object
WRITES = 64  # requests in flight while the corpus is made


def make_object(number: int, kind: str) -> bytes:
    """About 2 KB of documents."""
    texts = [
        f"Document {number}-{row}. " + "A sentence that says little but takes its room. " * 4 for row in range(DOCUMENTS)
    ]
    ids = [number * DOCUMENTS + row for row in range(DOCUMENTS)]
    if kind == "jsonl":
        return b"".join(
            json.dumps({"id": ident, "text": text}).encode() + b"\n" for ident, text in zip(ids, texts, strict=True)
        )
    sink = io.BytesIO()
    pq.write_table(pa.table({"id": ids, "text": texts}), sink)
    return sink.getvalue()


def write_corpus(root: str, count: int, kind: str) -> float:
    """Seconds it took."""
    began = time.perf_counter()
    fs = s3fs.S3FileSystem(config_kwargs={"max_pool_connections": WRITES})
    if not fs.exists(root.partition("/")[0]):
        fs.mkdir(root.partition("/")[0])
    paths = [f"{root}/corpus/{number % 100:02d}/{number:06d}.{kind}" for number in range(count)]
    for start in range(0, count, 2000):
        batch = {paths[number]: make_object(number, kind) for number in range(start, min(count, start + 2000))}
        fs.pipe(batch, batch_size=WRITES)
    return time.perf_counter() - began


def plan(root: str, turn: int) -> dict[str, Any]:
    """One planning in this (fresh) process: seconds by step, peak resident bytes, what came out."""
    from jobs.corpus.discovery import discover
    from jobs.planning.sharding import cut
    from jobs.state.manifest import load_manifest, save_manifest
    from workers.config import CorpusConfig
    from workers.storage.store import Store

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    marks = [time.perf_counter()]
    corpus = discover(CorpusConfig.model_validate({"uri": f"s3://{root}/corpus/", "id": "id"}))
    marks.append(time.perf_counter())
    shards = cut(corpus, 64 << 20, id_given=True)
    marks.append(time.perf_counter())
    store = Store(f"s3://{root}/output", {})
    path = f"runs/bench-{turn}/manifest.parquet"
    save_manifest(store, path, shards, corpus.source_fingerprint)
    marks.append(time.perf_counter())
    loaded, _ = load_manifest(store, path, corpus.source_fingerprint)
    marks.append(time.perf_counter())
    if loaded != shards:
        raise SystemExit("the manifest did not come back as it was written")
    steps = [after - here for here, after in pairwise(marks)]
    return {
        "seconds": dict(zip(("discover", "cut", "save", "load"), steps, strict=True)) | {"total": marks[-1] - marks[0]},
        "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "rss_before_bytes": before * 1024,
        "objects": len(corpus.objects),
        "shards": len(shards),
        "slices": sum(len(shard.slices) for shard in shards),
        "manifest_bytes": len(store.read(path)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("root", help="s3://bucket/prefix to work in")
    parser.add_argument("--objects", type=int, default=10_000)
    parser.add_argument("--format", choices=("jsonl", "parquet"), default="jsonl")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--leave", action="store_true", help="leave corpus and manifests there")
    args = parser.parse_args()
    root = args.root.removeprefix("s3://").rstrip("/")
    written = write_corpus(root, args.objects, args.format)
    fresh = multiprocessing.get_context("spawn")
    runs = []
    for turn in range(args.repeat):
        with ProcessPoolExecutor(1, mp_context=fresh) as pool:
            runs.append(pool.submit(plan, root, turn).result())
    if not args.leave:
        s3fs.S3FileSystem().rm(root, recursive=True)
    last = runs[-1]
    result = {
        "benchmark": "planning",
        "format": args.format,
        "objects": last["objects"],
        "shards": last["shards"],
        "slices": last["slices"],
        "manifest_bytes": last["manifest_bytes"],
        "seconds": {step: round(statistics.median(run["seconds"][step] for run in runs), 3) for step in last["seconds"]},
        "peak_rss_bytes": max(run["peak_rss_bytes"] for run in runs),
        "rss_before_bytes": last["rss_before_bytes"],
        "corpus_written_seconds": round(written, 1),
        "repeat": args.repeat,
        "cores": os.cpu_count(),
        "load_average": round(os.getloadavg()[0], 1),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "pyarrow": pa.__version__,
        "s3fs": s3fs.__version__,
    }
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
