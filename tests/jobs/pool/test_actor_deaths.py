"""What the pool makes of a replica's death: charged to what it was doing, or, where its node was about to go, to nobody."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("ray")
from ray.exceptions import ActorDiedError, ActorUnavailableError, RayActorError, RayError

from jobs.pool import actor_deaths, replica_pool
from jobs.pool.replica_shape import ReplicaShape
from jobs.scheduling.messages import Lost, Ready
from workers.errors import RunAborted

ALIVE = [{"NodeID": "a", "Alive": True}, {"NodeID": "b", "Alive": True}]


@pytest.fixture
def pool(monkeypatch: pytest.MonkeyPatch) -> replica_pool.ReplicaPool:
    """Replica 0 is ready on node a, replica 1 starts; no Ray runs."""
    monkeypatch.setattr(actor_deaths.ray, "nodes", lambda: ALIVE)
    monkeypatch.setattr(actor_deaths, "_draining", dict)
    settings: Any = None  # they are only handed on, to a replica that is never started
    made = replica_pool.ReplicaPool(ReplicaShape(2, 0.0, 1), settings)
    made._calls["hello"] = ("ready", 0)
    (ready,) = made._events_of("hello", {"pid": 1, "node_id": "a"})
    assert ready == Ready(0, {"pid": 1}), "Ray's ids are for the pool alone"
    made._calls["shard"] = ("shard", 0)
    return made


def _lost(pool: replica_pool.ReplicaPool, error: RayError) -> Lost:
    (event,) = pool._events_of("shard", error)
    assert isinstance(event, Lost)
    return event


def test_a_death_out_of_the_blue_is_charged(pool: replica_pool.ReplicaPool) -> None:
    event = _lost(pool, ActorDiedError())
    assert (event.charged, event.starting) == (True, False)


def test_on_a_node_that_has_had_notice_it_is_not(pool: replica_pool.ReplicaPool, monkeypatch: pytest.MonkeyPatch) -> None:
    """`ray start --block` drains for half a minute on SIGTERM, and kills the node's processes before the node is gone."""
    monkeypatch.setattr(actor_deaths, "_draining", lambda: {"a": 0})
    assert not _lost(pool, ActorDiedError()).charged


def test_notice_to_another_node_changes_nothing(pool: replica_pool.ReplicaPool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(actor_deaths, "_draining", lambda: {"b": 0})
    assert _lost(pool, ActorDiedError()).charged


@pytest.mark.parametrize("nodes", [[], [{"NodeID": "a", "Alive": False}, ALIVE[1]]])
def test_on_a_node_that_is_gone_it_is_not(
    pool: replica_pool.ReplicaPool, monkeypatch: pytest.MonkeyPatch, nodes: list[dict[str, Any]]
) -> None:
    """Ray may tell of the process first, and of its node a moment later."""
    monkeypatch.setattr(actor_deaths.ray, "nodes", lambda: nodes)
    assert not _lost(pool, ActorDiedError()).charged


def test_on_a_node_that_ends_between_two_questions_it_is_not(
    pool: replica_pool.ReplicaPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A draining node ends as soon as nothing runs on it: then it is dead, and no longer listed as draining."""
    nodes = [dict(node) for node in ALIVE]

    def ends() -> dict[str, int]:
        nodes[0]["Alive"] = False
        return {}

    monkeypatch.setattr(actor_deaths.ray, "nodes", lambda: nodes)
    monkeypatch.setattr(actor_deaths, "_draining", ends)
    assert not _lost(pool, ActorDiedError()).charged


def test_an_unreachable_one_is_not(pool: replica_pool.ReplicaPool) -> None:
    assert not _lost(pool, ActorUnavailableError("no answer", None)).charged


def test_of_an_owner_that_ray_takes_for_dead_the_run_ends(pool: replica_pool.ReplicaPool) -> None:
    with pytest.raises(RunAborted, match="the Ray node that this driver runs on was lost"):
        _lost(pool, RayActorError(error_msg="The actor is dead because its owner has died. Owner Id: 01"))


def _status(*nodes: tuple[str, str]) -> SimpleNamespace:
    return SimpleNamespace(
        active_nodes=[SimpleNamespace(node_id=name, node_status=state) for name, state in nodes], idle_nodes=[]
    )


@pytest.mark.parametrize(
    ("answer", "draining"),
    [
        (_status(("a", "DRAINING"), ("b", "RUNNING")), ["a"]),
        (RayError("no answer"), []),
        (SimpleNamespace(), []),  # another version's status
    ],
)
def test_draining_nodes_are_those_of_the_cluster_status(
    monkeypatch: pytest.MonkeyPatch, answer: Any, draining: list[str]
) -> None:
    """An answer that Ray does not give is no error: nothing is draining."""

    def get_cluster_status(address: str, timeout: int) -> Any:
        assert (address, timeout) == ("head:6379", actor_deaths.STATUS_SECONDS)
        if isinstance(answer, RayError):
            raise answer
        return answer

    monkeypatch.setattr("ray.autoscaler.v2.sdk.get_cluster_status", get_cluster_status)
    monkeypatch.setattr(actor_deaths.ray, "get_runtime_context", lambda: SimpleNamespace(gcs_address="head:6379"))
    assert list(actor_deaths._draining()) == draining


def test_a_ray_client_does_not_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    """The head's own address may not be reachable from there."""
    monkeypatch.setattr(actor_deaths.ray.util.client.ray, "is_connected", lambda: True)
    monkeypatch.setattr(actor_deaths.ray, "get_runtime_context", lambda: pytest.fail("asked"))
    assert list(actor_deaths._draining()) == []
