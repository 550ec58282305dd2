"""The time of a run's start and end, by stages, for one or more checkouts in turn.

    python -m benchmarks.startup [--tree NAME=FOLDER ...] [--rounds 5] [--out FILE]

A run of 84 short rows with a model of 80 KB over a local Ray, so that nearly all of its time is start and end. Seconds since
the process was started, and for ray.init and ray.shutdown the length of the call:

    imported    ray is imported
    connecting  ray.init is called: configuration, listing and planning are done
    ray_init    length of ray.init
    ready       the first replica is ready, its model loaded
    published   the summary is printed
    shutdown    length of ray.shutdown
    total       the process has ended
    leftovers   seconds until the last process that Ray started has ended, after that
    cpu         CPU seconds of the driver and of all that it started and waited for

Trees take turns, so that changes of the machine's speed affect all of them. The corpus and the model are
tests/compat/fixture's.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
import yaml

from benchmarks.machine import ROOT, hardware

FIXTURE = ROOT / "tests" / "compat" / "fixture"
STAGES = ("imported", "connecting", "ray_init", "ready", "published", "shutdown", "total", "leftovers", "cpu")

# Public calls and log lines only, so that it measures any version. Run with the tree on PYTHONPATH.
DRIVER = """
import json, logging, os, sys, time
began = float(sys.argv[1])
times = {}

class Watch(logging.Handler):
    def emit(self, record):
        if " ready: " in record.getMessage():
            times.setdefault("ready", time.time() - began)

logging.getLogger("reembed").addHandler(Watch())
import ray
times["imported"] = time.time() - began
init, shutdown = ray.init, ray.shutdown

def timed_init(*args, **kwargs):
    at = time.time()
    times.setdefault("connecting", at - began)
    try:
        return init(*args, **kwargs)
    finally:
        times["ray_init"] = time.time() - at

def timed_shutdown(*args, **kwargs):
    at = time.time()
    try:
        return shutdown(*args, **kwargs)
    finally:
        times.setdefault("shutdown", time.time() - at)

ray.init, ray.shutdown = timed_init, timed_shutdown
from jobs import cli
code = 0
try:
    cli.main(["embed", sys.argv[2], "--json"])
except SystemExit as ended:
    code = ended.code
times["published"] = time.time() - began
times["code"] = cli.__file__
open(sys.argv[3], "w").write(json.dumps(times))
logging.shutdown()
os._exit(code or 0)
"""


def measure(tree: Path, folder: Path) -> dict[str, float]:
    """One run of a tree's code."""
    folder.mkdir()
    sections = {
        "corpus": {"uri": f"{FIXTURE}/corpus/night-1/[a-c].jsonl", "id": "id"},
        "model": {"name": str(FIXTURE / "model"), "precision": "float32"},
        "output": {"uri": str(folder / "out")},
        "cluster": {"address": "local", "replicas": 1, "cpus_per_replica": 1, "gpus_per_replica": 0},
    }
    (folder / "run.yaml").write_text(yaml.safe_dump(sections))
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.time()
    with (folder / "log").open("wb") as log:
        driver = subprocess.Popen(
            [sys.executable, "-c", DRIVER, str(began), str(folder / "run.yaml"), str(folder / "times.json")],
            env=os.environ | {"PYTHONPATH": str(tree), "HF_HUB_OFFLINE": "1", "RAY_AUTH_MODE": "disabled"},
            cwd=folder,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        driver.wait()
    total = time.time() - began
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if driver.returncode != 0:
        raise SystemExit((folder / "log").read_text()[-3000:])
    while any(_session(pid) == driver.pid for pid in psutil.pids()):
        time.sleep(0.05)
    times = json.loads((folder / "times.json").read_text())
    if not Path(times.pop("code")).is_relative_to(tree):
        raise SystemExit(f"{tree}: another tree's code was imported; is the package installed without -e?")
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return times | {"total": total, "leftovers": time.time() - began - total, "cpu": cpu}


def _session(pid: int) -> int | None:
    try:
        return None if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE else os.getsid(pid)
    except (ProcessLookupError, psutil.Error):
        return None


def commit_of(tree: Path) -> str:
    """The commit of a checkout, with a `+` when files differ from it."""
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=tree, capture_output=True, text=True, check=True).stdout.strip()
    changed = ["git", "status", "--porcelain", "--untracked-files=no", "--", "jobs", "workers"]
    return head + ("+" if subprocess.run(changed, cwd=tree, capture_output=True, check=True).stdout else "")


def summary(runs: list[dict[str, float]]) -> dict[str, Any]:
    """Median and extremes of every stage, in seconds."""
    values = {stage: [run[stage] for run in runs] for stage in STAGES}
    return {
        stage: {"median": round(statistics.median(each), 2), "min": round(min(each), 2), "max": round(max(each), 2)}
        for stage, each in values.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tree", action="append", default=[], metavar="NAME=FOLDER", help="another checkout to compare")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    trees = {"here": ROOT} | {
        name: Path(folder).resolve() for name, _, folder in (one.partition("=") for one in options.tree)
    }
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in trees}
    loads = []
    with tempfile.TemporaryDirectory(prefix="startup-") as folder:
        for number in range(options.rounds + 1):
            for name, tree in trees.items():
                loads.append(os.getloadavg()[0])
                run = measure(tree, Path(folder) / f"{name}-{number}")
                print(number, name, {stage: round(run[stage], 2) for stage in STAGES}, file=sys.stderr, flush=True)
                if number:  # the first round fills the page cache
                    runs[name].append(run)
    result = {
        "benchmark": "startup",
        "hardware": hardware(),
        "commits": {name: commit_of(tree) for name, tree in trees.items()},
        "rounds": options.rounds,
        "load_average": [round(min(loads), 1), round(max(loads), 1)],
        "seconds": {name: summary(each) for name, each in runs.items()},
    }
    text = json.dumps(result, indent=1)
    print(text)
    if options.out:
        options.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
