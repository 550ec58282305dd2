"""A new run is settled by its first replica; one that cannot be settled leaves nothing behind."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from jobs.config import parse_config
from jobs.driver.signals import StopFlag, Stopped
from jobs.embed import calibration
from jobs.planning.choose_run import plan_or_reopen
from jobs.planning.planned_run import PlannedRun
from jobs.planning.request import Request
from jobs.planning.run import ReuseRefused
from jobs.pool.replica_shape import ReplicaShape
from jobs.scheduling.messages import Command, Event, Lost, Ready, StartReplica, Stats
from jobs.state.records import find_unfinished
from tests.jobs.source_files import jsonl
from workers.errors import RunAborted, UsageError
from workers.records.shard import ReplicaStats, Shard

FACTS = {"precision": "bfloat16", "batch_tokens": 1234, "way": "fused bfloat16", "device": "cpu"}
SHAPE = ReplicaShape(replicas=2, gpus=0.0, cpus=1)


class Pool:
    """Answers with these events, one list a wait; then with silence."""

    def __init__(self, *answers: list[Event]) -> None:
        self.answers = list(answers)
        self.started: list[int] = []
        self.sampled: list[Shard] = []

    def execute(self, command: Command) -> None:
        assert isinstance(command, StartReplica)
        self.started.append(command.replica)

    def wait(self, timeout: float) -> list[Event]:
        if self.answers:
            return self.answers.pop(0)
        time.sleep(min(timeout, 0.02))
        return []

    def calibrate(self, replica: int, shards: Sequence[Shard], timeout: float) -> dict[str, float]:
        assert replica == 1
        assert timeout > 0
        self.sampled = list(shards)
        return {"embedding": 0.004}


def lost(replica: int, reason: str = "killed", error: UsageError | None = None) -> Lost:
    return Lost(replica, reason, charged=True, starting=True, error=error)


@pytest.fixture
def new_run(minilm: Path, tmp_path: Path) -> Callable[..., PlannedRun]:
    def plan(ready_seconds: float = 20.0, **output: Any) -> PlannedRun:
        for number in range(20):
            jsonl(tmp_path / "in" / f"{number:02d}.jsonl", [{"text": "word " * 100}] * 4)
        raw = {
            "corpus": {"uri": f"{tmp_path}/in/"},
            "model": {"name": str(minilm)},
            "output": {"uri": f"{tmp_path}/out"} | output,
            "cluster": {"replica_ready_seconds": ready_seconds},
            "run": {"shard_bytes": 2048},
        }
        run = plan_or_reopen(Request.resolve(parse_config(raw, "test")))
        assert isinstance(run, PlannedRun)
        return run

    return plan


def calibrate(run: PlannedRun, pool: Pool, stop: StopFlag | None = None) -> calibration.Calibration:
    return calibration.calibrate(run, pool, SHAPE, stop or StopFlag())  # type: ignore[arg-type]


def nothing_written(run: PlannedRun) -> bool:
    return find_unfinished(run.store, run.request.settings) is None and not run.store.list("")


def test_the_first_that_is_ready_decides(new_run: Callable[..., PlannedRun]) -> None:
    run, pool = new_run(), Pool([], [Stats(0, ReplicaStats()), Ready(1, FACTS), Ready(0, FACTS | {"batch_tokens": 9})])
    facts = calibrate(run, pool)
    assert pool.started == [0, 1]
    assert facts == ("bfloat16", None, 1234, "fused bfloat16", {})
    assert pool.sampled == []
    assert nothing_written(run)
    begun = run.begin(*facts)
    assert begun.stamp.precision == "bfloat16"
    stored = find_unfinished(run.store, run.request.settings)
    assert stored is not None
    assert (stored.model["precision"], stored.batch_tokens, stored.int8_scale) == ("bfloat16", 1234, None)
    assert (stored.way, begun.way) == ("fused bfloat16", "fused bfloat16")


def untried(run: PlannedRun, *answers: list[Event]) -> Pool:
    """A run on a base, begun in its precision; no replica has been seen yet."""
    pool = Pool(*answers)
    calibration.try_precision(run.begin("bfloat16", None, 777), pool, SHAPE, StopFlag())  # type: ignore[arg-type]
    return pool


def test_a_run_on_a_base_asks_its_first_replica(new_run: Callable[..., PlannedRun]) -> None:
    pool = untried(new_run(), [lost(0, "PrecisionRefused: a broken device")], [Ready(1, FACTS)])
    assert pool.started == [0, 1, 0]


@pytest.mark.parametrize(
    ("answers", "words"),
    [
        ([[Ready(0, FACTS | {"precision": "float16"})]], r"works in float16, the published snapshot is in bfloat16"),
        ([[lost(0, "workers.errors.PrecisionRefused: cpu: golden texts")]] * 3, r"precision bfloat16: 3 replicas died"),
        ([[lost(1, error=UsageError("model.precision=int8 is for CPUs"))]], r"precision bfloat16: model\.precision=int8"),
    ],
)
def test_a_precision_that_no_replica_has(new_run: Callable[..., PlannedRun], answers: list[list[Event]], words: str) -> None:
    with pytest.raises(ReuseRefused, match=words):
        untried(new_run(), *answers)


def test_replicas_that_die_of_something_else_are_no_reason_to_embed_everything(new_run: Callable[..., PlannedRun]) -> None:
    with pytest.raises(RunAborted, match="out of memory") as raised:
        untried(new_run(), *[[lost(0, "out of memory")]] * 3)
    assert not isinstance(raised.value, ReuseRefused)


def test_int8_vectors_are_calibrated_over_the_corpus_first(new_run: Callable[..., PlannedRun]) -> None:
    run, pool = new_run(vector="int8"), Pool([Ready(1, FACTS)])
    planned = len(run.shards)
    facts = calibrate(run, pool)
    numbers = [shard.number for shard in pool.sampled]
    assert planned > 10
    assert 1 < len(numbers) <= calibration.CALIBRATION_SHARDS
    assert numbers[0] == 0
    assert numbers[-1] >= planned // 2, "only the beginning was looked at"
    assert facts.int8_scale == 0.004


def test_a_request_that_cannot_be_carried_out(new_run: Callable[..., PlannedRun]) -> None:
    refusal = UsageError("model.precision=int8: not this model")
    run, pool = new_run(), Pool([lost(0), lost(1, error=refusal)], [Ready(0, FACTS)])
    with pytest.raises(UsageError, match=r"^model\.precision=int8: not this model$"):
        calibrate(run, pool)
    assert nothing_written(run)


def test_a_replica_lost_at_the_start_is_started_again(
    new_run: Callable[..., PlannedRun], caplog: pytest.LogCaptureFixture
) -> None:
    run, pool = new_run(), Pool([lost(1, "oom")], [lost(1, "oom")], [Ready(1, FACTS)])
    calibrate(run, pool)
    assert pool.started == [0, 1, 1, 1]
    assert caplog.text.count("replica 1 lost while it loaded the model: oom") == 2


def test_three_lost_are_enough(new_run: Callable[..., PlannedRun]) -> None:
    run, pool = new_run(), Pool([lost(0, "oom"), lost(1, "oom")], [lost(0, "no such library")], [Ready(1, FACTS)])
    with pytest.raises(RunAborted, match=r"^3 replicas died while they loaded the model: no such library$"):
        calibrate(run, pool)
    assert pool.started == [0, 1, 0, 1]
    assert nothing_written(run)


def test_nobody_ready_in_time(new_run: Callable[..., PlannedRun]) -> None:
    run, pool = new_run(ready_seconds=0.2), Pool()
    began = time.monotonic()
    with pytest.raises(RunAborted, match=r"within cluster\.replica_ready_seconds=0\.2 \(2 of 0 GPU and 1 CPU wanted\)"):
        calibrate(run, pool)
    assert time.monotonic() - began < 30
    assert nothing_written(run)


def test_a_signal_stops_the_waiting(new_run: Callable[..., PlannedRun]) -> None:
    stop = StopFlag()
    stop.number = 15
    run = new_run()
    with pytest.raises(Stopped):
        calibrate(run, Pool(), stop)
    assert nothing_written(run)
