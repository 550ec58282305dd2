"""Peak memory of a job over a snapshot, for a small and a large one: `python -m benchmarks.passes_memory FOLDER`.

It writes two snapshots of random vectors below FOLDER (1.4 GB at the defaults), runs `reembed reduce` over each in a process
of its own with a small cache, and prints the largest resident memory of both. Flat memory is a ratio near 1.
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

from benchmarks.machine import commit, hardware
from tests.vector_snapshots import publish_vectors


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", type=int, nargs=2, default=[64_000, 2_600_000])
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--cache", default="64MiB")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    found = [_measured(options, rows) for rows in options.rows]
    ratio = found[1]["peak_memory_bytes"] / found[0]["peak_memory_bytes"]
    report: dict[str, Any] = {"hardware": hardware(), "commit": commit(), "dim": options.dim, "cache": options.cache}
    report |= {"runs": found, "ratio": round(ratio, 3)}
    print(json.dumps(report, indent=1))
    if options.out:
        options.out.write_text(json.dumps(report, indent=1) + "\n")


def _measured(options: argparse.Namespace, rows: int) -> dict[str, Any]:
    source, output = options.folder / f"in-{rows}", options.folder / f"out-{rows}"
    if not (source / "CURRENT.json").exists():
        vectors = np.random.default_rng(0).standard_normal((rows, options.dim), dtype=np.float32)
        publish_vectors(source, vectors, shards=max(4, rows // 16_000))
    config = options.folder / f"reduce-{rows}.yaml"
    config.write_text(
        f"reduce: {{snapshot: {source}, dim: 32}}\noutput: {{uri: {output}}}\nrun: {{cache_bytes: {options.cache}}}\n"
    )
    subprocess.run(["rm", "-rf", str(output)], check=True)
    began = time.monotonic()
    code = (
        "from jobs.config import load_section; from jobs.passes import job; "
        "from jobs.reduce.config import ReduceConfig; from jobs.reduce.job import Reduce; "
        "job.SMALL_BYTES = 1 << 60; "  # by threads of one process, whose memory is the figure
        f"job.run_job(Reduce(load_section({str(config)!r}, (), ReduceConfig))); "
        "print(next(line for line in open('/proc/self/status') if line.startswith('VmHWM')).split()[1])"
    )
    ended = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    peak = int(ended.stdout.split()[-1]) << 10  # of this process alone: ru_maxrss begins with its parent's
    return {"rows": rows, "seconds": round(time.monotonic() - began, 1), "peak_memory_bytes": peak}


if __name__ == "__main__":
    main()
