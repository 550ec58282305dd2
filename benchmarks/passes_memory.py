"""Peak memory of the jobs over a snapshot, for a small and a large one: `python -m benchmarks.passes_memory FOLDER`.

It writes two snapshots of made-up vectors below FOLDER (0.7 GB at the defaults), and runs every job over each: a driver in a
process of its own, two actors on a Ray of its own, a small cache. It prints the largest resident memory of the driver and of
the largest actor. Flat memory is a ratio near 1. What grows with the rows by a setting of `auto` is given, and the same:
clusters, cells, rows of an index file, and labelled rows that are used.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import yaml

from benchmarks.machine import commit, hardware
from tests.vector_snapshots import publish_vectors

SHARD_ROWS = 16_000
CLASSES = 50
JOBS: dict[str, dict[str, Any]] = {
    "reduce": {"dim": 32},
    "cluster": {"clusters": 256},
    "dedup": {"clusters": 512},
    "index": {"rows_per_file": 64_000},
    "evaluate": {"label": "label", "c": [10.0], "sample": 50_000},
}
# In a process of its own, whose peak is the driver's: ru_maxrss would begin with its parent's.
DRIVER = """
import json, sys
from importlib import import_module
from jobs.config import load_section
from jobs.passes import job
name, config, actors = sys.argv[1:]
if actors == "0":
    job.SMALL_BYTES = 1 << 60
settings, kind = {
    "reduce": ("ReduceConfig", "Reduce"),
    "cluster": ("ClusterJobConfig", "ClusterJob"),
    "dedup": ("DedupConfig", "DedupJob"),
    "index": ("IndexConfig", "IndexJob"),
    "evaluate": ("EvaluateConfig", "EvaluateJob"),
}[name]
loaded = load_section(config, (), getattr(import_module(f"jobs.{name}.config"), settings))
summary = job.run_job(getattr(import_module(f"jobs.{name}.job"), kind)(loaded))
assert summary["published"], summary["reasons"]
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
print(json.dumps({
    "driver_peak_bytes": int(status["VmHWM"].split()[0]) << 10, "actor_peak_bytes": summary["peak_memory_bytes"],
    "passes": len(summary["passes"]), "vector_bytes_read": summary["vector_bytes_read"],
}))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", type=int, nargs=2, default=[64_000, 2_600_000])
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--cache", default="8MiB", help="run.cache_bytes of every actor")
    parser.add_argument("--actors", type=int, default=2, help="0: threads of the driver, without Ray")
    parser.add_argument("--jobs", nargs="+", choices=JOBS, default=list(JOBS))
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    report: dict[str, Any] = {"hardware": hardware(), "commit": commit(), "dim": options.dim, "cache": options.cache}
    report |= {"actors": options.actors, "jobs": {}}
    for job in options.jobs:
        small, large = (_measured(options, job, rows) for rows in options.rows)
        ratios = {name: round(large[f"{name}_peak_bytes"] / small[f"{name}_peak_bytes"], 3) for name in ("driver", "actor")}
        report["jobs"][job] = {"runs": [small, large], "ratio": ratios}
        print(json.dumps({job: report["jobs"][job]}), flush=True)
        if options.out:
            options.out.write_text(json.dumps(report, indent=1) + "\n")


def _snapshot(folder: Path, rows: int, dim: int) -> Path:
    """Classes of vectors, of which a few stand near another one."""
    source = folder / f"in-{rows}-{dim}"
    if not (source / "CURRENT.json").exists():
        random = np.random.default_rng(0)
        centres = random.standard_normal((CLASSES, dim), dtype=np.float32)
        classes = random.integers(0, CLASSES, rows)
        vectors = centres[classes] + random.standard_normal((rows, dim), dtype=np.float32)
        near = random.choice(rows, rows // 50, replace=False)
        vectors[near] = vectors[near - 1] + 0.01 * random.standard_normal((len(near), dim), dtype=np.float32)
        labels = pa.array([f"class {number}" for number in classes])
        publish_vectors(source, vectors, keep={"label": labels}, shards=max(4, rows // SHARD_ROWS))
    return source


def _measured(options: argparse.Namespace, job: str, rows: int) -> dict[str, Any]:
    source, output = _snapshot(options.folder, rows, options.dim), options.folder / f"out-{job}-{rows}"
    raw: dict[str, Any] = {"output": {"uri": str(output)}, "run": {"cache_bytes": options.cache}}
    raw["cluster"] = {"address": "local", "replicas": options.actors or "auto"}
    raw[job] = raw.get(job, {}) | {"snapshot": str(source), **JOBS[job]}
    config = options.folder / f"{job}-{rows}.yaml"
    config.write_text(yaml.safe_dump(raw))
    shutil.rmtree(output, ignore_errors=True)
    began = time.monotonic()
    ended = subprocess.run(
        [sys.executable, "-c", DRIVER, job, str(config), str(options.actors)], check=False, capture_output=True, text=True
    )
    if ended.returncode:
        sys.exit(f"{job}, {rows} rows: {ended.stderr[-3000:]}")
    measured: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    shutil.rmtree(output, ignore_errors=True)
    return {"rows": rows, "seconds": round(time.monotonic() - began, 1), **measured}


if __name__ == "__main__":
    main()
