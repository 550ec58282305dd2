"""Publishing a run: its folder is checked by one listing, and CURRENT.json is replaced last.

1. check    every file that a receipt describes exists with its size; otherwise nothing changes, and the caller embeds again
2. sweep    files that no receipt describes (leftovers of dead attempts) are removed, below data/<run_id>/ only
3. flip     CURRENT.json is replaced in one put. It names the run, the runs that readers had before (`history`, in the order
            in which readers last had them), and those that a person replaced by hand (`taken_back`)
4. table    with output.table, the table takes the files of the run; refused is before 3                (tables/follow.py)

The lock is checked on storage before 2 and before 3, so a driver that was frozen and replaced removes and publishes nothing.
Killed at any point and run again, it ends with the same result. Does not read the files.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple

from jobs.driver.lock import DriverLock
from jobs.publish.tables.follow import TABLE, FollowingTable
from jobs.state.current import Current, Publication, read_current
from workers import __version__
from workers.errors import RunAborted
from workers.records.shard import OutputFile
from workers.storage.store import Store
from workers.storage.uris import redact
from workers.table.part_file import PartName
from workers.table.paths import CURRENT, RunPaths

_SWEEPERS = 16
_log = logging.getLogger("reembed")


@dataclass(frozen=True, slots=True)
class DamagedParts:
    """Nothing was published: these shards' files are missing or have another size."""

    shards: tuple[int, ...]
    files: tuple[str, ...]


class Snapshot(NamedTuple):
    """A run to publish: all data files of its receipts; `facts` go into CURRENT.json."""

    store: Store
    run_id: str
    files: Iterable[OutputFile]
    facts: Mapping[str, Any]


def publish(
    snapshot: Snapshot,
    lock: DriverLock,
    *,
    by_hand: bool = False,
    forced: Mapping[str, Any] | None = None,
    table: FollowingTable | None = None,
) -> DamagedParts | None:
    """Make a run the snapshot that readers see.

    `by_hand`: a person replaces the current snapshot by this run. `forced`: against its checks (see Current). `table`: takes
    the files of the run, too.

    Returns:
        None if published, else the damaged parts.
    Raises:
        RunAborted: the lock is lost. UsageError: the table cannot take the run; nothing is published. TransientError.
    """
    store, run_id, files, facts = snapshot
    paths = RunPaths(run_id)
    orphans = store.list(paths.data)  # less the files of receipts, below
    damaged, rows = [], 0
    for file in files:
        rows += file.rows
        if orphans.pop(file.path, None) != file.bytes:
            damaged.append(file)
    if damaged:
        return DamagedParts(tuple(sorted({_shard(file) for file in damaged})), tuple(sorted(file.path for file in damaged)))
    lock.check()
    _sweep(store, paths, list(orphans))
    if table is not None:
        table.prepare()
    before = read_current(store)
    history = _history(store, before, run_id)
    known = {publication.run_id for publication in history}
    current = Current(
        run_id=run_id,
        data=redact(store.uri_of(paths.data)),
        data_path=paths.data,
        rows=rows,
        published_at=datetime.now(UTC).isoformat(timespec="seconds"),
        reembed=__version__,
        history=history,
        taken_back=tuple(taken for taken in _taken_back(before, run_id, by_hand, forced is not None) if taken in known),
        forced=dict(forced) if forced else None,
        facts=dict(facts) | ({TABLE: table.kind.value} if table is not None else {}),
    )
    lock.check()
    store.put(CURRENT, current.to_json())
    if table is not None:
        table.commit(lock)
    return None


def _history(store: Store, before: Current | None, run_id: str) -> tuple[Publication, ...]:
    """Each run once, without `run_id` and without those that retention has deleted."""
    if before is None:
        return ()
    left = Publication(before.run_id, before.published_at)
    earlier = [publication for publication in before.history if publication.run_id not in (run_id, left.run_id)]
    with ThreadPoolExecutor(_SWEEPERS) as pool:
        kept = list(pool.map(lambda publication: store.exists(RunPaths(publication.run_id).record), earlier))
    existing = [publication for publication, there in zip(earlier, kept, strict=True) if there]
    return (*existing, left) if left.run_id != run_id else tuple(existing)


def _taken_back(before: Current | None, run_id: str, by_hand: bool, forced: bool) -> list[str]:
    """Replacing a run by hand takes it back, unless a later run that is forced, or was taken back itself, replaces it."""
    if before is None:
        return []
    taken = [other for other in before.taken_back if other != run_id]
    forward = run_id > before.run_id and (forced or run_id in before.taken_back)
    return [*taken, before.run_id] if by_hand and before.run_id != run_id and not forward else taken


def _sweep(store: Store, paths: RunPaths, orphans: list[str]) -> None:
    strays = [path for path in orphans if not path.startswith(f"{paths.data}/")]
    if strays:
        raise RunAborted(f"{store.uri_of(strays[0])}: listed below {paths.data} but not in it; nothing is removed")
    if orphans:
        _log.info("removing %d files that no receipt describes, e.g. %s", len(orphans), orphans[0])
    with ThreadPoolExecutor(_SWEEPERS) as pool:
        list(pool.map(store.delete, orphans))


def _shard(file: OutputFile) -> int:
    name = PartName.parse(file.path)
    if name is None:
        raise RunAborted(f"{file.path}: a receipt describes a file that is no part; delete that receipt and run again")
    return name.shard
