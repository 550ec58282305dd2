"""Embeds a corpus on a real object store once undisturbed and once under SIGKILL, and compares rows and bits.

    python benchmarks/kill_and_resume.py CORPUS.parquet s3://bucket/prefix --model FOLDER [--kills 5] [--seed 1] [--compare]

1. cut the corpus (columns id, text, section) into 12 uneven objects below the prefix
2. embed it with two CPU replicas, partitioned by section; audit with `reembed verify`; count with four readers
3. embed it again into another output, the driver's process group killed at seeded random moments and started again
4. compare ids and vectors of 2 and 3 bit by bit; --compare: cosine of 2 against sentence-transformers' own encode

Prints one JSON object. The endpoint and keys come from the environment, as for any S3 client.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import yaml
from fsspec.core import url_to_fs

SHARES = (23, 17, 13, 11, 9, 7, 6, 5, 4, 3, 1.5, 0.5)  # percent of rows in each object
EMBED = [sys.executable, "-m", "jobs.cli", "embed"]


def upload(table: pa.Table, prefix: str) -> list[int]:
    """Twelve uneven objects in row groups of 2,000; returns their rows."""
    fs, root = url_to_fs(prefix)
    bucket = root.partition("/")[0]
    if not fs.exists(bucket):
        fs.mkdir(bucket)
    borders = np.round(np.cumsum((0, *SHARES)) / sum(SHARES) * table.num_rows).astype(int)
    for number, (start, stop) in enumerate(itertools.pairwise(borders)):
        with fs.open(f"{root}/corpus/objects-{number:02d}.parquet", "wb") as stream:
            pq.write_table(table.slice(start, stop - start), stream, row_group_size=2000)
    return [int(rows) for rows in np.diff(borders)]


def configuration(prefix: str, output: str, model: str, folder: Path) -> Path:
    path = folder / f"{output}.yaml"
    path.write_text(
        yaml.safe_dump(
            {
                "corpus": {"uri": f"{prefix}/corpus/", "id": "id", "keep": ["section"]},
                "model": {"name": model},
                "output": {"uri": f"{prefix}/{output}", "partition_by": ["section"]},
                "cluster": {"address": "local", "replicas": 2},
            }
        )
    )
    return path


def run(config: Path) -> dict[str, Any]:
    began = time.monotonic()
    done = subprocess.run([*EMBED, str(config), "--json"], stdout=subprocess.PIPE, check=False)
    summary = json.loads(done.stdout)
    summary["model"]["name"] = Path(summary["model"]["name"]).name  # results name no machine's folders
    return {"exit": done.returncode, "wall_seconds": round(time.monotonic() - began, 1)} | summary


def run_under_fire(config: Path, kills: int, whole_seconds: float, chance: random.Random) -> dict[str, Any]:
    """Send SIGKILL to the whole process group at random moments, then run to the end."""
    moments = []
    for _ in range(kills):
        child = subprocess.Popen([*EMBED, str(config), "--json"], stdout=subprocess.DEVNULL, start_new_session=True)
        wait = chance.uniform(2.0, max(4.0, whole_seconds / 3))
        moments.append(round(wait, 1))
        try:
            child.wait(wait)
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()
    return {"killed_after_seconds": moments} | run(config)


def read(data: str) -> pa.Table:
    fs, root = url_to_fs(data)
    return (
        ds.dataset(root, filesystem=fs, format="parquet", partitioning="hive")
        .to_table(["id", "embedding", "section"])
        .sort_by("id")
    )


def vectors(table: pa.Table) -> np.ndarray:
    column = table.column("embedding").combine_chunks()
    return column.flatten().to_numpy().reshape(len(column), -1)


def count_with_readers(data: str) -> dict[str, Any]:
    """Rows and distinct sections, each by the reader's own S3 client where it has one, else from a local copy."""
    fs, root = url_to_fs(data)
    with tempfile.TemporaryDirectory() as folder:
        fs.get(root, folder, recursive=True)
        local = str(next(Path(folder).rglob("section=*")).parent)
        source = f"read_parquet('{local}/**/*.parquet', hive_partitioning=true)"
        count = duckdb.sql(f"select count(*), count(distinct section) from {source}")
        scan = pl.scan_parquet(f"{local}/**/*.parquet", hive_partitioning=True)
        polars = scan.select("id", "section").collect()
        found: dict[str, Any] = {
            "duckdb": list(count.fetchall()[0]),
            "polars": [polars.height, polars["section"].n_unique()],
            "ray_data": _ray_data(local),
        }
    table = read(data)
    found["pyarrow"] = [table.num_rows, len(table.column("section").unique())]
    return found


def _ray_data(local: str) -> list[int]:
    code = (
        "import json, sys, ray; from ray.data.datasource.partitioning import Partitioning\n"
        "ray.init(address='local', log_to_driver=False, include_dashboard=False)\n"
        "data = ray.data.read_parquet(sys.argv[1], partitioning=Partitioning('hive'), columns=['id', 'section'])\n"
        "print(json.dumps([data.count(), len(data.unique('section'))]))"
    )
    done = subprocess.run([sys.executable, "-c", code, local], capture_output=True, text=True, check=True)
    counts: list[int] = json.loads(done.stdout.strip().splitlines()[-1])
    return counts


def cosines(table: pa.Table, corpus: pa.Table, model: str) -> dict[str, float]:
    """Against sentence-transformers' own float32 encode of the same texts."""
    from sentence_transformers import SentenceTransformer

    texts = dict(zip(corpus.column("id").to_pylist(), corpus.column("text").to_pylist(), strict=True))
    reference = SentenceTransformer(model, device="cpu").encode(
        [texts[name] for name in table.column("id").to_pylist()], normalize_embeddings=True, batch_size=32
    )
    cosine = (reference * vectors(table)).sum(axis=1)
    return {"min": float(cosine.min()), "mean": float(cosine.mean())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus")
    parser.add_argument("prefix")
    parser.add_argument("--model", required=True)
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rows", type=int)
    parser.add_argument("--compare", action="store_true")
    options = parser.parse_args()
    prefix = options.prefix.rstrip("/")
    corpus = pq.read_table(options.corpus).slice(0, options.rows)
    report: dict[str, Any] = {"rows": corpus.num_rows, "objects": upload(corpus, prefix), "seed": options.seed}
    with tempfile.TemporaryDirectory() as folder:
        calm = configuration(prefix, "calm", options.model, Path(folder))
        report["calm"] = run(calm)
        verify = subprocess.run(
            [sys.executable, "-m", "jobs.cli", "verify", str(calm), "--json"], stdout=subprocess.PIPE, check=False
        )
        report["verify"] = {"exit": verify.returncode} | json.loads(verify.stdout)
        report["readers"] = count_with_readers(report["calm"]["data"])
        fired = configuration(prefix, "fired", options.model, Path(folder))
        report["fired"] = run_under_fire(fired, options.kills, report["calm"]["wall_seconds"], random.Random(options.seed))
    one, other = read(report["calm"]["data"]), read(report["fired"]["data"])
    report["distinct_ids"] = len(one.column("id").unique())
    norms = np.linalg.norm(vectors(one), axis=1)
    report["norms"] = [float(norms.min()), float(norms.max())]
    report["same_ids"] = one.column("id").equals(other.column("id"))
    report["same_bits"] = bool(np.array_equal(vectors(one).view(np.uint32), vectors(other).view(np.uint32)))
    if options.compare:
        report["cosine_to_sentence_transformers"] = cosines(one, corpus, options.model)
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
