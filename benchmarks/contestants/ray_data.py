"""Ray Data + sentence-transformers: read_parquet -> map_batches(actors) -> write_parquet, on a local Ray of its own.

    python -m benchmarks.contestants.ray_data CORPUS.parquet OUTPUT --model FOLDER
                                              [--dtype bfloat16] [--actors 1] [--rows-a-batch 1000] [--batch-size 32]

Tuned: `encode` works inside the actor on a thousand rows at a time, so that it has something to sort by length. One actor
with all cores took 19 and 22 CPU seconds (15 and 20 s on a machine not quite idle) for 300 rows in bfloat16 on two cores; an
actor a core, which is a model more to load, 26 and 27 (18 and 18 s); the rest of a long corpus is the same work. Ray is told
of one core more than there is: actors that hold all cores leave none to read and write with, and Ray Data waits for ever.
torch gets the real number.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks.contestants.files import arguments, vector_column, write_note


class Encoder:
    """The actor: one model, all the cores it was given."""

    def __init__(self, model: str, dtype: str, batch_size: int, threads: int) -> None:
        import torch
        from sentence_transformers import SentenceTransformer

        torch.set_num_threads(threads)
        settings = {} if dtype == "float32" else {"model_kwargs": {"dtype": getattr(torch, dtype)}}
        self._model = SentenceTransformer(model, device="cpu", **settings)
        self._batch_size = batch_size

    def __call__(self, batch: pa.Table) -> pa.Table:
        texts = batch.column("text").to_pylist()
        vectors = self._model.encode(texts, batch_size=self._batch_size, show_progress_bar=False, convert_to_numpy=True)
        return pa.table({"id": batch.column("id"), "embedding": vector_column(np.asarray(vectors))})


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--actors", type=int, default=1, help="they share the cores evenly")
    parser.add_argument(
        "--rows-a-batch", type=int, default=1000, help="of map_batches: what `encode` gets, and sorts, at a time"
    )
    parser.add_argument("--batch-size", type=int, default=32, help="of encode")
    options = parser.parse_args()

    import ray

    cores = os.cpu_count() or 1
    threads = max(1, cores // options.actors)
    ray.init(address="local", num_cpus=cores + 1, include_dashboard=False, log_to_driver=False)
    settings: dict[str, Any] = {"model": options.model, "dtype": options.dtype, "threads": threads}
    data = ray.data.read_parquet(str(options.corpus), columns=["id", "text"]).map_batches(
        Encoder,
        fn_constructor_kwargs=settings | {"batch_size": options.batch_size},
        batch_size=options.rows_a_batch,
        batch_format="pyarrow",
        num_cpus=threads,
        compute=ray.data.ActorPoolStrategy(size=options.actors),
    )
    data.write_parquet(str(options.output))
    write_note(
        options.output,
        precision=options.dtype,
        actors=options.actors,
        threads=threads,
        rows_a_batch=options.rows_a_batch,
        batch_size=options.batch_size,
    )


if __name__ == "__main__":
    main()
