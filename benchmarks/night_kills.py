"""Kills the second night of benchmarks/nightly.py at random moments; the snapshot must be the same (acceptance C5).

    python -m benchmarks.night_kills CORPUS.parquet s3://bucket/prefix|FOLDER [--kills 20] [--seed 1] [--rows N] [--out FILE]

1. night 1 is embedded, and a copy of its output is kept. Night 2 runs undisturbed, as the reference
2. for each kill the output is restored to the copy. `reembed embed` gets SIGKILL to its process group: in turns while parts
   are copied, after the last receipt (publishing), while texts are embedded, and at any time
3. the same command runs to its end. Every column of every row must equal the reference, and `reembed verify` must pass
4. a reader polls CURRENT.json throughout: it must always exist, name night 1 or the new run, and its folder hold all rows

Prints one JSON object. Exit status 1 if there is any finding. Endpoint and keys come from the environment.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds
from fsspec.core import url_to_fs

from benchmarks.models import facts, say
from benchmarks.nightly import arguments, begin, embed, reported
from benchmarks.under_fire import EMBED
from jobs.commands.verify import verify_snapshot

LOOK_SECONDS = 0.05
PUBLISHING_SECONDS = 1.6  # from the last receipt over gate, CURRENT.json and report to the end, about


class Output:
    """The output folder, which can be restored to an earlier state and read as a reader does."""

    def __init__(self, uri: str, aside: str) -> None:
        self.fs, self.root = url_to_fs(uri, use_listings_cache=False)
        self._aside = url_to_fs(aside)[1]

    def keep(self) -> None:
        self.fs.copy(f"{self.root}/", f"{self._aside}/", recursive=True)

    def put_back(self) -> None:
        self.fs.rm(self.root, recursive=True)
        self.fs.copy(f"{self._aside}/", f"{self.root}/", recursive=True)

    def receipts(self, but: str) -> int:
        """The number of receipts of runs other than `but`."""
        paths = self.fs.find(f"{self.root}/runs")
        return sum("/receipts/" in path and path.endswith(".json") and f"/{but}/" not in path for path in paths)

    def current(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.fs.cat_file(f"{self.root}/CURRENT.json"))
        return found

    def table(self) -> pa.Table:
        """The published snapshot: all columns of all rows, by id."""
        where = f"{self.root}/{self.current()['data_path']}"
        return ds.dataset(where, filesystem=self.fs, format="parquet").to_table().sort_by("id")


class Reader(threading.Thread):
    """Polls CURRENT.json until it is stopped, and counts the rows of each snapshot."""

    def __init__(self, output: Output) -> None:
        super().__init__(daemon=True)
        self._output, self._over = output, threading.Event()
        self.looks, self.runs, self.findings = 0, [""], list[str]()

    def run(self) -> None:
        while not self._over.wait(LOOK_SECONDS):
            try:
                current = self._output.current()
                if current["run_id"] != self.runs[-1]:
                    where = f"{self._output.root}/{current['data_path']}"
                    rows = ds.dataset(where, filesystem=self._output.fs, format="parquet").count_rows()
                    if rows != current["rows"]:
                        self.findings.append(f"CURRENT.json promises {current['rows']} rows, there are {rows}")
                    self.runs.append(current["run_id"])
            except Exception as error:  # noqa: BLE001 - any error of a reader is a finding
                self.findings.append(f"a reader's {type(error).__name__}: {error}")
            self.looks += 1

    def stop(self) -> None:
        self._over.set()
        self.join()


def moment(
    turn: int, chance: random.Random, output: Output, first: str, second: dict[str, Any]
) -> tuple[str, Callable[[], None]]:
    """The name of the moment, and a function that waits for it. Shards are carried over first, then embedded."""
    carried, planned = second["reuse"]["carried_shards"], second["shards"]["planned"]

    def at(receipts: int, pause: float) -> Callable[[], None]:
        def wait() -> None:
            end = time.monotonic() + second["wall_seconds"] * 3
            while output.receipts(first) < receipts and time.monotonic() < end:
                time.sleep(0.01)
            time.sleep(pause)

        return wait

    match turn % 4:
        case 0:
            number = chance.randint(1, carried)
            return f"copying, {number} of {carried} receipts", at(number, chance.uniform(0, 0.05))
        case 1:
            pause = chance.uniform(0, PUBLISHING_SECONDS)
            return f"publishing, {pause:.2f} s after the last receipt", at(planned, pause)
        case 2:
            number = chance.randint(carried, planned - 1)
            return f"embedding, {number} of {planned} receipts", at(number, chance.uniform(0, 2.0))
        case _:
            pause = chance.uniform(0.2, second["wall_seconds"])
            return f"{pause:.1f} s after its start", lambda: time.sleep(pause)


def killed(config: Path, wait: Callable[[], None]) -> bool:
    """Start the command, wait, send SIGKILL; returns whether it was still running."""
    child = subprocess.Popen(
        [*EMBED, str(config), "--json"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    wait()
    runs = child.poll() is None
    if runs:
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()
    return runs


def nights(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    prefix, chance = options.prefix.rstrip("/"), random.Random(options.seed)
    corpus, config = begin(options, folder)
    rows = corpus.rows()
    output = Output(f"{prefix}/nightly", f"{prefix}/before")
    first = embed(config, {})["run_id"]
    output.keep()
    done = corpus.second_night(random.Random(options.seed))
    second = embed(config, {})
    wanted = output.table()
    struck: list[dict[str, Any]] = []
    for turn in range(options.kills):
        words, wait = moment(turn, chance, output, first, second)
        output.put_back()
        reader = Reader(output)
        reader.start()
        hit = killed(config, wait)
        visible = "night 1" if output.current()["run_id"] == first else "night 2"
        ended = embed(config, {})
        reader.stop()
        findings = list(dict.fromkeys(reader.findings))
        if not output.table().equals(wanted):
            findings.append("the rows are not those of the undisturbed night")
        if set(reader.runs) - {"", first, ended["run_id"]}:
            findings.append(f"readers saw runs {reader.runs}")
        findings += verify_snapshot(str(config), 0)["findings"]
        struck.append({"moment": words, "killed": hit, "visible": visible, "looks": reader.looks, "findings": findings})
        say(f"{turn + 1:>3}  {words}{'' if hit else ' (it was over)'}: readers had {visible}; {findings or 'same rows'}")
    return {
        **facts("night_kills"), "corpus": Path(options.corpus).name,
        "store": prefix.partition("://")[0] if "://" in prefix else "folder",
        "rows": rows, "seed": options.seed, "second_night": done, "wall_seconds": second["wall_seconds"],
        "rows_after": wanted.num_rows, "kills": sum(one["killed"] for one in struck), "moments": struck,
        "visible_after_the_kill": Counter(one["visible"] for one in struck), "looks": sum(one["looks"] for one in struck),
        "findings": sum(len(one["findings"]) for one in struck),
    }  # fmt: skip


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--kills", type=int, default=20)
    sys.exit(1 if reported(nights, parser.parse_args())["findings"] else 0)


if __name__ == "__main__":
    main()
