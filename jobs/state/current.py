"""CURRENT.json: the snapshot that readers have, and those they had before.

    read_current       the document, validated
    published_runs     the runs that readers had at some time, in the order in which they last had them
    why_not_again      why `embed` may not publish a run by itself: a person has taken it back

Only jobs/publish/publish.py replaces it, in one put; jobs/publish/tables/follow.py adds `table` to it, likewise.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import Any

from jobs.state.records import RunState, read_summary
from workers.errors import RunAborted
from workers.storage.store import Store
from workers.table.paths import CURRENT

_THREADS = 16


@dataclass(frozen=True, slots=True)
class Publication:
    """A snapshot that readers had before the present one."""

    run_id: str
    published_at: str  # ISO 8601, UTC: when it was last published


@dataclass(frozen=True, slots=True)
class Current:
    """The document. `facts` holds its other keys: model, dim, digests, fingerprints, …"""

    run_id: str
    data: str  # URI of the snapshot's folder
    data_path: str  # the same, relative to the output root, which may be moved or have several names
    rows: int
    published_at: str  # ISO 8601, UTC
    reembed: str  # version of this program
    history: tuple[Publication, ...] = ()  # earlier snapshots that are still kept, the latest last
    taken_back: tuple[str, ...] = ()  # runs that a person replaced; only a person may publish them again
    forced: dict[str, Any] | None = None  # {by, at, reasons}: published by a person against its checks
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


def read_current(store: Store) -> Current | None:
    """The document; None before the first publication. Raises: RunAborted for an invalid file."""
    try:
        data = store.read(CURRENT)
    except FileNotFoundError:
        return None
    try:
        return Current.from_json(data)
    except (ValueError, KeyError, TypeError):
        raise RunAborted(f"{store.uri_of(CURRENT)}: not written by this program; restore or remove it") from None


def why_not_again(store: Store, run_id: str) -> str | None:
    """Why `embed` may not publish this run (a person has replaced it by another one); None if it may."""
    current = read_current(store)
    if current is None or run_id not in current.taken_back:
        return None
    return (
        f"run {run_id} was made from this corpus with these settings, and was taken back; `reembed rollback {store.uri} "
        f"{run_id}` publishes it again; a changed corpus or other settings make a new run"
    )


def published_by_hand(forced: Mapping[str, Any] | None) -> dict[str, Any]:
    """The changes to a run's summary after a person has published it."""
    changed = {"state": RunState.COMPLETE.value, "published": True, "reasons": []}
    return changed | ({"forced": dict(forced)} if forced else {})


def published_runs(store: Store, current: Current | None, begun: Collection[str]) -> list[str]:
    """The runs of `begun` that readers had at some time, in the order in which they last had them; the current one last.

    CURRENT.json holds them. Runs that only their summaries call published (CURRENT.json was lost) come first, by run id.
    """
    known = [*(publication.run_id for publication in current.history), current.run_id] if current else []
    others = sorted(set(begun) - set(known))
    with ThreadPoolExecutor(_THREADS) as pool:
        summaries = list(pool.map(lambda run_id: read_summary(store, run_id) or {}, others))
    lost = [run_id for run_id, summary in zip(others, summaries, strict=True) if summary.get("published")]
    return [*lost, *(run_id for run_id in known if run_id in begun)]
