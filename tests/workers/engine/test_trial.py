"""The time trial: the fastest way that works, remembered; and what a damaged or foreign memory does."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch

from tests.workers.families import sequences
from workers.config import Precision
from workers.engine import trial
from workers.engine.batches.plan import Layout
from workers.engine.kernels.packing import PackedBatch
from workers.engine.trial import Candidate, Choice, fastest, recall, remember
from workers.engine.ways.interface import States
from workers.errors import UsageError

CPU = torch.device("cpu")
GOLDEN = sequences(16, 40)
BFLOAT16 = Choice(Precision.BFLOAT16, "fused bfloat16")


class Takes:
    """A way that takes so many seconds a pass."""

    layout = Layout.PACKED

    def __init__(self, name: str, seconds: float, fails: bool = False) -> None:
        self.name, self.passes, self.seconds, self._fails = name, 0, seconds, fails

    def __call__(self, batch: PackedBatch, *, layers: int) -> States:
        self.passes += 1
        if self._fails:
            raise RuntimeError("no such operator")
        return States(torch.zeros(batch.tokens, 4))


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pass takes what its way says: the machine's load decides nothing here."""

    def timed(way: Takes, batch: PackedBatch, _: torch.device) -> float:
        way(batch, layers=0)
        return way.seconds

    monkeypatch.setattr(trial, "_timed", timed)


def run(*ways: Takes) -> str:
    return fastest([Candidate(Precision.FLOAT32, way) for way in ways], GOLDEN, CPU).forward.name


def test_the_fastest_is_taken_and_the_log_says_what_was_tried(caplog: pytest.LogCaptureFixture) -> None:
    slow, quick = Takes("slow", 0.02), Takes("quick", 0.001)
    with caplog.at_level(logging.INFO):
        assert run(slow, quick) == "quick"
    assert (slow.passes, quick.passes) == (2, 2)  # clear after one timed pass
    assert "trial, in tokens/s: slow float32" in caplog.text
    assert "using quick float32" in caplog.text


def test_ways_of_one_speed_are_timed_several_times_and_the_first_is_taken() -> None:
    ways = [Takes("first", 0.0101), Takes("second", 0.01)]
    assert run(*ways) == "first"
    assert [way.passes for way in ways] == [1 + trial.ROUNDS] * 2


def test_one_way_needs_no_trial() -> None:
    only = Takes("only", 0.0)
    assert run(only) == "only"
    assert only.passes == 0


def test_a_way_that_fails_is_left_out() -> None:
    assert run(Takes("broken", 0.0, fails=True), Takes("works", 0.001)) == "works"
    with pytest.raises(RuntimeError, match="no such operator"):
        run(Takes("broken", 0.0, fails=True), Takes("too", 0.0, fails=True))


def test_time_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "TRIAL_SECONDS", 0.0)
    ways = [Takes("one", 0.001), Takes("two", 0.001)]
    run(*ways)
    assert [way.passes for way in ways] == [2, 2]


def test_a_choice_is_remembered_for_the_same_model_and_wish(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REEMBED_CACHE", str(tmp_path))
    assert recall("w1", Precision.AUTO, CPU) is None
    remember(BFLOAT16, "w1", Precision.AUTO, CPU)
    assert recall("w1", Precision.AUTO, CPU) == BFLOAT16
    assert recall("w2", Precision.AUTO, CPU) is None
    assert recall("w1", Precision.FLOAT32, CPU) is None
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")  # another processor, as far as torch is concerned
    assert recall("w1", Precision.AUTO, CPU) is None


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"precision": "float3", "way": "x"}', '{"precision": "float32"}'])
def test_a_damaged_memory_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str) -> None:
    monkeypatch.setenv("REEMBED_CACHE", str(tmp_path))
    remember(BFLOAT16, "w1", Precision.AUTO, CPU)
    (kept,) = (tmp_path / "trials").iterdir()
    kept.write_text(damage)
    assert recall("w1", Precision.AUTO, CPU) is None


def test_a_cache_that_cannot_be_used_costs_the_next_trial_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("REEMBED_CACHE", str(tmp_path / "file"))
    remember(BFLOAT16, "w1", Precision.AUTO, CPU)
    monkeypatch.setenv("REEMBED_CACHE", "relative")
    with pytest.raises(UsageError):
        trial.cache_folder()
    remember(BFLOAT16, "w1", Precision.AUTO, CPU)
    assert recall("w1", Precision.AUTO, CPU) is None
