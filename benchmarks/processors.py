"""Other processors, as far as this one can stand in for them: what the trial at start settles, and tokens a second.

    python -m benchmarks.processors CORPUS.parquet --model FOLDER|package:NAME/folder [--rows 200] [--rounds 3]
        [--limits AVX2 AVX512_CORE AVX512_CORE_VNNI ""] [--out FILE]

One process for each value of ONEDNN_MAX_CPU_ISA, with an empty cache: oneDNN's products use no more than that. Below AVX512
torch's own kernels and MKL's products are limited likewise (ATEN_CPU_CAPABILITY, MKL_ENABLE_INSTRUCTIONS: without the latter
transformers had products of AVX512 on an Intel processor), and the attention kernel is refused wherever bfloat16
instructions are. What cannot be limited: oneDNN's other operators, clock rates, and what lies between 8-bit products.
In each, in turn, rounds of: the precision that `auto` settles, int8 if it is possible, plain transformers in float32
(padded, batches sorted by length). CPU seconds of one thread. One JSON object on stdout.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.models import Bench, facts, running, say, spread, store
from benchmarks.peers import find_model, sample
from workers.engine.encoder import Encoder
from workers.engine.ways.padded import Padded
from workers.errors import UsageError
from workers.table.vectors import cosines

LIMITS = ("AVX2", "AVX512_CORE", "AVX512_CORE_VNNI", "")


def child(options: argparse.Namespace, limit: str) -> dict[str, Any]:
    """The rounds in this process, which is limited already."""
    if limit:
        torch.cpu._is_avx512_bf16_supported = lambda: False
    said: list[str] = []
    handler = logging.Handler(logging.INFO)
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("workers").addHandler(handler)
    logging.getLogger("workers").setLevel(logging.INFO)
    bench = Bench(find_model(options.model))
    tokens = bench.tokenizer.tokenize(sample(options.corpus, options.rows, 1).column("text").to_pylist())
    encoders: dict[str, Encoder] = {}
    for precision in ("auto", "int8"):
        began = time.process_time()
        try:
            encoders[precision] = bench.encoder(precision, "auto", 1)
        except UsageError as error:
            said.append(str(error))
            continue
        said.append(f"{precision}: {encoders[precision].way}, loaded in {time.process_time() - began:.1f} CPU s")
    encoders["transformers"] = running(encoders["auto"], Padded(bench.transformer(encoders["auto"], "float32")))
    rates: dict[str, list[float]] = {name: [] for name in encoders}
    vectors = {name: encoder.encode(tokens).vectors for name, encoder in encoders.items()}
    for _ in range(options.rounds):
        for name, encoder in encoders.items():
            began = time.process_time()
            encoder.encode(tokens)
            rates[name].append(len(tokens.input_ids) / (time.process_time() - began))
    plain = float(np.median(rates["transformers"]))
    return {
        "limit": limit or "none",
        "said": said,
        "contenders": {
            name: {
                "way": encoder.way,
                "tokens_per_cpu_second": spread(rates[name]),
                "times_transformers": round(float(np.median(rates[name])) / plain, 2),
                "cosine_min": round(float(cosines(vectors[name], vectors["transformers"]).min()), 6),
            }
            for name, encoder in encoders.items()
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--model", required=True)
    parser.add_argument("--rows", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--limits", nargs="+", default=LIMITS)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.child is not None:
        print(json.dumps(child(options, options.child)))
        return
    result: dict[str, Any] = {**facts("processors"), "rows": options.rows, "rounds": options.rounds, "limits": []}
    for limit in options.limits:
        say(f"limit {limit or 'none'}")
        with tempfile.TemporaryDirectory(prefix="processors-") as cache:
            narrow = {"ATEN_CPU_CAPABILITY": "avx2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"} if limit.startswith("AVX2") else {}
            limited = {"ONEDNN_MAX_CPU_ISA": limit} if limit else {}
            done = subprocess.run(
                [sys.executable, "-m", "benchmarks.processors", str(options.corpus), "--model", options.model,
                 "--rows", str(options.rows), "--rounds", str(options.rounds), "--child", limit],
                env={**os.environ, **limited, **narrow, "REEMBED_CACHE": cache}, stdout=subprocess.PIPE, check=True,
            )  # fmt: skip
        result["limits"].append(json.loads(done.stdout))
        for name, row in result["limits"][-1]["contenders"].items():
            rate = row["tokens_per_cpu_second"]["median"]
            say(f"  {name:<13} {row['way']:<16} {rate:>9,.0f}  {row['times_transformers']} x")
        store(result, options.out)
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
