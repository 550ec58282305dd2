"""Peak memory of a replica by the size of its shard, and what one text of 100 MB costs where texts are truncated.

    python -m benchmarks.memory CORPUS.parquet --model FOLDER|package:NAME/folder [--large-mib 1024] [--out FILE]

1. the corpus' texts, again and again, as one JSONL object of 64 MiB and one of 1 GiB; each embedded as a single shard by one
   replica of a tiny random model (its tokenizer is the given model's: reading, tokenising and writing are what they are)
2. the 64 MiB object again with one more document of 100 MB
3. peak resident memory from summary.json: 1 GiB against 64 MiB; seconds of the stages: with the long text against without

One JSON object on stdout.
"""

from __future__ import annotations

import argparse
import itertools
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import yaml

from benchmarks.models import facts, random_model, store
from workers.config import ModelConfig
from workers.model_files import resolve_model

MIB = 1 << 20
LONG_TEXT_BYTES = 100 * 1000 * 1000
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
    config = {
        "corpus": {"uri": str(corpus), "id": "id", "max_text_bytes": "256MiB"},
        "model": {"name": str(model), "max_tokens": 256},
        "output": {"uri": str(folder / f"out-{corpus.stem}")},
        "cluster": {"address": "local", "replicas": 1, "gpus_per_replica": 0},
        "run": {"shard_bytes": "4GiB"},
    }
    path = folder / f"{corpus.stem}.yaml"
    path.write_text(yaml.safe_dump(config))
    done = subprocess.run(
        [sys.executable, "-m", "jobs.cli", "embed", str(path), "--json"], stdout=subprocess.PIPE, check=True
    )
    summary = json.loads(done.stdout)
    keys = ("documents", "rows", "tokens", "seconds", "stage_seconds", "peak_memory_bytes", "attempts")
    return {key: summary[key] for key in keys} | {"shards": summary["shards"]["planned"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--model", required=True)
    parser.add_argument("--small-mib", type=int, default=64)
    parser.add_argument("--large-mib", type=int, default=1024)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    texts = pq.read_table(options.corpus, columns=["text"])["text"].to_pylist()
    result: dict[str, Any] = facts("memory") | {"corpus": options.corpus.name}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = random_model("one-layer", resolve_model(ModelConfig(name=options.model)).folder, folder)
        for label, mib, long_text in (
            ("small", options.small_mib, 0),
            ("long_text", options.small_mib, LONG_TEXT_BYTES),
            ("large", options.large_mib, 0),
        ):  # fmt: skip
            corpus = folder / f"{label}.jsonl"
            written = write_corpus(corpus, texts, mib * MIB, long_text)
            result[label] = {"bytes": corpus.stat().st_size, "written": written} | embed(corpus, model, folder)
            print(f"{label}: {json.dumps(result[label])}", file=sys.stderr)
    result["peak_ratio"] = round(result["large"]["peak_memory_bytes"] / result["small"]["peak_memory_bytes"], 3)
    with_it, without = (sum(result[label]["stage_seconds"].values()) for label in ("long_text", "small"))
    result["long_text_seconds"] = round(with_it - without, 2)
    print(json.dumps(result, indent=1))
    store(result, options.out)


if __name__ == "__main__":
    main()
