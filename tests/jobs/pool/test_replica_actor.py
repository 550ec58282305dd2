"""The actor's own part: what it sets up before the replica is imported."""

from __future__ import annotations

import os
from types import SimpleNamespace
from typing import Any

import pytest
import ray

from jobs.pool.replica_actor import NODE_ID, ReplicaActor
from workers.replica import replica


@pytest.mark.parametrize(("set_before", "expected"), [(None, "3"), ("7", "7")])
def test_the_tokenizers_threads_are_the_replicas(
    monkeypatch: pytest.MonkeyPatch, set_before: str | None, expected: str
) -> None:
    seen: list[str] = []

    def loaded(settings: Any, name: str) -> Any:
        seen.append(os.environ["RAYON_NUM_THREADS"])
        return SimpleNamespace(facts=dict)

    monkeypatch.setenv("RAYON_NUM_THREADS", "0")
    monkeypatch.delenv("RAYON_NUM_THREADS")
    if set_before:
        monkeypatch.setenv("RAYON_NUM_THREADS", set_before)
    monkeypatch.setattr(replica, "Replica", loaded)
    monkeypatch.setattr(ray, "get_runtime_context", lambda: SimpleNamespace(get_node_id=lambda: "node"))
    facts = ReplicaActor().ready(SimpleNamespace(threads=3), "replica-0", None)  # type: ignore[arg-type]
    assert seen == [expected]
    assert facts == {NODE_ID: "node"}
