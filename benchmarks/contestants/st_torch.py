"""sentence-transformers on PyTorch: read all texts, `encode`, write one Parquet file.

    python -m benchmarks.contestants.st_torch CORPUS.parquet OUTPUT --model FOLDER [--dtype bfloat16] [--batch-size 32]

float32 with batches of 32 is what a user gets who sets nothing. bfloat16 is set by `model_kwargs`, as documented; its
vectors then leave the model in bfloat16, and what that costs in accuracy is in the cosine. `encode` sorts all texts by
length itself; torch uses all cores by itself.

Tuned: batches of 8, 16, 32, 64, 128 in bfloat16 on length-sorted windows of the Debian corpus (128 short, middling and long
texts each), two cores, best of four: 8.4, 7.5, 6.7, 6.8, 7.1 s. 32 stays.
"""

from __future__ import annotations

import time

from benchmarks.contestants.files import arguments, read_corpus, write_note, write_vectors


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--batch-size", type=int, default=32)
    options = parser.parse_args()
    ids, texts = read_corpus(options.corpus)

    import torch
    from sentence_transformers import SentenceTransformer

    began = time.perf_counter()
    settings = {} if options.dtype == "float32" else {"model_kwargs": {"dtype": getattr(torch, options.dtype)}}
    model = SentenceTransformer(options.model, device="cpu", **settings)
    loaded = time.perf_counter()
    vectors = model.encode(texts, batch_size=options.batch_size, show_progress_bar=False, convert_to_numpy=True)
    encoded = time.perf_counter()
    write_vectors(options.output, ids, vectors)
    write_note(
        options.output,
        precision=str(next(model.parameters()).dtype),
        threads=torch.get_num_threads(),
        batch_size=options.batch_size,
        load_seconds=round(loaded - began, 2),
        encode_seconds=round(encoded - loaded, 2),
    )


if __name__ == "__main__":
    main()
