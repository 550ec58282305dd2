"""The tokenizer alone in a process of its own, on some of the cores: texts in, ids out. One JSON object on stdout.

python -m benchmarks.gpu.tokenizing MODEL_FOLDER CORPUS.parquet --threads 4 --rows 30000
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path

import pyarrow.parquet as pq

from workers.config import ModelConfig
from workers.model.files import resolve_model
from workers.model.recipes.read import read_recipe
from workers.model.tokenizer import TextTokenizer

WARM_ROWS = 500


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--threads", type=int, default=1, help="cores that this process may use")
    parser.add_argument("--rows", type=int, required=True)
    options = parser.parse_args()
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.threads])
    config = ModelConfig(name=str(options.model))
    files = resolve_model(config)
    tokenizer = TextTokenizer(files.folder, read_recipe(files, config))
    texts = pq.read_table(options.corpus, columns=["text"]).column("text").to_pylist()[: options.rows]
    tokenizer.tokenize(texts[:WARM_ROWS])
    began, process, thread = time.perf_counter(), time.process_time(), time.thread_time()
    tokens = len(tokenizer.tokenize(texts).input_ids)
    wall, cpu, own = time.perf_counter() - began, time.process_time() - process, time.thread_time() - thread
    found = {
        "Mtok_s": tokens / wall / 1e6,
        "Mtok_s_a_core": tokens / cpu / 1e6,
        "calling_thread_us_a_document": own / len(texts) * 1e6,
    }
    print(json.dumps({"documents": len(texts)} | {name: round(value, 4) for name, value in found.items()}))


if __name__ == "__main__":
    main()
