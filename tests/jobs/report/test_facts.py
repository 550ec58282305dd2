"""What the report says is what the receipts say: nothing lost in bins, lanes and reasons, bounded at any size."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.report.facts import Stages
from jobs.report.timeline import MAX_BARS, MAX_BINS, MAX_LANES, Throughput, WorkingTime, throughput, timeline
from jobs.state import quarantine_reasons
from jobs.state.quarantine_reasons import TOP_REASONS, Reasons, count_reasons
from tests.jobs.ledger_samples import RUN, receipt, with_rows
from tests.jobs.report_samples import NOON, facts_of, steady, summary_of, timed
from workers.records.shard import Receipt
from workers.storage.store import Store
from workers.table.paths import RunPaths
from workers.table.quarantine_file import QUARANTINE_SCHEMA


def _rates(receipts: list[Receipt]) -> Throughput:
    rates = throughput(WorkingTime.of(receipts))
    assert rates is not None
    return rates


def test_throughput_spreads_each_shard_over_its_stretch() -> None:
    rates = _rates(list(steady(200, 4).values()))
    assert rates.tokens_per_second == pytest.approx([4 * 70.0] * MAX_BINS)
    assert rates.documents_per_second == pytest.approx([4 * 10.0] * MAX_BINS)
    assert rates.bin_seconds * MAX_BINS == pytest.approx(500.0)


def test_no_document_is_lost_in_the_bins() -> None:
    receipts = [timed(n, f"replica-{n % 7}", 3.7 * n + 11, seconds=1 + n % 13, tokens=n * n) for n in range(500)]
    rates = _rates(receipts)
    assert len(rates.tokens_per_second) <= MAX_BINS
    assert sum(rates.tokens_per_second) * rates.bin_seconds == pytest.approx(sum(item.tokens for item in receipts))
    assert sum(rates.documents_per_second) * rates.bin_seconds == pytest.approx(50_000)


def test_a_stretch_begins_where_the_replica_ended_the_one_before() -> None:
    """Reading of the next shard overlaps: receipts' own seconds do."""
    work = WorkingTime.of([timed(0, "a", 10, seconds=10), timed(1, "a", 15, seconds=12), timed(2, "b", 30, seconds=4)])
    assert work.starts.tolist() == pytest.approx([0, 10, 26])
    assert work.ends.tolist() == pytest.approx([10, 15, 30])
    assert work.began == NOON


def test_long_pauses_are_cut_out() -> None:
    """Stopped after 100 s, resumed the next morning; a short pause stays."""
    night = [timed(n, "r", 10.0 * (n + 1)) for n in range(10)]
    morning = [timed(10 + n, "r", 40_000 + 10.0 * (n + 1)) for n in range(10)]
    work = WorkingTime.of([*night, *morning, timed(20, "r", 40_150)])
    assert [(pause.at, pause.seconds) for pause in work.pauses] == [(pytest.approx(100), pytest.approx(39_900))]
    assert work.seconds == pytest.approx(250)
    assert work.starts[10] == pytest.approx(100)
    assert work.ends[19] == pytest.approx(200)


@pytest.mark.slow
@pytest.mark.parametrize("shards", [1, MAX_BARS, MAX_BARS + 1, 40_000])
def test_a_timeline_stays_drawable(shards: int) -> None:
    shown = timeline(WorkingTime.of(steady(shards, 1).values()))
    (lane,) = shown.lanes
    assert len(lane.bars) <= MAX_BARS
    assert sum(bar.shards for bar in lane.bars) == lane.shards == shards
    assert lane.bars[0].start == 0
    assert all(before.end == pytest.approx(after.start) for before, after in pairwise(lane.bars))
    assert ("drawn as one" in shown.note) == (shards > MAX_BARS)
    assert lane.busy_seconds == pytest.approx(shown.seconds)


def test_idle_time_of_a_replica_shows_between_merged_shards() -> None:
    busy = {n: timed(n, "replica-0", 10.0 * (n + 1)) for n in range(2000)}
    other = {2000 + n: timed(2000 + n, "replica-1", 10.0 * (n + 1 + 400 * (n // 100))) for n in range(500)}
    lane = timeline(WorkingTime.of([*busy.values(), *other.values()])).lanes[1]
    idle = [after.start - before.end for before, after in pairwise(lane.bars)]
    assert sum(gap > 1 for gap in idle) == 4
    assert len(lane.bars) <= MAX_BARS


def test_of_many_replicas_a_sample_is_shown_and_said_to_be_one() -> None:
    shown = timeline(WorkingTime.of(steady(1000, 100).values()))
    assert len(shown.lanes) == MAX_LANES
    assert (shown.replicas, shown.shards) == (100, 1000)
    assert shown.note.startswith("a sample: 60 of 100 replicas")
    names = [int(lane.replica.removeprefix("replica-")) for lane in shown.lanes]
    assert names == sorted(names)
    assert names[-1] > 95


def test_receipts_without_times_are_counted_apart() -> None:
    facts = facts_of({0: receipt(0), 1: receipt(1)})
    assert facts.throughput is None
    assert facts.untimed_shards == 2
    assert facts.timeline.lanes == ()
    assert facts.to_json()["throughput"] is None


@pytest.mark.parametrize(
    ("seconds", "starving", "words"),
    [
        ({"read": 9, "tokenize": 1, "encode": 99, "wait": 1}, None, "nothing starves it"),
        ({"read": 9, "tokenize": 80, "encode": 60, "wait": 40}, "tokenize", "tokenising (80.0% of it)"),
        ({"read": 95, "tokenize": 20, "encode": 60, "wait": 40}, "read", "reading (95.0% of it)"),
        ({"read": 1, "tokenize": 2, "encode": 60, "wait": 40}, "shards", "longer than reading and tokenising"),
        ({}, None, "No replica encoded anything"),
    ],
)
def test_the_starving_stage(seconds: dict[str, float], starving: str | None, words: str) -> None:
    stages = Stages(seconds)
    assert stages.starving == starving
    assert words in stages.sentence


def test_rows_by_origin_add_up() -> None:
    receipts = steady(4, 2)
    receipts[0] = replace(receipts[0], carried_from="20261119T100312Z-1a2b3c4d", reused_rows=100, tokens=999_999)
    receipts[1] = replace(receipts[1], reused_rows=40, repeated_rows=10)
    receipts[2] = with_rows(receipts[2], 250)
    receipts[3] = replace(receipts[3], rows_read=103, quarantined_rows=3)
    facts = facts_of(receipts)
    origins = facts.origins
    assert (origins.carried, origins.reused, origins.repeated, origins.embedded) == (100, 40, 10, 50 + 250 + 100)
    assert (origins.planned, origins.quarantined) == (403, 3)
    assert facts.embedded_tokens == 3 * 700, "what a copied part once took is not this run's work"
    assert facts.timeline.shards == 3
    assert facts.lengths.counted == 400
    assert facts.padding_share == pytest.approx(1 / 8)
    assert facts.truncated_share == pytest.approx(4 / 400)


def test_predicted_and_actual() -> None:
    receipts = steady(8, 2)
    tokens, hours, cost = facts_of(receipts).forecasts
    assert (tokens.predicted, tokens.actual, tokens.ratio) == (12_345, 5_600, pytest.approx(5_600 / 12_345))
    assert (hours.predicted, hours.actual) == (1.5, 2.0)
    assert (cost.predicted, cost.actual, cost.ratio) == (None, 5.0, None)
    assert all(item.predicted is None for item in facts_of(receipts, predicted={}).forecasts)


def test_the_facts_are_small_and_survive_json() -> None:
    receipts = steady(20_000, 80)
    text = json.dumps(facts_of(receipts, summary_of(receipts)).to_json(), allow_nan=False)
    assert len(text) < 30_000
    assert facts_of({}).to_json()["embedded_tokens"] == 0


def _quarantine(store: Store, name: str, rows: list[dict[str, Any]]) -> None:
    table = pa.Table.from_pylist([{"shard": 0, "id": None, **row} for row in rows], schema=QUARANTINE_SCHEMA)
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    store.put(f"{RunPaths(RUN).quarantine}/{name}.parquet", sink.getvalue().to_pybytes())


def _line(reason: str, row: int | None = 1, rows: int | None = 1) -> dict[str, Any]:
    return {"object": "s3://corpus/a.parquet", "row": row, "rows": rows, "reason": reason}


def test_reasons_that_differ_in_numbers_are_one(tmp_path: Path) -> None:
    store = Store(str(tmp_path), {})
    assert count_reasons(store, RUN) == Reasons()
    _quarantine(
        store, "a", [_line(f"text is too long ({1000 + n} bytes)", row=n) for n in range(5)] + [_line("text is null")]
    )
    _quarantine(store, "b", [_line("text is too long (7 bytes)"), _line("object gone", None, None), _line("bad", None, 60)])
    found = count_reasons(store, RUN)
    assert [(item.text, item.rows, item.unknown) for item in found.top] == [
        ("bad", 60, 0),
        ("text is too long (1000 bytes)", 6, 0),
        ("text is null", 1, 0),
        ("object gone", 0, 1),
    ]
    assert found.top[1].example == "s3://corpus/a.parquet, row 0"
    assert (found.kinds, found.others, found.complete) == (4, 0, True)


def test_a_large_quarantine_is_read_in_part_and_said_to_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(str(tmp_path), {})
    letters = [chr(ord("a") + n % 26) * (1 + n // 26) for n in range(40)]
    _quarantine(store, "a", [_line(f"reason {letter}") for letter in letters])
    every = count_reasons(store, RUN)
    assert (len(every.top), every.kinds, every.others, every.complete) == (TOP_REASONS, 40, 20, True)
    monkeypatch.setattr(quarantine_reasons, "MAX_REASONS", 30)
    assert count_reasons(store, RUN).top[0].text == "other reasons"
    _quarantine(store, "b", [_line("late")])
    monkeypatch.setattr(quarantine_reasons, "MAX_FILES", 1)
    assert not count_reasons(store, RUN).complete
    monkeypatch.setattr(quarantine_reasons, "MAX_FILES", 9)
    _quarantine(store, "a", [_line("x")] * 20_000)
    monkeypatch.setattr(quarantine_reasons, "MAX_LINES_A_FILE", 1000)
    partly = count_reasons(store, RUN)
    assert not partly.complete
    assert partly.top[0].rows < 20_000
