"""`reembed load` into each store: first, night, killed half-way, repeated; each compared with the night.

    python -m benchmarks.loaders [--rows 10000] [--dim 384] [--stores lancedb,qdrant] [--postgres CONNECTION] [--out FILE]

OpenSearch and Elasticsearch are the servers that REEMBED_TEST_OPENSEARCH and REEMBED_TEST_ELASTICSEARCH name, or programs
that stand in for them (tests/search_servers.py).

Two nights are made by hand and published (tests/loaded_stores.py): of the second a hundredth of the rows has other texts and
vectors, a two-hundredth another kept column, a three-hundredth is gone, and as many are new. Each load is a process.

    first      an empty store; seconds of the whole process
    killed     a second store, whose first load kills itself (SIGKILL) after it has put the upserts and before the commit
    repeated   the same command again
    night      the first store, the second night
    killed, repeated    the second store, likewise in the night

After each repetition the store's rows are read by its own client and compared with the night's: id, vector (bits), text hash
and kept columns. `different` counts keys that are not equal, which must be 0.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.machine import ROOT, hardware
from tests.loaded_stores import Night, Row, differences, publish_night, rows_of, two_nights
from tests.postgres_server import GIVEN, postgres_server
from tests.search_servers import search_server

KILLED = -signal.SIGKILL


def _child(arguments: list[str]) -> None:
    """`reembed load` that kills itself when the store is told to commit."""
    from jobs.commands.load import STORES, load_snapshot

    def die(*_: Any) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    kind, output, where, table = arguments
    STORES[kind].commit = die  # type: ignore[attr-defined]
    load_snapshot(kind, output, where, table)


def _load(kind: str, output: Path, where: str, table: str, *, killed: bool = False) -> float:
    """Seconds. Raises: SystemExit: it ended otherwise."""
    program = ["-m", "benchmarks.loaders", "--child"] if killed else ["-m", "jobs.cli", "load"]
    arguments = [kind, str(output), where, *([table] if killed else ["--table", table])]
    began = time.monotonic()
    done = subprocess.run([sys.executable, *program, *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode != (KILLED if killed else 0):
        raise SystemExit(f"{kind}: ended with {done.returncode}: {done.stderr[-2000:]}")
    return round(time.monotonic() - began, 2)


def _rows(kind: str, where: str, table: str) -> dict[str, Row]:
    """Read in a process of its own: Milvus Lite keeps its file locked as long as the process lives."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(rows_of[kind], where, table).result()


def _measure(kind: str, where: str, outputs: list[Path], nights: tuple[Night, Night]) -> list[dict[str, Any]]:
    work = Path(tempfile.mkdtemp(prefix="reembed-loaders-"))
    found = []
    try:
        for name, output in (("whole", work / "whole"), ("torn", work / "torn")):
            table = f"{name}_{os.getpid()}"
            place = where or str(work / f"{name}-{kind}{'.db' if kind == 'milvus' else ''}")
            for title, night, published in zip(("first", "night"), nights, outputs, strict=True):
                shutil.copytree(published, output, dirs_exist_ok=True)
                killed = _load(kind, output, place, table, killed=True) if name == "torn" else None
                seconds = _load(kind, output, place, table)
                rows = _rows(kind, place, table)
                told = {"store": kind, "load": title, "killed_after": killed, "seconds": seconds, "rows": len(rows)}
                found.append(told | {"different": len(differences(night, rows))})
                print(json.dumps(found[-1]), file=sys.stderr, flush=True)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return found


@contextlib.contextmanager
def _place(kind: str) -> Iterator[str]:
    """Of a server; "": the store is a file or folder, which each measurement has its own of."""
    servers = {
        "pgvector": postgres_server,
        **{name: partial(search_server, name) for name in ("opensearch", "elasticsearch")},
    }
    with servers.get(kind, lambda: contextlib.nullcontext(""))() as where:
        yield where


def main() -> None:
    if sys.argv[1:2] == ["--child"]:
        _child(sys.argv[2:])
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--dim", type=int, default=384)
    parser.add_argument("--stores", default="pgvector,lancedb,qdrant,milvus,opensearch,elasticsearch")
    parser.add_argument("--postgres", help="a server with pgvector; by default one is started")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    if given.postgres:
        os.environ[GIVEN] = given.postgres
    nights = two_nights(given.rows, given.dim)
    folder = Path(tempfile.mkdtemp(prefix="reembed-nights-"))
    measured = []
    try:
        outputs = [folder / "first", folder / "second"]
        publish_night(outputs[0], nights[0])
        shutil.copytree(outputs[0], outputs[1])
        publish_night(outputs[1], nights[1])
        for kind in given.stores.split(","):
            with _place(kind) as where:
                measured += _measure(kind, where, outputs, nights)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    told = {"rows": given.rows, "dim": given.dim, "load_average": os.getloadavg(), "hardware": hardware(), "loads": measured}
    print(json.dumps(told, indent=1))
    if given.out:
        given.out.write_text(json.dumps(told, indent=1) + "\n")


if __name__ == "__main__":
    main()
