"""EmbedAnything: read all texts, `embed_query` on all of them, write one Parquet file. Rust, without torch.

    python -m benchmarks.contestants.embed_anything CORPUS.parquet OUTPUT --model EXPORTED
                                                    [--backend candle|onnx] [--batch-size 32] [--unsorted true]

EXPORTED is what onnx_export made, beforehand and not counted. `embed_file` and its kin split documents into chunks and keep
their texts; `embed_query` gives a vector a text, which is this job. It makes batches in the order it is given, so the texts
are sorted by length here, as a user who knows that would do; the clock covers the sorting.

Tuned on 200 texts of the Debian corpus, two busy cores, in CPU seconds: candle 24 and 45 with batches of 16 and 64, ONNX 7
and 11. The roster takes ONNX with 16. `dtype` changes nothing on a CPU: asked for bfloat16 it gives the vectors of float32.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np

from benchmarks.contestants.files import arguments, by_length, read_corpus, write_note, write_vectors
from benchmarks.contestants.onnx_export import COMMIT, GRAPH, REPOSITORY


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--backend", choices=("candle", "onnx"), default="candle")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--unsorted", default="", help="anything: texts in the corpus's order")
    options = parser.parse_args()
    os.environ["HF_HOME"] = str(Path(options.model))  # before the import
    ids, texts = read_corpus(options.corpus)

    from embed_anything import EmbeddingModel, TextEmbedConfig, WhichModel

    began = time.perf_counter()
    if options.backend == "onnx":
        model = EmbeddingModel.from_pretrained_onnx(
            WhichModel.Bert, hf_model_id=REPOSITORY, revision=COMMIT, path_in_repo=GRAPH
        )
    else:
        model = EmbeddingModel.from_pretrained_hf(model_id=REPOSITORY, revision=COMMIT)
    loaded = time.perf_counter()
    order = np.arange(len(texts)) if options.unsorted else by_length(texts)
    config = TextEmbedConfig(batch_size=options.batch_size)
    found = model.embed_query([texts[row] for row in order], config=config)
    vectors = np.empty((len(texts), len(found[0].embedding)), np.float32)
    for row, item in zip(order, found, strict=True):
        vectors[row] = item.embedding
    encoded = time.perf_counter()
    write_vectors(options.output, ids, vectors)
    write_note(
        options.output,
        precision="float32",
        backend=options.backend,
        batch_size=options.batch_size,
        load_seconds=round(loaded - began, 2),
        encode_seconds=round(encoded - loaded, 2),
    )


if __name__ == "__main__":
    main()
