"""The time saved by embedding a repeated text once in each shard, on a corpus in which most texts are repeated.

    python -m benchmarks.duplicates CORPUS.parquet --model FOLDER|package:NAME/folder
                                    [--rows 2000] [--share 0.6] [--rounds 3] [--precision auto] [--threads N] [--out FILE]

1. a seeded sample: (1 - share) of the rows are distinct texts, the others repeat one of those, shuffled; one Parquet file
2. rounds: one replica in a process of its own, without Ray: first unchanged, then with every text treated as new (its hash
   is replaced by a number, and nothing else is changed); seconds inside embed_shard, after a warm-up
3. rows, tokens and time of both; the smallest cosine between their vectors (other batches give other last bits)

One JSON object on stdout, progress on stderr.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.models import facts, say, spread, store
from benchmarks.peers import find_model, sample
from benchmarks.stages import IN_FLIGHT, replica_settings
from jobs.config import parse_config
from jobs.planning.choose_run import plan_or_reopen
from jobs.planning.request import Request
from workers.dedup import deduplicator
from workers.records.documents import TEXT_HASH_BYTES
from workers.records.shard import Assignment, Failure, Receipt
from workers.replica.replica import Replica
from workers.replica.settings import ResolvedSettings

NUMBERS = itertools.count(1)  # 0 would be an empty string to NumPy


def repeat(source: Path, target: Path, rows: int, share: float, seed: int) -> int:
    """Write the corpus; returns its distinct texts."""
    distinct = max(1, round(rows * (1 - share)))
    texts = list(dict.fromkeys(sample(source, 2 * distinct, seed)["text"].to_pylist()))[:distinct]
    generator = np.random.default_rng(seed)
    places = np.concatenate([np.arange(len(texts)), generator.integers(0, len(texts), rows - len(texts))])
    generator.shuffle(places)
    ids = [f"row-{number}" for number in range(rows)]
    pq.write_table(pa.table({"id": ids, "text": [texts[place] for place in places]}), target)
    return len(texts)


def embed(options: argparse.Namespace) -> dict[str, Any]:
    """In the measured process: embed the whole corpus with one replica twice, and time the second pass."""
    if options.each:
        deduplicator.hash_texts = all_new
    with tempfile.TemporaryDirectory(prefix="duplicates-") as place:
        raw = {
            "corpus": {"uri": str(options.corpus), "id": "id", "text": "text"},
            "model": {"name": options.model, "precision": options.precision},
            "output": {"uri": place},
        }
        run = plan_or_reopen(Request.resolve(parse_config(raw, "duplicates")))
        replica = Replica(replica_settings(run, options.threads), "bench")
        told = replica.facts()
        replica.configure(ResolvedSettings(run.stamp_with(told["precision"], None), told["batch_tokens"]))
        for epoch in (1, 2):
            for path in (*run.store.list("data"), *run.store.list(f"runs/{run.run_id}/staged")):
                run.store.delete(path)  # else the second turn would adopt the first one's parts
            began = time.perf_counter()
            with ThreadPoolExecutor(IN_FLIGHT) as pool:
                answers = list(pool.map(replica.embed_shard, [Assignment(shard, epoch, 1) for shard in run.shards]))
            seconds = time.perf_counter() - began
        receipts = [answer for answer in answers if isinstance(answer, Receipt)]
        for answer in answers:
            if isinstance(answer, Failure):
                raise SystemExit(f"shard {answer.shard}: {answer.reason}")
        parts = pa.concat_tables(
            [pq.read_table(f"{place}/{file.path}", partitioning=None) for one in receipts for file in one.files]
        )
        np.save(options.vectors, np.stack(parts.sort_by("id")["embedding"].to_numpy()))
        return {
            "rows": parts.num_rows,
            "tokens": sum(one.tokens for one in receipts),
            "repeated_rows": sum(getattr(one, "repeated_rows", 0) for one in receipts),
            "seconds": seconds,
            "precision": told["precision"],
        }


def all_new(texts: pa.ChunkedArray | pa.Array) -> np.ndarray:
    """Replaces workers.dedup.hash_index.hash_texts: every text gets a hash of its own."""
    return np.array([next(NUMBERS).to_bytes(TEXT_HASH_BYTES, "big") for _ in range(len(texts))], f"S{TEXT_HASH_BYTES}")


def measured(corpus: Path, model: Path, options: argparse.Namespace, vectors: Path, *, each: bool) -> dict[str, Any]:
    """`embed` in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.duplicates", str(corpus), "--model", str(model), "--vectors", str(vectors)]
    command += ["--precision", options.precision, "--threads", str(options.threads), *(["--each"] if each else [])]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def compare(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    corpus = folder / "corpus.parquet"
    distinct = repeat(options.corpus, corpus, options.rows, options.share, options.seed)
    turns: dict[str, list[dict[str, Any]]] = {"once": [], "each": []}
    for number in range(options.rounds):
        for name, found in turns.items():
            vectors = folder / f"{name}.npy"
            found.append(measured(corpus, find_model(options.model), options, vectors, each=name == "each"))
            say(f"round {number + 1}  {name}: {turns[name][-1]}")
    once, each = (np.load(folder / f"{name}.npy") for name in turns)
    return {
        **facts("duplicates"),
        "corpus": options.corpus.name,
        "model": options.model,
        "rows": options.rows,
        "distinct_texts": distinct,
        "rounds": options.rounds,
        "threads": options.threads,
        "precision": turns["once"][0]["precision"],
        "seconds": {name: spread((turn["seconds"] for turn in found), 3) for name, found in turns.items()},
        "tokens": {name: found[0]["tokens"] for name, found in turns.items()},
        "repeated_rows": turns["once"][0]["repeated_rows"],
        "speed_up": spread((e["seconds"] / o["seconds"] for o, e in zip(turns["once"], turns["each"], strict=True)), 2),
        "least_cosine": round(float((once * each).sum(axis=1).min()), 6),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--model", required=True)
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--share", type=float, default=0.6, help="of rows that repeat another's text")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--threads", type=int, default=min(len(os.sched_getaffinity(0)), 4), help="torch's, of the replica")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--vectors", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--each", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.vectors:  # the measured process
        print(json.dumps(embed(options)))
        return
    if not 0 <= options.share < 1 or options.rounds < 1:
        parser.error("--share is from 0 to below 1, --rounds at least 1")
    with tempfile.TemporaryDirectory(prefix="duplicates-") as place:
        result = compare(Path(place), options)
    store(result, options.out)
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
