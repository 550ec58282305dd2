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
from jobs.planning.run import Request, ReuseRefused, Run, plan_or_reopen
from jobs.pool.replica_shape import ReplicaShape
from jobs.scheduling.messages import Command, Event, Lost, Ready, StartReplica, Stats
from jobs.state.records import find_unfinished
from tests.jobs.source_files import jsonl
from workers.errors import RunAborted, UsageError
from workers.records.shard import ReplicaStats, Shard
from workers.replica.settings import Settled

FACTS = {"precision": "bfloat16", "batch_tokens": 1234, "device": "cpu"}
SHAPE = ReplicaShape(replicas=2, gpus=0.0, cpus=1)


class Pool:
    """Answers with these events, one list a wait; then with silence."""

    def __init__(self, *answers: list[Event]) -> None:
        self.answers = list(answers)
        self.started: list[int] = []
        self.settled: list[Settled] = []
        self.sampled: list[Shard] = []

    def execute(self, command: Command) -> None:
        assert isinstance(command, StartReplica)
        self.started.append(command.replica)

    def wait(self, timeout: float) -> list[Event]:
        if self.answers:
            return self.answers.pop(0)
        time.sleep(min(timeout, 0.02))
        return []

    def calibrate(self, replica: int, shards: Sequence[Shard], timeout: float) -> float:
        assert replica == 1
        assert timeout > 0
        self.sampled = list(shards)
        return 0.004

    def settle(self, settled: Settled) -> None:
        self.settled.append(settled)


def lost(replica: int, reason: str = "killed", error: UsageError | None = None) -> Lost:
    return Lost(replica, reason, charged=True, starting=True, error=error)


@pytest.fixture
def new_run(minilm: Path, tmp_path: Path) -> Callable[..., Run]:
    def plan(ready_seconds: float = 20.0, **output: Any) -> Run:
        for number in range(20):
            jsonl(tmp_path / "in" / f"{number:02d}.jsonl", [{"text": "word " * 100}] * 4)
        raw = {
            "corpus": {"uri": f"{tmp_path}/in/"},
            "model": {"name": str(minilm)},
            "output": {"uri": f"{tmp_path}/out"} | output,
            "cluster": {"replica_ready_seconds": ready_seconds},
            "run": {"shard_bytes": 2048},
        }
        return plan_or_reopen(Request.resolve(parse_config(raw, "test")))

    return plan


def settle(run: Run, pool: Pool, stop: StopFlag | None = None) -> None:
    calibration.settle(run, pool, SHAPE, stop or StopFlag())  # type: ignore[arg-type]


def nothing_written(run: Run) -> bool:
    return run.record is None and find_unfinished(run.store, run.request.settings) is None and not run.store.list("")


def test_the_first_that_is_ready_settles_the_run(new_run: Callable[..., Run]) -> None:
    run, pool = new_run(), Pool([], [Stats(0, ReplicaStats()), Ready(1, FACTS), Ready(0, FACTS | {"batch_tokens": 9})])
    settle(run, pool)
    assert pool.started == [0, 1]
    assert run.record is not None
    assert (run.record.model["precision"], run.record.batch_tokens, run.record.int8_scale) == ("bfloat16", 1234, None)
    assert pool.settled == [Settled(run.stamp, 1234)]
    assert run.stamp.precision == "bfloat16"
    assert pool.sampled == []
    stored = find_unfinished(run.store, run.request.settings)
    assert stored is not None
    assert (stored.model["precision"], stored.batch_tokens) == ("bfloat16", 1234)


def test_a_run_that_was_begun_is_settled_already(new_run: Callable[..., Run]) -> None:
    run, pool = new_run(), Pool([Ready(0, FACTS)])
    run.begin("float32", None, 777)
    settle(run, pool)
    assert pool.started == []
    assert pool.settled == [Settled(run.stamp, 777)]
    assert run.stamp.precision == "float32"


def untried(run: Run, *answers: list[Event]) -> Pool:
    """A run on a base, begun in its precision; no replica has been seen yet."""
    run.begin("bfloat16", None, 777)
    pool = Pool(*answers)
    calibration.settle(run, pool, SHAPE, StopFlag(), untried=True)  # type: ignore[arg-type]
    return pool


def test_a_run_on_a_base_asks_its_first_replica(new_run: Callable[..., Run]) -> None:
    run = new_run()
    pool = untried(run, [lost(0, "PrecisionRefused: a broken device")], [Ready(1, FACTS)])
    assert pool.started == [0, 1, 0]
    assert pool.settled == [Settled(run.stamp, 777)], "the budget is the base's"


@pytest.mark.parametrize(
    ("answers", "words"),
    [
        ([[Ready(0, FACTS | {"precision": "float16"})]], r"works in float16, the published snapshot is in bfloat16"),
        ([[lost(0, "workers.errors.PrecisionRefused: cpu: golden texts")]] * 3, r"precision bfloat16: 3 replicas died"),
        ([[lost(1, error=UsageError("model.precision=int8 is for CPUs"))]], r"precision bfloat16: model\.precision=int8"),
    ],
)
def test_a_precision_that_no_replica_has(new_run: Callable[..., Run], answers: list[list[Event]], words: str) -> None:
    with pytest.raises(ReuseRefused, match=words):
        untried(new_run(), *answers)


def test_replicas_that_die_of_something_else_are_no_reason_to_embed_everything(new_run: Callable[..., Run]) -> None:
    with pytest.raises(RunAborted, match="out of memory") as raised:
        untried(new_run(), *[[lost(0, "out of memory")]] * 3)
    assert not isinstance(raised.value, ReuseRefused)


def test_int8_vectors_are_calibrated_over_the_corpus_first(new_run: Callable[..., Run]) -> None:
    run, pool = new_run(vector="int8"), Pool([Ready(1, FACTS)])
    planned = len(run.shards)
    settle(run, pool)
    numbers = [shard.number for shard in pool.sampled]
    assert planned > 10
    assert 1 < len(numbers) <= calibration.CALIBRATION_SHARDS
    assert numbers[0] == 0
    assert numbers[-1] >= planned // 2, "only the beginning was looked at"
    assert run.record is not None
    assert run.record.int8_scale == pool.settled[0].stamp.int8_scale == 0.004


def test_a_request_that_cannot_be_carried_out(new_run: Callable[..., Run]) -> None:
    refusal = UsageError("model.precision=int8: not this model")
    run, pool = new_run(), Pool([lost(0), lost(1, error=refusal)], [Ready(0, FACTS)])
    with pytest.raises(UsageError, match=r"^model\.precision=int8: not this model$"):
        settle(run, pool)
    assert pool.settled == []
    assert nothing_written(run)


def test_a_replica_lost_at_the_start_is_started_again(new_run: Callable[..., Run], caplog: pytest.LogCaptureFixture) -> None:
    run, pool = new_run(), Pool([lost(1, "oom")], [lost(1, "oom")], [Ready(1, FACTS)])
    settle(run, pool)
    assert pool.started == [0, 1, 1, 1]
    assert len(pool.settled) == 1
    assert caplog.text.count("replica 1 lost while it loaded the model: oom") == 2


def test_three_lost_are_enough(new_run: Callable[..., Run]) -> None:
    run, pool = new_run(), Pool([lost(0, "oom"), lost(1, "oom")], [lost(0, "no such library")], [Ready(1, FACTS)])
    with pytest.raises(RunAborted, match=r"^3 replicas died while they loaded the model: no such library$"):
        settle(run, pool)
    assert pool.started == [0, 1, 0, 1]
    assert nothing_written(run)


def test_nobody_ready_in_time(new_run: Callable[..., Run]) -> None:
    run, pool = new_run(ready_seconds=0.2), Pool()
    began = time.monotonic()
    with pytest.raises(RunAborted, match=r"within cluster\.replica_ready_seconds=0\.2 \(2 of 0 GPU and 1 CPU wanted\)"):
        settle(run, pool)
    assert time.monotonic() - began < 5
    assert nothing_written(run)


def test_a_signal_stops_the_waiting(new_run: Callable[..., Run]) -> None:
    stop = StopFlag()
    stop.number = 15
    run = new_run()
    with pytest.raises(Stopped):
        settle(run, Pool(), stop)
    assert nothing_written(run)
