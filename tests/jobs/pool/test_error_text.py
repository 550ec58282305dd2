"""What the driver makes of a replica that cannot start, or dies: one line, and whether the request itself is to blame."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("ray")
from ray.exceptions import RayTaskError

from jobs.pool import replica_pool
from jobs.pool.error_text import death, first_line, last_line, refusal
from jobs.pool.replica_shape import ReplicaShape
from jobs.scheduling.messages import Lost
from workers.errors import ReplicaError, StoreRefused, UsageError

TRACEBACK = (
    "\x1b[36mray::Replica.ready()\x1b[39m\nTraceback (most recent call last):\n  File x, line 1\nworkers.errors.{}: {}"
)


def heard(error: Exception, *, ready: bool) -> Lost:
    settings: Any = None  # only handed on, to a replica that is never started
    pool = replica_pool.ReplicaPool(ReplicaShape(1, 0.0, 1), settings)
    if ready:
        pool._calls["hello"] = ("ready", 0)
        list(pool._events_of("hello", {"pid": 1, "node_id": "a"}))
    pool._calls["call"] = ("ready", 0)
    text = TRACEBACK.format(type(error).__name__, error)
    (event,) = pool._events_of("call", RayTaskError("ready", text, error).as_instanceof_cause())
    assert isinstance(event, Lost)
    return event


@pytest.mark.parametrize("kind", [UsageError, StoreRefused])
def test_a_request_that_a_replica_refuses_is_told_as_such(kind: type[UsageError]) -> None:
    event = heard(kind("model.name=x: no such folder; correct it"), ready=False)
    assert (event.starting, event.charged) == (True, True)
    assert isinstance(event.error, UsageError)
    assert str(event.error) == "model.name=x: no such folder; correct it"
    assert event.reason.endswith(f"{kind.__name__}: model.name=x: no such folder; correct it")


def test_a_replica_that_cannot_load_is_lost_with_its_reason() -> None:
    event = heard(ReplicaError("gives 3 components here"), ready=False)
    assert (event.starting, event.error) == (True, None)
    assert event.reason == "workers.errors.ReplicaError: gives 3 components here"


def test_once_it_works_an_error_is_the_replicas() -> None:
    event = heard(UsageError("access denied"), ready=True)
    assert (event.starting, event.error) == (False, None)


def test_lines_of_a_story() -> None:
    story = "The actor died unexpectedly.\n\tclass_name: R\n\tactor_id: 7\nIt was killed.\nSome common causes include: x"
    assert death(story) == "It was killed; killed, out of memory, or crashed: the node's Ray and kernel logs tell"
    assert (first_line(ValueError("\n a \n b")), last_line(ValueError("a\n b \n\n"))) == ("a", "b")
    assert first_line(ValueError("")) == "ValueError"
    assert refusal("a\nb") is None
