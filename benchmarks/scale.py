"""The driver at a thousand replicas and a million shards: its processor time, memory, requests, resume and efficiency.

    python -m benchmarks.scale simulate [--shards 1000000] [--replicas 1000] [--scenario quiet published storm]
    python -m benchmarks.scale receipts [--store FOLDER|s3://BUCKET/PREFIX] [--receipts 1000000] [--leave]
    python -m benchmarks.scale resume   [--store …] [--shards 1000000] [--done 900000] [--leave]
    python -m benchmarks.scale ray      [--calls 3000 30000]

simulate   the real job on fake replicas in virtual time (benchmarks/scale_run.py); its store is a folder below --scratch
receipts   written, loaded with the log, and a twentieth of them loaded one by one      (benchmarks/scale_storage.py)
resume     the real job with that many shards done, until its first dispatch
ray        polling a real Ray about many calls in flight, which the simulation leaves out

Prints one JSON object, with the hardware and the commit. Everything written is removed unless --leave. docs/scaling.md has
the figures and conclusions.
"""

from __future__ import annotations

import argparse
import json
import logging
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fsspec.core import url_to_fs

from benchmarks import scale_ray, scale_run, scale_storage
from benchmarks.machine import commit, hardware
from benchmarks.scale_weather import SCENARIOS

SHARED_MEMORY = Path("/dev/shm")  # a local disk that costs the driver what a store far away would: nothing but its own calls
ONE_BY_ONE = 20  # so many times fewer receipts are loaded without the log


def apart(call: Callable[..., dict[str, Any]], *arguments: Any) -> dict[str, Any]:
    """Run in a fresh process, with its own memory and imports."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"), initializer=_quiet) as pool:
        return pool.submit(call, *arguments).result()


def _quiet() -> None:
    logging.getLogger("reembed").setLevel(logging.ERROR)  # a line for each of thousands of preemptions


@contextmanager
def place(options: argparse.Namespace) -> Iterator[str]:
    """The store to work in: empty at first, deleted afterwards unless --leave."""
    uri = options.store or tempfile.mkdtemp(prefix="reembed-scale-", dir=options.scratch)
    try:
        yield uri
    finally:
        if not options.leave:
            fs, path = url_to_fs(uri)
            fs.rm(path, recursive=True)


def simulate(options: argparse.Namespace) -> dict[str, Any]:
    found = {}
    for name in options.scenario:
        say(f"{name}: {options.shards:,} shards on {options.replicas:,} replicas")
        arguments = (
            name,
            options.shards,
            options.replicas,
            options.seed,
            options.shard_seconds,
            options.scratch,
            options.dispatch_only,
        )
        found[name] = apart(scale_run.run, *arguments)
        keys = ("driver_cpu_ms_a_shard", "efficiency", "peak_rss_bytes", "requests_a_shard", "wall_seconds")
        say(f"{name}: " + ", ".join(f"{key} {found[name][key]}" for key in keys))
    return {"scenarios": found}


def receipts(options: argparse.Namespace) -> dict[str, Any]:
    count, few = options.receipts, max(1, options.receipts // ONE_BY_ONE)
    found: dict[str, Any] = {}
    with place(options) as uri:
        found["begin"] = apart(scale_storage.begin, uri, count)
        found["write"] = told("write", apart(scale_storage.write, uri, count, options.seed))
        found["load"] = told("load", apart(scale_storage.load, uri, count))
        bare = f"{uri.rstrip('/')}/bare"
        apart(scale_storage.write, bare, few, options.seed, few + 1)
        found["load_one_by_one"] = told("load one by one", apart(scale_storage.load, bare, few))
    return found


def resume(options: argparse.Namespace) -> dict[str, Any]:
    found: dict[str, Any] = {}
    with place(options) as uri:
        if not options.ready:
            found["begin"] = apart(scale_storage.begin, uri, options.shards)
            told("write", apart(scale_storage.write, uri, options.done, options.seed, None, False))
        found["resume"] = told("resume", apart(scale_storage.resume, uri, options.shards, options.done, time.time()))
    return found


def ray(options: argparse.Namespace) -> dict[str, Any]:
    return {"ray": apart(scale_ray.waiting, options.calls)}


def told(what: str, figures: dict[str, Any]) -> dict[str, Any]:
    keys = ("items", "wall_seconds", "cpu_us_an_item", "peak_rss_bytes", "first_dispatch_seconds")
    say(f"{what}: " + ", ".join(f"{key} {figures[key]}" for key in keys if key in figures))
    return figures


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sections = made.add_subparsers(dest="section", required=True)
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--seed", type=int, default=1)
    shared.add_argument("--scratch", default=str(SHARED_MEMORY) if SHARED_MEMORY.is_dir() else tempfile.gettempdir())
    shared.add_argument("--output", type=Path, help="write the JSON there as well")
    on_store = argparse.ArgumentParser(add_help=False)
    on_store.add_argument("--store", help="folder or s3://bucket/prefix to work in; default: a folder below --scratch")
    on_store.add_argument("--leave", action="store_true", help="leave what was written")
    simulating = sections.add_parser("simulate", parents=[shared])
    simulating.add_argument("--shards", type=int, default=1_000_000)
    simulating.add_argument("--replicas", type=int, default=1000)
    simulating.add_argument("--shard-seconds", type=float, default=60.0, help="median of a shard's time on a replica")
    simulating.add_argument("--dispatch-only", action="store_true", help="store no receipts: efficiency alone, sooner")
    simulating.add_argument("--scenario", nargs="+", choices=SCENARIOS, default=list(SCENARIOS))
    on_receipts = sections.add_parser("receipts", parents=[shared, on_store])
    on_receipts.add_argument("--receipts", type=int, default=1_000_000)
    resuming = sections.add_parser("resume", parents=[shared, on_store])
    resuming.add_argument("--shards", type=int, default=1_000_000)
    resuming.add_argument("--done", type=int, default=900_000)
    resuming.add_argument("--ready", action="store_true", help="an earlier call has left all that in --store")
    waiting = sections.add_parser("ray", parents=[shared])
    waiting.add_argument("--calls", type=int, nargs="+", default=[300, 3000, 30_000])
    return made


def main() -> None:
    options = parser().parse_args()
    began = time.perf_counter()
    sections = {"simulate": simulate, "receipts": receipts, "resume": resume, "ray": ray}
    shown = {name: value for name, value in vars(options).items() if name not in ("output", "scratch", "leave", "section")}
    if "store" in shown:
        shown["store"] = "s3" if str(shown["store"]).startswith("s3://") else "local"
    result = {"benchmark": "scale", "section": options.section, "options": shown} | sections[options.section](options)
    result |= {"seconds": round(time.perf_counter() - began, 1), "load_average": round(os.getloadavg()[1], 1)}
    result |= {"hardware": hardware()} | commit()
    text = json.dumps(result, indent=1)
    print(text)
    if options.output:
        options.output.write_text(text + "\n")


if __name__ == "__main__":
    main()
