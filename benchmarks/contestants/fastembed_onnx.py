"""fastembed: read all texts, `embed`, write one Parquet file. ONNX Runtime in float32, without torch.

    python -m benchmarks.contestants.fastembed_onnx CORPUS.parquet OUTPUT --model EXPORTED
                                                    [--batch-size 256] [--processes 0] [--unsorted true]

EXPORTED is what onnx_export made, beforehand and not counted: the same weights, loaded as a custom model with mean pooling
and normalisation. `embed` makes batches in the order it is given, and pads each to its longest text, so the texts are sorted
by length here, as a user who knows that would do; the clock covers the sorting.

Tuned: batches of 16, 64 and 256 (its own choice) on 600 texts of the Debian corpus, two busy cores: 27, 30 and 38 CPU
seconds. The roster takes 16.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import numpy as np

from benchmarks.contestants.files import arguments, by_length, read_corpus, write_note, write_vectors
from benchmarks.contestants.onnx_export import GRAPH, snapshot


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--processes", type=int, default=0, help="of `parallel`, one thread each; 0: one process, all cores")
    parser.add_argument("--unsorted", default="", help="anything: texts in the corpus's order")
    options = parser.parse_args()
    ids, texts = read_corpus(options.corpus)

    from fastembed import TextEmbedding
    from fastembed.common.model_description import ModelSource, PoolingType

    began = time.perf_counter()
    folder = snapshot(Path(options.model))
    width = json.loads((folder / "config.json").read_text())["hidden_size"]
    TextEmbedding.add_custom_model(
        "local/model", PoolingType.MEAN, True, ModelSource(hf="local/model"), width, model_file=GRAPH
    )
    threads = len(os.sched_getaffinity(0))
    model = TextEmbedding("local/model", specific_model_path=str(folder), threads=threads, cuda=False)
    loaded = time.perf_counter()
    order = np.arange(len(texts)) if options.unsorted else by_length(texts)
    found = model.embed([texts[row] for row in order], batch_size=options.batch_size, parallel=options.processes or None)
    vectors = np.empty((len(texts), width), np.float32)
    for row, vector in zip(order, found, strict=True):
        vectors[row] = vector
    encoded = time.perf_counter()
    write_vectors(options.output, ids, vectors)
    write_note(
        options.output,
        precision="float32",
        threads=threads,
        processes=options.processes,
        batch_size=options.batch_size,
        load_seconds=round(loaded - began, 2),
        encode_seconds=round(encoded - loaded, 2),
    )


if __name__ == "__main__":
    main()
