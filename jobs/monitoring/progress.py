"""The progress of a running job: a live display on a terminal, a log line every ten seconds otherwise, and status.json.

    receipt(), replica_ready(), replica_stats(), replica_lost()    record what the driver's loop received
    tick(now)                                                      draws, logs and stores, each at its own interval
    snapshot(now)                                                  the same figures as a dictionary, stored as status.json

The scheduler never reads it.
"""

from __future__ import annotations

import logging
import sys
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from jobs.state.stored_shards import text_bytes_of, total_text_bytes
from workers.records.shard import Receipt, ReplicaStats, Shard

log = logging.getLogger("reembed")

LOG_SECONDS = 10.0
STORE_SECONDS = 3.0  # a killed driver's work since the last status is missing from the summary
DRAW_SECONDS = 0.5
RATE_WINDOW_SECONDS = 60.0
SHOWN_REPLICAS = 64  # in the status, the oldest first: listing 1,000 would dominate the driver's CPU time
DRAWN_REPLICAS = 16
MOST_IN_FLIGHT = 0.99  # of a shard's text counts as embedded before its receipt is there: tokens of a text are an estimate


@dataclass(slots=True)
class _ReplicaView:
    facts: Mapping[str, Any] = field(default_factory=dict)
    stats: ReplicaStats = field(default_factory=ReplicaStats)
    settled: int = 0  # of its tokens: those of attempts that have ended

    @property
    def tokens_in_flight(self) -> int:
        return max(0, self.stats.tokens - self.settled)

    @property
    def busy(self) -> float:
        return self.stats.busy_seconds / self.stats.uptime_seconds if self.stats.uptime_seconds else 0.0


class Progress:
    """Figures of one run while it is running.

    Args:
        shards: all shards of the run; `done` of them were committed by an earlier driver.
        store_status: writes a snapshot to storage; called every STORE_SECONDS.
        first_epoch: attempts of this driver have this epoch or a later one.
        predicted_tokens: of all shards that are not carried over, as estimated when the run was planned; None: not known.

    Shards in flight count by the tokens that replicas have embedded of them: so many bytes of text as a token stands for in
    the shards that are done, or, before the first is, in the prediction.
    """

    def __init__(
        self,
        shards: Sequence[Shard],
        done: Mapping[int, Receipt],
        store_status: Callable[[dict[str, Any]], None],
        now: float,
        first_epoch: int = 0,
        predicted_tokens: int | None = None,
    ) -> None:
        self._bytes = text_bytes_of(shards)
        self._total_bytes = total_text_bytes(shards)
        self._shards = len(shards)
        self._done = self._done_bytes = self._documents = self._quarantined_rows = 0
        self.documents_before = self.tokens_before = 0  # embedded by earlier drivers, as far as receipts tell
        self._first_epoch = first_epoch
        self._measured_tokens = self._measured_bytes = 0  # of the embedded shards that are done
        carried = 0
        for receipt in done.values():
            self.receipt(receipt, before=True)
            carried += self._bytes(receipt.shard) if receipt.carried_from is not None else 0
        self._resumed_bytes = self._done_bytes
        to_embed = self._total_bytes - carried
        self._predicted_bytes_per_token = to_embed / predicted_tokens if predicted_tokens else 0.0
        self._done_share = 0.0
        self._working_since: float | None = None  # about when the first replica was ready
        self.quarantined_shards = 0
        self._replicas: dict[int, _ReplicaView] = {}  # live replicas
        self._lost = ReplicaStats()  # lost replicas together: sums, and the largest peak
        self._samples: deque[tuple[float, int]] = deque()
        self._store_status = store_status
        self._began = self._logged = self._drawn = self._stored = self._looked = now
        self._live = Live(console=Console(stderr=True), auto_refresh=False, transient=True) if sys.stderr.isatty() else None
        if self._live:
            self._live.start()

    def replica_ready(self, replica: int, facts: Mapping[str, Any]) -> None:
        self._replicas[replica] = _ReplicaView(facts)

    def replica_lost(self, replica: int) -> None:
        """Its totals are added to the sums; no list of lost replicas is kept."""
        if view := self._replicas.pop(replica, None):
            self._lost = _merged(self._lost, view.stats)

    def replica_stats(self, replica: int, stats: ReplicaStats) -> None:
        if view := self._replicas.get(replica):
            view.stats = stats
            if not stats.shards:
                view.settled = stats.tokens

    def attempt_failed(self, replica: int) -> None:
        """What the replica has embedded of the shard is lost."""
        if view := self._replicas.get(replica):
            view.settled = view.stats.tokens

    def receipt(self, receipt: Receipt, replica: int | None = None, *, before: bool = False) -> None:
        """A shard is done, by that replica; `before`: by an earlier driver."""
        self._done += 1
        self._done_bytes += self._bytes(receipt.shard)
        if receipt.carried_from is None:
            self._measured_tokens += receipt.tokens
            self._measured_bytes += self._bytes(receipt.shard)
        view = self._replicas.get(replica) if replica is not None else None
        if view is not None and not receipt.adopted:
            view.settled += receipt.tokens
        self._documents += receipt.documents
        if before or receipt.epoch < self._first_epoch:
            self.documents_before += _embedded(receipt)
            self.tokens_before += receipt.tokens
        self._quarantined_rows += receipt.quarantined_rows

    @property
    def stats(self) -> Iterator[ReplicaStats]:
        """Last known totals: one entry for each live replica, then one for all lost replicas together."""
        yield from (view.stats for view in self._replicas.values())
        yield self._lost

    def facts(self) -> list[Mapping[str, Any]]:
        return [view.facts for view in self._replicas.values()]

    def tick(self, now: float) -> None:
        """Draw, log and store, whichever is due."""
        if self._live and now - self._drawn >= DRAW_SECONDS:
            self._drawn = now
            self._live.update(self._picture(self.snapshot(now)), refresh=True)
        if now - self._logged >= LOG_SECONDS:
            self._logged = now
            if not self._live:
                log.info(_line(self.snapshot(now)))
        if now - self._stored >= STORE_SECONDS:
            self._stored = now
            self._store_status(self.snapshot(now))

    def close(self) -> None:
        if self._live:
            self._live.stop()

    def snapshot(self, now: float) -> dict[str, Any]:
        """Figures as of `now`; `tokens` counts what replicas embedded since this driver started."""
        tokens = sum(stats.tokens for stats in self.stats)
        self._samples.append((now, tokens))
        while self._samples and now - self._samples[0][0] > RATE_WINDOW_SECONDS:
            self._samples.popleft()
        seconds = now - self._samples[0][0]
        rate = (tokens - self._samples[0][1]) / seconds if seconds > 0 else 0.0
        if self._working_since is None and self._replicas:
            self._working_since = self._looked  # a replica became ready since then
        self._looked = now
        done = self._done_bytes + self._bytes_in_flight()
        embedded, remaining = done - self._resumed_bytes, self._total_bytes - done
        working = now - (self._began if self._working_since is None else self._working_since)
        share = done / self._total_bytes if self._total_bytes else 1.0
        self._done_share = max(self._done_share, share)  # a lost replica's shard begins anew; the bar does not go back
        return {
            "shards": {"planned": self._shards, "done": self._done, "quarantined": self.quarantined_shards},
            "documents": self._documents,
            "quarantined_rows": self._quarantined_rows,
            "tokens": tokens,
            "tokens_per_second": round(rate, 1),
            "seconds": round(now - self._began, 1),
            "eta_seconds": round(working * remaining / embedded) if embedded else None,
            "done_share": round(self._done_share, 4),
            "replicas_alive": len(self._replicas),
            "replicas_busy": round(self._busy(), 4),
            "replicas": [
                {
                    "replica": number,
                    "alive": True,
                    "busy": round(view.busy, 3),
                    "documents": view.stats.documents,
                    "tokens": view.stats.tokens,
                    **{key: view.facts[key] for key in ("node", "device") if key in view.facts},
                }
                for number, view in islice(self._replicas.items(), SHOWN_REPLICAS)
            ],
        }

    def _bytes_in_flight(self) -> float:
        """Text of the shards in flight that is embedded already: at most MOST_IN_FLIGHT of each replica's."""
        tokens, per_token = self._measured_tokens, self._predicted_bytes_per_token
        per_token = self._measured_bytes / tokens if tokens else per_token
        return sum(
            min(view.tokens_in_flight * per_token, MOST_IN_FLIGHT * sum(map(self._bytes, view.stats.shards)))
            for view in self._replicas.values()
        )

    def _busy(self) -> float:
        return sum(view.busy for view in self._replicas.values()) / len(self._replicas) if self._replicas else 0.0

    def _picture(self, snapshot: Mapping[str, Any]) -> Group:
        table = Table.grid(padding=(0, 2, 0, 0))
        for _ in range(3):
            table.add_column(no_wrap=True, overflow="ellipsis")
        table.add_column()  # the one that is cut first where the terminal is narrow
        for replica in snapshot["replicas"][:DRAWN_REPLICAS]:
            table.add_row(
                f"replica {replica['replica']}",
                f"busy {replica['busy']:.0%}",
                f"{replica['documents']:,} documents",
                Text(f"{replica.get('node', '')} {replica.get('device', '')}", no_wrap=True, overflow="ellipsis"),
            )
        bar = Table.grid()  # rich's bar ends without a line end; in a grid it has a line of its own
        bar.add_row(ProgressBar(total=1.0, completed=snapshot["done_share"], width=60))
        return Group(Text(_line(snapshot)), bar, table)


def _embedded(receipt: Receipt) -> int:
    """Documents whose vectors a replica computed: not carried over, reused or repeated."""
    return max(0, receipt.documents - receipt.reused_rows - receipt.repeated_rows)


def _merged(one: ReplicaStats, other: ReplicaStats) -> ReplicaStats:
    return ReplicaStats(
        documents=one.documents + other.documents,
        tokens=one.tokens + other.tokens,
        busy_seconds=one.busy_seconds + other.busy_seconds,
        uptime_seconds=one.uptime_seconds + other.uptime_seconds,
        peak_memory_bytes=max(one.peak_memory_bytes, other.peak_memory_bytes),
    )


def _line(snapshot: Mapping[str, Any]) -> str:
    shards = snapshot["shards"]
    eta = f"{snapshot['eta_seconds']} s" if snapshot["eta_seconds"] is not None else "unknown"
    return (
        f"shards {shards['done']}/{shards['planned']}, {snapshot['documents']:,} documents committed, "
        f"{snapshot['tokens_per_second']:,.0f} tokens/s, {snapshot['replicas_alive']} replicas "
        f"{snapshot['replicas_busy']:.0%} busy, ETA {eta}, "
        f"quarantined {snapshot['quarantined_rows']:,} rows {shards['quarantined']} shards"
    )
