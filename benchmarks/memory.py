"""Peak memory of a replica by the size of its shard, and the cost of one text of 100 MB when texts are truncated.

    python -m benchmarks.memory CORPUS.parquet --model FOLDER|package:NAME/folder [--large-mib 1024] [--out FILE]

1. the corpus' texts, repeated, as one JSONL object of 64 MiB and one of 1 GiB. Each is embedded as a single shard by a
   replica in a process of its own, without Ray. The model is tiny and random, with the given model's tokenizer, so reading,
   tokenising and writing are real
2. an object of 4 MiB with and without one more document of 100 MB, in turns
3. compared: peak resident memory for 1 GiB and 64 MiB; seconds of the shard with and without the long text

One JSON object on stdout.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import yaml

from benchmarks.models import facts, random_model, say, spread, store
from benchmarks.stages import replica_settings
from jobs.config import load_config
from jobs.planning.choose_run import plan_or_reopen
from jobs.planning.request import Request
from workers.config import ModelConfig
from workers.model.files import resolve_model
from workers.records.shard import Assignment, Failure, Shard
from workers.replica.replica import Replica
from workers.replica.settings import ResolvedSettings

MIB = 1 << 20
LONG_TEXT_BYTES = 100 * 1000 * 1000
BESIDE_LONG_TEXT_MIB = 4
WORDS = "a sentence that repeats itself, in 57 bytes, again and on. "


def write_corpus(path: Path, texts: list[str], size: int, long_text: int = 0) -> int:
    """At least `size` bytes of JSONL; returns its documents."""
    written = documents = 0
    with path.open("w", encoding="utf-8") as stream:
        if long_text:
            stream.write(json.dumps({"id": "long", "text": (WORDS * (long_text // len(WORDS) + 1))[:long_text]}) + "\n")
            documents += 1
        for text in itertools.cycle(texts):
            if written >= size:
                return documents
            text = f"{documents} {text}"  # each its own: a text that stands twice would cost nothing the second time
            line = json.dumps({"id": str(documents), "text": text}, ensure_ascii=False) + "\n"
            stream.write(line)
            written += len(line.encode())
            documents += 1
    return documents


def embed(corpus: Path, model: Path, folder: Path) -> dict[str, Any]:
    """Embed in a process of its own, so that its peak memory is the replica's."""
    config = {
        "corpus": {"uri": str(corpus), "id": "id", "max_text_bytes": "256MiB"},
        "model": {"name": str(model), "max_tokens": 256},
        "output": {"uri": str(folder / f"out-{corpus.stem}-{time.monotonic_ns()}")},
    }
    path = folder / f"{corpus.stem}.yaml"
    path.write_text(yaml.safe_dump(config))
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.memory", "--shard", str(path)], stdout=subprocess.PIPE, check=True
    )
    return dict(json.loads(done.stdout))


def one_shard(config: Path, threads: int) -> dict[str, Any]:
    """The whole object as one shard, even where the driver would split it."""
    run = plan_or_reopen(Request.resolve(load_config(config)))
    slices = [piece for shard in run.shards for piece in shard.slices]
    whole = dataclasses.replace(slices[0], start=0, stop=slices[-1].stop, first_row=0, rows=None)
    replica = Replica(replica_settings(run, threads), "replica-0")
    loaded = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    replica.configure(ResolvedSettings(run.stamp_with(replica.facts()["precision"], None), replica.facts()["batch_tokens"]))
    began = time.perf_counter()
    receipt = replica.embed_shard(Assignment(Shard(0, (whole,), whole.size), 1, 1))
    if isinstance(receipt, Failure):
        raise SystemExit(f"shard: {receipt.reason}")
    return {
        "seconds": round(time.perf_counter() - began, 3),
        "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "loaded_memory_bytes": loaded,
        "stage_seconds": receipt.stage_seconds,
        **{name: getattr(receipt, name) for name in ("documents", "rows", "tokens", "truncated", "quarantined_rows")},
    }


def measure(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    texts = pq.read_table(options.corpus, columns=["text"])["text"].to_pylist()
    result: dict[str, Any] = facts("memory") | {"corpus": options.corpus.name}
    model = random_model("one-layer", resolve_model(ModelConfig(name=options.model)).folder, folder)
    beside = BESIDE_LONG_TEXT_MIB * MIB
    sizes = {"small": (options.small_mib * MIB, 0), "large": (options.large_mib * MIB, 0), "plain": (beside, 0),
             "long_text": (beside, LONG_TEXT_BYTES)}  # fmt: skip
    places = {label: folder / f"{label}.jsonl" for label in sizes}
    for label, (size, long_text) in sizes.items():
        write_corpus(places[label], texts, size, long_text)
    for label in ("small", "large"):
        result[label] = {"bytes": places[label].stat().st_size} | embed(places[label], model, folder)
        say(f"{label}: {json.dumps(result[label])}")
    turns = [{label: embed(places[label], model, folder) for label in ("plain", "long_text")} for _ in range(options.rounds)]
    for label in ("plain", "long_text"):
        result[label] = {"seconds": spread((turn[label]["seconds"] for turn in turns), 2), "last": turns[-1][label]}
    result["peak_ratio"] = round(result["large"]["peak_memory_bytes"] / result["small"]["peak_memory_bytes"], 3)
    costs = (turn["long_text"]["seconds"] - turn["plain"]["seconds"] for turn in turns)
    result["long_text_seconds"] = spread(costs, 2)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path, nargs="?")
    parser.add_argument("--model")
    parser.add_argument("--small-mib", type=int, default=64)
    parser.add_argument("--large-mib", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=3, help="of the long text")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--shard", type=Path, metavar="CONFIG", help=argparse.SUPPRESS)  # the process of one replica
    options = parser.parse_args()
    if options.shard:
        print(json.dumps(one_shard(options.shard, options.threads)))
        return
    if options.corpus is None or options.model is None:
        parser.error("CORPUS.parquet and --model are needed")
    with tempfile.TemporaryDirectory() as name:
        result = measure(options, Path(name))
    print(json.dumps(result, indent=1))
    store(result, options.out)


if __name__ == "__main__":
    main()
