"""One oracle for every fault: the published snapshot is the undisturbed one, and readers never saw anything else.

    Watch     reads CURRENT.json all the time, as a reader would; whatever it names must be whole at that moment
    judge     after the command has exited 0: ids and all columns equal the undisturbed run's, each row once, rows in = out +
              quarantined, `reembed verify` finds nothing, nothing is left behind that should not be

The store is asked directly, never through the faulty proxy; while the server is away nothing is said.
"""

from __future__ import annotations

import json
import threading
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from botocore.exceptions import BotoCoreError
from fsspec.implementations.local import LocalFileSystem

from jobs.commands.verify import verify_snapshot
from tests.faults.scene import Calm, Place, everything

AWAY = (OSError, BotoCoreError)  # the server does not answer; s3fs lets some of botocore's errors through as they are
ORPHAN_BYTES = 256 << 10  # temporary files of one killed process, at most: a few small parts on their way


def reader_of(place: Place) -> Any:
    """A file system that reads the place's store directly. One of its own: threads do not share clients here."""
    return place.fs if place.fs is not None else LocalFileSystem()


class Watch:
    """A reader that never sleeps for long. `invalid`: what it saw wrong; `seen`: runs it was shown, in order.

    `broken`: why it stopped looking before it was told to, which makes the run worth nothing.
    """

    def __init__(self, place: Place, run: str) -> None:
        self.invalid: list[str] = []
        self.seen: list[str] = []
        self.broken: list[str] = []
        self.looks = 0
        self._fs, self._root = reader_of(place), place.output(run)
        self._pause = 0.25 if place.fs is not None else 0.03
        self._data = b""
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True, name="watch-current")

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join(30)
        if self._thread.is_alive():
            self.broken.append("a look took more than 30 s")

    def look(self) -> None:
        """Once; what CURRENT.json says is looked into when it has changed."""
        try:
            data = self._fs.cat_file(f"{self._root}/CURRENT.json")
        except FileNotFoundError:
            if self._data:
                self.invalid.append("CURRENT.json was there and is gone")
            return
        except AWAY:
            return
        self.looks += 1
        if data == self._data:
            return
        try:
            current = json.loads(data)
            rows = _rows(self._fs, f"{self._root}/{current['data_path']}")
            if rows != current["rows"]:
                self.invalid.append(f"{current['run_id']}: {rows} rows are there, CURRENT.json says {current['rows']}")
        except (ValueError, KeyError, TypeError, FileNotFoundError) as error:
            self.invalid.append(f"{type(error).__name__}: {error}: {data[:200]!r}")
            return
        except AWAY:
            return  # looked into the next time
        self._data = data
        self.seen.append(current["run_id"])

    def _watch(self) -> None:
        try:
            while not self._end.wait(self._pause):
                self.look()
        except Exception as error:  # noqa: BLE001 - else nobody would look, and nobody would know
            self.broken.append(repr(error))


def _rows(fs: Any, folder: str) -> int:
    """Rows of all part files that a reader of the folder would open."""
    fs.invalidate_cache()
    count = 0
    for path in fs.find(folder):
        if path.endswith(".parquet"):
            with fs.open(path, "rb") as stream:
                count += pq.read_metadata(stream).num_rows
    return count


@dataclass
class Verdict:
    """`losses`, `duplicates`: rows. `findings`: everything that is wrong, in words; [] is a pass."""

    losses: int = 0
    duplicates: int = 0
    orphans: int = 0
    orphan_bytes: int = 0
    findings: list[str] = field(default_factory=list)


def judge(place: Place, run: str, night: int, config: Path, summary: dict[str, Any], kills: int) -> Verdict:
    """`kills`: processes that were killed, or turned away by the store; each may leave a temporary file or two."""
    verdict, calm = Verdict(), place.calm(night)
    _accounts(summary, calm, verdict)
    _same_rows(everything(place.path(summary["data"]), place.fs), calm, verdict)
    _left_behind(place, run, night, summary["run_id"], kills, verdict)
    verdict.findings += [f"verify: {finding}" for finding in verify_snapshot(str(config), 0)["findings"]]
    return verdict


def _accounts(summary: dict[str, Any], calm: Calm, verdict: Verdict) -> None:
    expected = {"published": True, "state": "complete", "quarantined_rows": 0, "documents": calm.rows.num_rows}
    told = {name: summary[name] for name in expected}
    if told != expected:
        verdict.findings.append(f"summary: {told}, where {expected} was expected")


def _same_rows(rows: pa.Table, calm: Calm, verdict: Verdict) -> None:
    times = Counter(rows.column("id").to_pylist())
    there = set(calm.rows.column("id").to_pylist())
    verdict.losses = len(there - set(times))
    verdict.duplicates = sum(count - 1 for count in times.values())
    strangers = set(times) - there
    if verdict.losses or verdict.duplicates or strangers:
        verdict.findings.append(f"{verdict.losses} rows lost, {verdict.duplicates} doubled, {len(strangers)} unknown")
        return
    for name in calm.rows.column_names:
        mine, theirs = rows.column(name), calm.rows.column(name)
        same = _bits(mine) == _bits(theirs) if name == "embedding" else mine.equals(theirs)
        if not same:
            verdict.losses += sum(a != b for a, b in zip(mine.to_pylist(), theirs.to_pylist(), strict=True))
            verdict.findings.append(f"column {name} differs from the undisturbed run's")


def _bits(column: pa.ChunkedArray) -> bytes:
    vectors = column.combine_chunks().flatten().to_numpy(zero_copy_only=False)
    return np.ascontiguousarray(vectors).tobytes()


def _left_behind(place: Place, run: str, night: int, run_id: str, kills: int, verdict: Verdict) -> None:
    """Nothing below data/ but what receipts describe; elsewhere temporary files of the killed, and not many."""
    fs, root = reader_of(place), place.output(run)
    fs.invalidate_cache()
    found = {path.removeprefix(f"{root}/"): int(size["size"]) for path, size in fs.find(root, detail=True).items()}
    receipts = [path for path in found if path.startswith(f"runs/{run_id}/receipts/") and path.endswith(".json")]
    described: set[str] = set()
    read = out = 0
    for path in receipts:
        receipt = json.loads(fs.cat_file(f"{root}/{path}"))
        described |= {file["path"] for file in receipt["files"]}
        read += receipt["rows_read"]
        out += receipt["documents"] + receipt["quarantined_rows"]
    if read != out:
        verdict.findings.append(f"{read} rows in, {out} rows out or quarantined")
    strays = {path for path in found if path.startswith(f"data/{run_id}/")} - described
    if strays:
        verdict.findings.append(f"{len(strays)} files below data/ that no receipt describes, e.g. {sorted(strays)[0]}")
    begun = {path.split("/")[1] for path in found if path.startswith("runs/") and path.endswith("/run.json")}
    if len(begun) != night:
        verdict.findings.append(f"{len(begun)} runs were begun where {night} should be: {sorted(begun)}")
    orphans = [path for path in found if _orphan(path, begun)]
    verdict.orphans, verdict.orphan_bytes = len(orphans), sum(found[path] for path in orphans)
    if verdict.orphan_bytes > kills * ORPHAN_BYTES:
        verdict.findings.append(f"{verdict.orphan_bytes} bytes in {len(orphans)} leftovers of {kills} kills: {orphans[:3]}")
    if place.fs is not None:
        _pending_uploads(place, run, verdict)


def _orphan(path: str, begun: set[str]) -> bool:
    """A temporary file, a race of writers at start, or the folder of a run that was never begun."""
    room, _, rest = path.partition("/")
    name = rest.partition("/")[0]
    return path.endswith(".tmp") or name == "probe" or (room in ("data", "runs") and name[:2] == "20" and name not in begun)


def _pending_uploads(place: Place, run: str, verdict: Verdict) -> None:
    bucket, _, prefix = place.output(run).partition("/")
    uploads = place.fs.call_s3("list_multipart_uploads", Bucket=bucket).get("Uploads", [])
    mine = [upload["Key"] for upload in uploads if upload["Key"].startswith(prefix)]
    if mine:
        verdict.findings.append(f"{len(mine)} uploads were begun and neither completed nor aborted, e.g. {mine[0]}")
