"""The figures of a running job, and their pace: a line every ten seconds, a status a little more often."""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from rich.console import Console
from rich.live import Live
from rich.text import Text

from jobs.driver.log_lines import StderrHandler
from jobs.monitoring.progress import SHOWN_REPLICAS, STORE_SECONDS, Progress
from jobs.report.summary import Ending, RunFacts, build_summary, summary_text
from jobs.state.accounting import Work, totals
from jobs.state.records import RunState
from tests.jobs.ledger_samples import receipt
from workers.records.shard import ReplicaStats, Shard

SHARDS = [Shard(number, (), 1000) for number in range(10)]


class Watched:
    """A Progress on a clock of its own, and what it stored."""

    def __init__(self, done: int = 0, shards: Sequence[Shard] = SHARDS, predicted: int | None = None) -> None:
        self.stored: list[dict[str, Any]] = []
        receipts = {number: receipt(number, documents=50) for number in range(done)}
        self.progress = Progress(shards, receipts, self.stored.append, 100.0, predicted_tokens=predicted)
        self.progress.replica_ready(0, {"node": "n1", "device": "cpu"})

    def embed(self, tokens: int, uptime: float, busy: float, shards: tuple[int, ...] = ()) -> None:
        self.progress.replica_stats(
            0, ReplicaStats(documents=tokens // 10, tokens=tokens, busy_seconds=busy, uptime_seconds=uptime, shards=shards)
        )

    def shown(self, now: float) -> tuple[float, int | None]:
        """The bar's share, and the seconds left."""
        seen = self.progress.snapshot(now)
        return seen["done_share"], seen["eta_seconds"]


def test_a_line_every_ten_seconds_and_a_status_at_its_own_pace(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "reembed")
    watched = Watched()
    for tenth in range(1, 351):
        watched.progress.tick(100.0 + tenth / 10)
    assert len(watched.stored) == int(35 / STORE_SECONDS)
    assert len(caplog.records) == 3
    assert "shards 0/10" in caplog.records[0].message


def test_rate_share_and_time_left() -> None:
    watched = Watched(done=2)
    watched.progress.snapshot(100.0)
    watched.embed(4000, uptime=10.0, busy=9.0)
    watched.progress.receipt(receipt(5, documents=70))
    watched.progress.receipt(receipt(6, documents=80))
    seen = watched.progress.snapshot(120.0)
    assert seen["tokens_per_second"] == pytest.approx(200.0)
    assert seen["documents"] == 2 * 50 + 70 + 80
    assert seen["shards"]["done"] == 4
    assert seen["eta_seconds"] == 60  # two of eight shards in 20 s; what was done before does not count as speed
    assert seen["replicas"][0]["busy"] == pytest.approx(0.9)


def test_the_only_shard_moves_by_tokens() -> None:
    """Of a run of one shard the prediction tells how many tokens there will be; its receipt ends it."""
    watched = Watched(shards=[Shard(0, (), 8000)], predicted=2000)
    watched.progress.snapshot(100.0)
    assert watched.shown(110.0) == (0.0, None)
    watched.embed(500, 10.0, 9.0, shards=(0,))
    assert watched.shown(120.0) == (0.25, 60)
    watched.embed(1000, 20.0, 19.0, shards=(0,))
    assert watched.shown(140.0) == (0.5, 40)
    watched.embed(2500, 30.0, 29.0, shards=(0,))  # more than predicted
    assert watched.shown(150.0)[0] == 0.99
    watched.progress.receipt(replace(receipt(0), tokens=2500), 0)
    assert watched.shown(160.0) == (1.0, 0)


def test_the_time_before_the_first_replica_is_not_its_pace() -> None:
    """A model that loads for a minute: work of ten seconds is a tenth of the text."""
    progress = Progress([Shard(0, (), 1000)], {}, lambda status: None, 100.0, predicted_tokens=1000)
    progress.snapshot(159.0)
    progress.replica_ready(0, {})
    progress.snapshot(160.0)
    progress.replica_stats(0, ReplicaStats(tokens=100, uptime_seconds=10.0, shards=(0,)))
    seen = progress.snapshot(170.0)
    assert (seen["done_share"], seen["eta_seconds"]) == (0.1, 99)  # 11 s for a tenth


def test_shards_that_are_done_tell_the_tokens_of_the_others() -> None:
    """350 tokens each in fact, whatever was predicted; two shards of 1,000 bytes are in flight."""
    watched = Watched(done=2, predicted=100_000)
    watched.embed(175, 10.0, 9.0, shards=(2, 3))
    assert watched.shown(110.0)[0] == pytest.approx(0.25)
    watched.progress.receipt(receipt(2, documents=50), 0)  # the next totals are not there yet
    assert watched.shown(111.0)[0] == pytest.approx(0.3)
    watched.embed(525, 20.0, 19.0, shards=(3,))
    assert watched.shown(120.0)[0] == pytest.approx(0.35)
    watched.embed(5000, 30.0, 29.0, shards=(3,))  # another kind of text
    assert watched.shown(130.0)[0] == pytest.approx(0.399)


def test_what_an_attempt_embedded_in_vain_does_not_count() -> None:
    watched = Watched(shards=[Shard(number, (), 1000) for number in range(4)], predicted=4000)
    watched.embed(500, 10.0, 9.0, shards=(0,))
    assert watched.shown(110.0)[0] == pytest.approx(0.125)
    watched.progress.attempt_failed(0)
    watched.embed(1000, 20.0, 19.0, shards=(0,))
    assert watched.shown(120.0)[0] == pytest.approx(0.125)
    watched.progress.replica_lost(0)
    assert watched.shown(130.0) == (0.125, None), "the bar does not go back; the pace has nothing to go by"


def test_carried_shards_are_no_part_of_the_prediction() -> None:
    carried = {0: replace(receipt(0, documents=50), carried_from="earlier", tokens=0)}
    progress = Progress([Shard(0, (), 3000), Shard(1, (), 1000)], carried, lambda status: None, 100.0, predicted_tokens=200)
    progress.replica_ready(0, {})
    progress.replica_stats(0, ReplicaStats(tokens=100, shards=(1,)))
    assert progress.snapshot(110.0)["done_share"] == pytest.approx(0.875)


def test_the_rate_is_that_of_the_last_minute() -> None:
    watched = Watched()
    watched.progress.snapshot(100.0)
    watched.embed(6_000_000, uptime=60.0, busy=1.0)
    watched.progress.snapshot(170.0)
    assert watched.progress.snapshot(240.0)["tokens_per_second"] == 0.0


def test_a_lost_replica_keeps_its_work() -> None:
    watched = Watched()
    watched.embed(500, uptime=5.0, busy=5.0)
    watched.progress.replica_lost(0)
    seen = watched.progress.snapshot(110.0)
    assert seen["tokens"] == 500
    assert seen["replicas"] == []
    assert sum(stats.busy_seconds for stats in watched.progress.stats) == 5.0


def test_a_thousand_replicas_are_counted_and_not_listed() -> None:
    """However many come and go: the status is written every few seconds."""
    watched = Watched()
    for number in range(1, 3000):
        watched.progress.replica_ready(number, {"node": "n1"})
        watched.progress.replica_stats(number, ReplicaStats(tokens=10, busy_seconds=1.0, uptime_seconds=2.0))
        if number >= 1000:
            watched.progress.replica_lost(number - 999)
    seen = watched.progress.snapshot(110.0)
    assert (seen["replicas_alive"], len(seen["replicas"]), seen["tokens"]) == (1000, SHOWN_REPLICAS, 29_990)
    assert seen["replicas_busy"] == pytest.approx(0.4995)  # the first has not told anything
    assert len(list(watched.progress.stats)) == 1001
    assert Work().plus(0, 0.0, watched.progress.stats).replica_seconds == 2 * 2999


def test_work_adds_up_over_drivers() -> None:
    first = Work().plus(7, 10.0, [ReplicaStats(documents=100, busy_seconds=8.0, uptime_seconds=9.0, peak_memory_bytes=5)])
    second = replace(first, sessions=2).plus(3, 4.0, [ReplicaStats(documents=30, uptime_seconds=3.0, peak_memory_bytes=4)])
    assert (second.sessions, second.attempts, second.documents_embedded, second.seconds) == (2, 10, 130, 14.0)
    assert (second.replica_seconds, second.busy_seconds, second.peak_memory_bytes) == (12.0, 8.0, 5)


def test_the_summary_tells_what_was_done_twice() -> None:
    receipts = {number: receipt(number, documents=50) for number in range(2)}
    model = {"name": "m", "pooling": "mean", "dim": 4, "vector": "float32", "precision": "float32"}
    summary = build_summary(
        RunFacts("r", "d", 3, {"model": model}, 3.0),
        Ending(RunState.COMPLETE, 7, quarantined_rows_is_minimum=True, quarantined_shards={2: "corrupt"}, published=True),
        totals(receipts),
        Work(documents_embedded=130, seconds=10.0, replica_seconds=7200.0, busy_seconds=3600.0),
    )
    assert summary["reembedded_rows"] == 30
    assert summary["cost_usd"] == 6.0
    assert summary["replica_busy_fraction"] == 0.5
    assert summary["shards"] == {"planned": 3, "done": 2, "quarantined": 1}
    assert "at least 7 rows" in summary_text(summary)


def _drawn(width: int, **snapshot: Any) -> list[str]:
    watched = Watched()
    watched.progress.replica_ready(1, {"node": "a-node-with-a-long-name.cluster.example", "device": "cuda:0"})
    watched.embed(123_450, uptime=10.0, busy=9.7)
    console = Console(width=width, force_terminal=False, file=io.StringIO())
    console.print(watched.progress._picture(watched.progress.snapshot(130.0) | snapshot))
    assert isinstance(console.file, io.StringIO)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


@pytest.mark.parametrize("width", [200, 120, 80, 40])
def test_each_part_of_the_display_has_lines_of_its_own(width: int) -> None:
    lines = _drawn(width, done_share=0.5)
    assert max(map(len, lines)) <= width
    (bar,) = [number for number, line in enumerate(lines) if "━" in line]
    assert set(lines[bar]) <= {"━", "╸", "╺", " "}, "nothing is glued to the bar"
    assert " ".join(" ".join(lines[:bar]).split()).startswith("shards 0/10, 0 documents committed, ")
    replicas = lines[bar + 1 :]
    assert [line.split("  ")[0] for line in replicas] == ["replica 0", "replica 1"], "one line for each replica"
    assert ["12,345 documents" in replicas[0], "0 documents" in replicas[1]] == [True, True]
    if width >= 120:
        assert [line.split("  ")[-1].strip() for line in replicas] == [
            "n1 cpu",
            "a-node-with-a-long-name.cluster.example cuda:0",
        ]


def test_a_log_line_stands_above_the_display() -> None:
    """A handler that kept its stream would write into the frame."""
    screen = io.StringIO()
    with contextlib.redirect_stderr(screen):
        handler = StderrHandler()
        with Live(console=Console(stderr=True, force_terminal=True, width=80), auto_refresh=False) as live:
            live.update(Text("the frame"), refresh=True)
            handler.emit(logging.makeLogRecord({"msg": "replica 0 ready", "levelno": 20, "levelname": "INFO"}))
    told = screen.getvalue()
    assert told.index("replica 0 ready") < told.rindex("the frame"), "drawn again below the line"
