"""Publishing: the run's folder is looked through once, and CURRENT.json is flipped, last.

1. check    every file that a receipt describes stands there with its size; else nothing changes, the caller embeds again
2. sweep    files that no receipt describes (leftovers of attempts that died) are removed, below data/<run_id>/ only
3. flip     CURRENT.json is replaced in one put: which run is read from now on, which ones were read before (`history`, in
            the order in which readers last had them), and which of them a person has left by hand (`taken_back`)

The lock is looked up on storage before 2 and before 3, so a driver that was frozen and replaced removes and publishes
nothing. Killed anywhere and run again, it ends the same. Knows nothing of what is in the files.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

from jobs.driver.lock import DriverLock
from jobs.state.ledger import load_receipts
from jobs.state.receipts import Files
from jobs.state.records import RunPaths, RunState
from workers import __version__
from workers.errors import RunAborted
from workers.records.shard import OutputFile
from workers.storage.objects import Store, redact

CURRENT = "CURRENT.json"
_SWEEPERS = 16
_PART = re.compile(r"part-(\d{7,})(-\d+)?\.parquet")
_log = logging.getLogger("reembed")


@dataclass(frozen=True, slots=True)
class DamagedParts:
    """Nothing was published: these shards' files are missing or have another size."""

    shards: tuple[int, ...]
    files: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Publication:
    """A snapshot that readers had before the present one."""

    run_id: str
    published_at: str  # ISO 8601, UTC: the last time


@dataclass(frozen=True, slots=True)
class Current:
    """CURRENT.json. `facts` holds what else is there: model, dim, digests, fingerprints, …"""

    run_id: str
    data: str  # URI of the snapshot's folder
    data_path: str  # the same relative to the output root, which may have been moved or be reached by another name
    rows: int
    published_at: str  # ISO 8601, UTC
    reembed: str  # version of this program
    history: tuple[Publication, ...] = ()  # those before that are still kept, the latest last
    taken_back: tuple[str, ...] = ()  # runs left by hand: published again by hand only
    forced: dict[str, Any] | None = None  # {by, at, reasons}: published by hand against its checks
    facts: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> bytes:
        own = {name: getattr(self, name) for name in self.__slots__ if name != "facts"}
        own["history"] = [asdict(publication) for publication in self.history]
        return json.dumps(own | {key: value for key, value in self.facts.items() if key not in own}, indent=1).encode()

    @classmethod
    def from_json(cls, data: bytes) -> Current:
        """Raises: ValueError, KeyError, TypeError for anything else."""
        raw = dict(json.loads(data))
        own = {name: raw.pop(name) for name in cls.__slots__ if name != "facts" and name in raw}
        own["history"] = tuple(Publication(item["run_id"], item["published_at"]) for item in own.get("history", ()))
        own["taken_back"] = tuple(own.get("taken_back", ()))
        return cls(**own, facts=raw)


def publish(
    store: Store,
    run_id: str,
    files: Iterable[OutputFile],
    facts: Mapping[str, Any],
    lock: DriverLock,
    *,
    by_hand: bool = False,
    forced: Mapping[str, Any] | None = None,
) -> DamagedParts | None:
    """Make this run the snapshot that readers see. `files`: all data files of its receipts; `facts` go into CURRENT.json.

    `by_hand`: a person says so, and leaves the present one; `forced`: against its checks (see Current).

    Returns:
        None when published, else what is damaged.
    Raises:
        RunAborted: the lock is lost. UsageError, TransientError.
    """
    paths = RunPaths(run_id)
    left = store.list(paths.data)  # and not met yet
    damaged, rows = [], 0
    for file in files:
        rows += file.rows
        if left.pop(file.path, None) != file.bytes:
            damaged.append(file)
    if damaged:
        return DamagedParts(tuple(sorted({_shard(file) for file in damaged})), tuple(sorted(file.path for file in damaged)))
    lock.check()
    _sweep(store, paths, list(left))
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
        facts=dict(facts),
    )
    lock.check()
    store.put(CURRENT, current.to_json())
    return None


def read_current(store: Store) -> Current | None:
    """The published snapshot; None before the first. Raises: RunAborted for a file that is not one."""
    try:
        data = store.read(CURRENT)
    except FileNotFoundError:
        return None
    try:
        return Current.from_json(data)
    except (ValueError, KeyError, TypeError):
        raise RunAborted(f"{store.uri_of(CURRENT)}: not written by this program; restore or remove it") from None


def why_not_again(store: Store, run_id: str) -> str | None:
    """Why `embed` may not publish this run: a person has left it for another one. None: it may."""
    current = read_current(store)
    if current is None or run_id not in current.taken_back:
        return None
    return (
        f"run {run_id} was made from this corpus with these settings, and was taken back; `reembed rollback {store.uri} "
        f"{run_id}` publishes it again; a changed corpus or other settings make a new run"
    )


def published_by_hand(forced: Mapping[str, Any] | None) -> dict[str, Any]:
    """What becomes of a run's summary once a person has published it."""
    told = {"state": RunState.COMPLETE.value, "published": True, "reasons": []}
    return told | ({"forced": dict(forced)} if forced else {})


def snapshot_files(store: Store, run_id: str) -> list[str]:
    """URIs of a run's part files, sorted, as its receipts have them: nothing else below its folder is ever meant."""
    return sorted(store.uri_of(file.path) for file in Files(load_receipts(store, run_id)))


def _history(store: Store, before: Current | None, run_id: str) -> tuple[Publication, ...]:
    """Each run once, without the one that comes now and without those that retention has deleted."""
    if before is None:
        return ()
    left = Publication(before.run_id, before.published_at)
    earlier = [publication for publication in before.history if publication.run_id not in (run_id, left.run_id)]
    with ThreadPoolExecutor(_SWEEPERS) as pool:
        kept = list(pool.map(lambda publication: store.exists(RunPaths(publication.run_id).record), earlier))
    found = [publication for publication, there in zip(earlier, kept, strict=True) if there]
    return (*found, left) if left.run_id != run_id else tuple(found)


def _taken_back(before: Current | None, run_id: str, by_hand: bool, forced: bool) -> list[str]:
    """Leaving a run by hand takes it back, but not for a later one that is forced or was taken back itself."""
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
    match = _PART.fullmatch(file.path.rpartition("/")[2])
    if match is None:
        raise RunAborted(f"{file.path}: a receipt describes a file that is no part; delete that receipt and run again")
    return int(match[1])
