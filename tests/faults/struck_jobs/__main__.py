"""Jobs over a snapshot, with every actor and driver killed that can be: python -m tests.faults.struck_jobs --out F.jsonl

    python -m tests.faults.struck_jobs --out struck.jsonl                       # all jobs, on the local disk and on S3
    python -m tests.faults.struck_jobs --out F.jsonl --jobs dedup --places s3   # some
    python -m tests.faults.struck_jobs --table struck.jsonl                     # the table of what was recorded

Every job runs over a small snapshot of made-up vectors for two nights, calm and in all the ways of ways.py; rows and files,
figures, and the state for the next night are compared with the calm run's. A record a way; the table at the end. The exit
status is 1 if anything differed, a command ended otherwise than by our SIGKILL, or a second night read too much.
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import sys
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from tests.faults.soak import home, own_server, recorded
from tests.faults.struck_jobs.command import STRIKING, Stand
from tests.faults.struck_jobs.snapshot import JOBS, Size, first_night, scored_pairs, second_night
from tests.faults.struck_jobs.starter import Starter
from tests.faults.struck_jobs.table import table, too_many_read
from tests.faults.struck_jobs.ways import ACTORS, Stage, night
from tests.ray_nodes import RayNode
from tests.sessions import ROOT

PLACES = ("local", "s3")
NO_IDLE_WORKERS = {"RAY_prestart_worker_first_driver": "0", "RAY_enable_worker_prestart": "0"}


@contextmanager
def stand(folder: Path, rows: int, *, on_ray: bool = True) -> Iterator[Stand]:
    """What all outputs share, for as long as the block lasts. `rows`: of the snapshots. `on_ray`: with a standing Ray."""
    target = folder / "target"
    env = {"REEMBED_TARGET": str(target), "PYTHONPATH": f"{STRIKING}:{ROOT}"} | NO_IDLE_WORKERS
    pairs = scored_pairs(folder / "pairs.parquet", rows)
    with ExitStack() as stack:
        address = stack.enter_context(RayNode(2 * max(ACTORS), env=env)).address if on_ray else ""
        yield Stand(address, target, stack.enter_context(Starter(folder)), pairs)


def struck(stage: Stage, size: Size) -> Iterator[dict[str, Any]]:
    """A record of each night and way."""
    for number, publish in ((1, first_night), (2, second_night)):
        publish(f"{stage.root}/in", size)
        yield from night(stage, number)


def bucket() -> str:
    """URI of a fresh one."""
    import s3fs

    name = f"struck-{uuid.uuid4().hex[:8]}"
    s3fs.S3FileSystem(skip_instance_cache=True).mkdir(name)
    return f"s3://{name}"


def carry_out(options: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """All records, written as they come. Places that are not to be had are left out, and named."""
    records, size = [], Size(options.rows, options.dim, options.parts)
    with ExitStack() as stack:
        home(folder / "home")
        roots = {"local": str(folder / "outputs")} if "local" in options.places else {}
        server = (
            own_server(Path(tempfile.mkdtemp(prefix="struck-s3-", dir="/tmp")) / "s3") if "s3" in options.places else None
        )
        if server is not None:
            stack.callback(server.wipe)
            roots["s3"] = bucket()
        shared = stack.enter_context(stand(folder, options.rows, on_ray=bool(options.actors)))
        for place, root in roots.items():
            for job in options.jobs:
                at = folder / place / job
                stage = Stage(
                    job, place, f"{root}/{job}", at, shared, options.kills, tuple(options.actors), tuple(options.struck)
                )
                for record in struck(stage, size):
                    records.append(record)
                    with options.out.open("a") as stream:
                        stream.write(json.dumps(record) + "\n")
                    print(told(record), flush=True)
    return records


def told(record: dict[str, Any]) -> str:
    """A record as lines."""
    killed = {name: len(lines) for name, lines in record["strikes"].items() if lines}
    first = f"{record['job']} {record['place']} night {record['night']}, {record['way']}: {record['starts']} starts, "
    found = [f"  FOUND {words}" for words in (*record["differences"], *record["findings"])]
    return "\n".join([f"{first}{record['seconds']} s, killed {killed}", *found])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("struck.jsonl"), help="records are appended")
    parser.add_argument("--jobs", nargs="+", choices=JOBS, default=list(JOBS))
    parser.add_argument("--places", nargs="+", choices=PLACES, default=list(PLACES))
    parser.add_argument("--kills", type=int, default=10, help="random moments at which the driver is killed")
    parser.add_argument("--actors", nargs="*", type=int, default=list(ACTORS), help="none: without Ray")
    parser.add_argument("--struck", nargs="*", type=int, default=list(ACTORS), help="of so many actors one dies in a pass")
    parser.add_argument("--rows", type=int, default=3000)
    parser.add_argument("--dim", type=int, default=32)
    parser.add_argument("--parts", type=int, default=100)
    parser.add_argument("--folder", default="/tmp", help="outputs of the local place lie below it")
    parser.add_argument("--table", type=Path, help="print the table of these records; run nothing")
    options = parser.parse_args()
    if options.table:
        print(table(recorded(options.table)))
        return 0
    options.out = options.out.resolve()
    for number in (signal.SIGINT, signal.SIGTERM):  # also where a shell had them ignored: what was started is ended
        signal.signal(number, signal.default_int_handler)
    folder = Path(tempfile.mkdtemp(prefix="struck-", dir=options.folder))
    records = carry_out(options, folder)
    print(table(records))
    bad = too_many_read(records, options.parts) + [record["way"] for record in records if not record["ok"]]
    missing = set(options.places) - {record["place"] for record in records}
    if not bad and not missing:
        shutil.rmtree(folder, ignore_errors=True)
        return 0
    print(f"found {len(bad)} times; left out: {', '.join(sorted(missing)) or 'nothing'}; see {folder}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
