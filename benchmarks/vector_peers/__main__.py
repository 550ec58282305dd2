"""The jobs over vectors beside others in one run: quality, seconds, and the peak memory of each process.

    python -m benchmarks.peers --install                                   # once: the environment `vectors` of the peers
    python -m benchmarks.vector_peers SNAPSHOT CORPUS.parquet [--rounds 3] [--only bertopic semhash] [--out FILE]

SNAPSHOT: Debian's package descriptions, embedded with corpus.keep=[section, split] (benchmarks/debian_sections.py). Every
contestant of the roster is a process of its own on one thread, one after the other, and begins with the same arrays
(prepare.py), a job with the snapshot. Medians of the rounds; one JSON object on stdout, progress on stderr.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.contestants import environments
from benchmarks.machine import commit, hardware
from benchmarks.vector_peers.roster import PACKAGES, ROSTER, Contestant

THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")


def main() -> None:
    options = _options()
    with tempfile.TemporaryDirectory() as place:
        command = [sys.executable, "-m", "benchmarks.vector_peers.prepare", options.snapshot, str(options.corpus), place]
        subprocess.run([*command, "--sample", str(options.sample)], check=True, cwd=environments.ROOT)
        settings = json.loads(Path(place, "settings.json").read_text())
        found, left_out = _all(options, place)
    result: dict[str, Any] = {"benchmark": "vector_peers", "hardware": hardware(), **commit()}
    named = ("rows", "dim", "sample", "training_rows", "clusters", "threshold", "model")
    result |= {name: settings[name] for name in named}
    result |= {"rounds": options.rounds, "corpus": options.corpus.name, "contestants": found, "left_out": left_out}
    result["packages"] = {name or "own": environments.versions(name, PACKAGES) for name in _environments(left_out)}
    print(json.dumps(result, indent=1))
    if options.out:
        options.out.write_text(json.dumps(result, indent=1) + "\n")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("snapshot")
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--sample", type=int, default=10_000, help="rows that BERTopic is given")
    parser.add_argument("--only", nargs="+", choices=[who.function for who in ROSTER])
    parser.add_argument("--out", type=Path)
    return parser.parse_args()


def _environments(left_out: dict[str, str]) -> list[str]:
    """Those that took part."""
    return sorted({who.environment for who in ROSTER if who.function not in left_out})


def _all(options: argparse.Namespace, place: str) -> tuple[dict[str, Any], dict[str, str]]:
    """What each contestant found and spent, and who was left out for what."""
    chosen = [who for who in ROSTER if not options.only or who.function in options.only]
    left_out = {who.function: reason for who in chosen if (reason := environments.missing(who.environment))}
    runs: dict[str, list[dict[str, Any]]] = {who.function: [] for who in chosen if who.function not in left_out}
    for _ in range(options.rounds):
        for who in chosen:
            if who.function in left_out:
                continue
            done = _process(who, place)
            if done.returncode:
                left_out[who.function] = (done.stderr.strip().splitlines() or ["no message"])[-1][:300]
            else:
                runs[who.function].append(json.loads(done.stdout.splitlines()[-1]))
            print(who.function, left_out.get(who.function) or runs[who.function][-1], file=sys.stderr, flush=True)
    return {name: _median(each) for name, each in runs.items() if name not in left_out}, left_out


def _process(who: Contestant, place: str) -> subprocess.CompletedProcess[str]:
    command = [str(environments.python_of(who.environment)), "-m", "benchmarks.vector_peers.one", place]
    command += [who.module, who.function]
    alone = dict.fromkeys(THREADS, "1") | {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    return subprocess.run(
        command, env=os.environ | alone, capture_output=True, text=True, check=False, cwd=environments.ROOT
    )


def _median(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Of each figure; and the CPU seconds of every round."""
    return {name: statistics.median(run[name] for run in runs) for name in runs[0]} | {
        "all_cpu_seconds": [round(run["cpu_seconds"], 2) for run in runs]
    }


if __name__ == "__main__":
    main()
