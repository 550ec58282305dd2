"""What the process of a replica is given at start: its tokenizer's threads, and settings that are not found out twice."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("ray")

from jobs.pool import replica_pool
from jobs.pool.replica_shape import ReplicaShape
from jobs.scheduling.messages import StartReplica
from tests.workers.output_samples import plan, stamp
from workers.config import ModelConfig, OutputConfig, Precision
from workers.replica.settings import ReplicaSettings, ResolvedSettings

ROOT = Path(__file__).resolve().parents[3]
# A replica that does nothing but tokenise, in a process of its own, as an actor's is: which threads does the library start?
STARTS = """
import os, sys, types
from types import SimpleNamespace

def threads():
    return len(os.listdir("/proc/self/task"))

class Replica:
    def __init__(self, settings, name):
        from tokenizers import Tokenizer
        tokenizer, before = Tokenizer.from_file(sys.argv[1]), threads()
        tokenizer.encode_batch(["snow in the harbour"] * 64)
        print(threads() - before)

    def facts(self):
        return {}

sys.modules["workers.replica.replica"] = types.SimpleNamespace(Replica=Replica)
from jobs.pool import replica_actor
replica_actor.ray = SimpleNamespace(get_runtime_context=lambda: SimpleNamespace(get_node_id=lambda: "a"))
replica_actor.ReplicaActor().ready(SimpleNamespace(threads=3), "replica-0", None)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="threads are counted in /proc")
def test_the_tokenizer_has_as_many_threads_as_the_replica_has_cores(minilm: Path) -> None:
    """Else each of eight replicas of a node of 128 cores starts 128."""
    done = subprocess.run(
        [sys.executable, "-c", STARTS, minilm / "tokenizer.json"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.stdout.split() == ["3"], done.stderr


def test_a_replica_that_starts_later_need_not_find_out_what_is_settled(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[tuple[Any, ...]] = []

    class Actor:
        def __getattr__(self, _: str) -> Any:
            return self

        def remote(self, *arguments: Any) -> Any:
            if arguments:
                given.append(arguments)
                return len(given)
            return self

    settings = ReplicaSettings(
        plan=plan(), model=ModelConfig(name="a"), output=OutputConfig(uri="/out"), weights_digest="w", tokenizer_digest="t",
        dim=32, precision=Precision.AUTO, batch_tokens="auto", threads=2, atomic_create=True,
    )  # fmt: skip
    pool = replica_pool.ReplicaPool(ReplicaShape(2, 0.0, 1), settings)
    monkeypatch.setattr(pool, "_actor_class", Actor())
    pool.execute(StartReplica(0))
    pool.configure(ResolvedSettings(stamp(dim=32, precision="float16"), 65536))
    pool.execute(StartReplica(1))
    pool.configure(ResolvedSettings(stamp(dim=32, precision="float16"), 65536, way="packed"))
    pool.execute(StartReplica(2))
    assert given[0][0] == settings
    assert given[1][0] == dataclasses.replace(settings, precision=Precision.FLOAT16, batch_tokens=65536)
    assert given[2][0] == dataclasses.replace(given[1][0], way="packed"), "no trial of its own"


def test_a_budget_that_is_given_is_not_measured(small_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.workers.models import build
    from workers.engine import encoder

    def measured(*_: object) -> int:
        raise AssertionError("measured")

    monkeypatch.setattr(encoder, "choose_batch_tokens", measured)
    assert build(small_model, batch_tokens=777)[1].batch_tokens == 777
