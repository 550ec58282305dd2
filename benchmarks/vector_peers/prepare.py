"""Writes the arrays that all contestants read (material.py), in a process of its own.

python -m benchmarks.vector_peers.prepare SNAPSHOT CORPUS.parquet FOLDER [--sample 10000] [--clusters 256] …
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from jobs.passes.source import SourceSnapshot
from tests.vector_snapshots import publish_vectors
from workers.snapshot.vectors import iterate_vectors
from workers.table.vectors import unit_rows


def prepare(options: argparse.Namespace) -> None:
    source = SourceSnapshot.open(options.snapshot, {}, "SNAPSHOT")
    paths = [piece.uri for shard in source.shards for piece in shard.slices]
    columns = ["id", "text_hash", options.label, "split"]
    batches = list(iterate_vectors(source.store, paths, source.schema, columns))
    table = pa.concat_tables([batch.columns.select(columns) for batch in batches])
    vectors = unit_rows(np.concatenate([batch.vectors for batch in batches]))
    label = np.array(table.column(options.label).to_pylist())
    numbers: dict[bytes, int] = {}
    text = np.array([numbers.setdefault(cell, len(numbers)) for cell in table.column("text_hash").to_pylist()])
    sample = np.sort(np.random.default_rng(0).permutation(len(vectors))[: options.sample])
    arrays = {
        "vectors": vectors.astype(np.float32),
        "label": label,
        "training": np.array(table.column("split").to_pylist()) == "train",
        "text": text,
        "sample": sample,
    }
    for name, array in arrays.items():
        np.save(options.folder / f"{name}.npy", array)
    corpus = pq.read_table(options.corpus, columns=["id", "text"])
    texts = dict(zip(corpus.column("id").to_pylist(), corpus.column("text").to_pylist(), strict=True))
    ids = table.column("id").to_pylist()
    chosen = [texts[ids[row]] for row in sample]
    (options.folder / "sample_texts.json").write_text(json.dumps(chosen))
    publish_vectors(options.folder / "sample", vectors[sample], keep={options.label: pa.array(label[sample].tolist())})
    settings = {
        "snapshot": options.snapshot,
        "sample_snapshot": str(options.folder / "sample"),
        "label": options.label,
        "clusters": options.clusters,
        "threshold": options.threshold,
        "rows": len(vectors),
        "dim": vectors.shape[1],
        "sample": len(sample),
        "training_rows": int(arrays["training"].sum()),
        "model": source.run.stamp.model,
    }
    (options.folder / "settings.json").write_text(json.dumps(settings))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("snapshot")
    parser.add_argument("corpus", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--label", default="section")
    parser.add_argument("--sample", type=int, default=10_000)
    parser.add_argument("--clusters", type=int, default=256)
    parser.add_argument("--threshold", type=float, default=0.95)
    prepare(parser.parse_args())


if __name__ == "__main__":
    main()
