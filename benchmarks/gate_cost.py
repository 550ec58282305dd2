"""What `gate.evaluate` costs a night: its CPU time on a large snapshot, beside that of embedding as many rows.

    python -m benchmarks.gate_cost OUTPUT CORPUS.parquet --model FOLDER|package:NAME/folder [--label section]
                                   [--rows 1000000] [--texts 2000] [--folder gate-cost] [--out FILE]

1. OUTPUT's vectors and labels, repeated with small noise until there are enough rows, are published below --folder
2. the gate's evaluation (classify, its own defaults) of that snapshot, in a process of its own
3. the encoder over a sample of the corpus, in a process of its own, times the rows: the least that a night of new texts
   costs

CPU seconds of processes, all threads. One JSON object on stdout.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks.evaluate_classify import in_memory
from benchmarks.machine import commit, hardware
from benchmarks.models import Bench, store
from benchmarks.peers import find_model, sample
from jobs.evaluate.gate import quality_section
from jobs.evaluate.look import figures_of
from jobs.passes.source import SourceSnapshot
from tests.vector_snapshots import publish_vectors
from workers.table.vectors import as_float32, unit_rows

NOISE = 0.02
SHARD_ROWS = 50_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("snapshot")
    parser.add_argument("corpus")
    parser.add_argument("--model", required=True)
    parser.add_argument("--label", default="section")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--texts", type=int, default=2000)
    parser.add_argument("--folder", type=Path, default=Path("gate-cost"))
    parser.add_argument("--out", type=Path)
    parser.add_argument("--part", choices=("gate", "embed"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part:
        print(json.dumps(_gate(options) if options.part == "gate" else _embed(options)))
        return
    _publish(options)
    gate, embed = (_own_process(part) for part in ("gate", "embed"))
    night = embed["cpu_seconds"] / embed["texts"] * options.rows
    report = {
        "benchmark": "gate_cost", "rows": options.rows, "gate": gate, "embed": embed, "night_cpu_seconds": round(night),
        "share": round(gate["cpu_seconds"] / night, 5), "hardware": hardware(), **commit(),
    }  # fmt: skip
    print(json.dumps(report, indent=1))
    store(report, options.out)


def _own_process(part: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.gate_cost", *sys.argv[1:], "--part", part]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def _publish(options: argparse.Namespace) -> None:
    if (options.folder / "CURRENT.json").exists():
        return
    table = in_memory(options.snapshot, [options.label])
    stamp = SourceSnapshot.open(options.snapshot, {}, "SNAPSHOT").run.stamp
    vectors = as_float32(table.column("embedding"), stamp.vector, stamp.int8_scale)
    rows = np.arange(options.rows) % len(vectors)
    noise = np.random.default_rng(0).standard_normal((options.rows, vectors.shape[1]), dtype=np.float32)
    noise *= NOISE
    noise += vectors[rows]
    labels = table.column(options.label).combine_chunks().cast(pa.string()).take(pa.array(rows))
    publish_vectors(options.folder, unit_rows(noise), keep={options.label: labels}, shards=-(-options.rows // SHARD_ROWS))


def _gate(options: argparse.Namespace) -> dict[str, Any]:
    section = quality_section({"task": "classify", "label": options.label})
    source = SourceSnapshot.open(str(options.folder), {}, "SNAPSHOT")
    began, cpu = time.perf_counter(), time.process_time()
    facts = figures_of(source, section)
    return {
        "cpu_seconds": time.process_time() - cpu,
        "seconds": time.perf_counter() - began,
        "macro_f1": facts["macro_f1"],
        "training_rows": facts["training_rows"],
        "test_rows": facts["rows"],
        "vector_bytes": options.rows * source.dim * 4,
    }


def _embed(options: argparse.Namespace) -> dict[str, Any]:
    texts = sample(Path(options.corpus), options.texts, 0)["text"].to_pylist()
    bench = Bench(find_model(options.model))
    tokens = bench.tokenizer.tokenize(texts)
    encoder = bench.encoder()
    encoder.encode(tokens)
    cpu = time.process_time()
    encoder.encode(bench.tokenizer.tokenize(texts))
    return {"texts": len(texts), "tokens": len(tokens.input_ids), "cpu_seconds": time.process_time() - cpu}


if __name__ == "__main__":
    main()
