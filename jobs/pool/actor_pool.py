"""Actors on Ray: start them, give them work, receive their results, stop them. What an actor is, its subclass says.

    execute(command)   carries out one command of the scheduler
    wait(timeout)      returns what happened as events

The pool decides nothing and retries nothing, and Ray neither (max_restarts=0, max_task_retries=0): an actor's death becomes
one Lost event with its cause, and jobs/scheduling/scheduler.py decides.

    jobs/pool/replica_pool.py   replicas with a model
    jobs/pool/vector_pool.py    actors that pass over vectors
"""

from __future__ import annotations

import contextlib
import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from itertools import takewhile
from typing import Any

import ray
from ray.exceptions import ActorUnavailableError, RayActorError, RayError

from jobs.pool.actor_deaths import disowned, lost
from jobs.pool.error_text import first_line, last_line, plain, refusal
from jobs.scheduling.messages import Command, Dispatch, Event, Finished, Lost, Ready, StartReplica, Stats, StopReplica
from workers.records.shard import Assignment

log = logging.getLogger("reembed")

NODE_ID = "node_id"  # key in the facts of a ready actor: Ray's id of its node

STATS_SECONDS = 2.0  # how often each replica is asked for its running totals …
STATS_A_SECOND = 25.0  # … where they are few: a call costs the driver 0.2 ms, so of a thousand each is asked every 40 s
# Asking Ray about n calls in flight costs about n microseconds. With thousands of calls, those that end within this time are
# collected together. No replica waits for it: each has its next shard already.
GATHER_SECONDS_A_CALL = 1e-4
GATHER_SECONDS = 0.25  # at most


class ActorPool(ABC):
    """Actors by number, and their calls in flight. Every actor has the methods `ready` and `stats`."""

    def __init__(self, actor_class: Any) -> None:
        """`actor_class`: as ray.remote(...).options(...) returns it."""
        self._actor_class = actor_class
        self._actors: dict[int, Any] = {}
        self._ready: set[int] = set()
        self._nodes: dict[int, str] = {}  # actor -> Ray's id of its node, once it is ready
        self._calls: dict[Any, tuple[str, int]] = {}  # ref of a call in flight -> (method, actor)
        self._stats_at: dict[int, float] = {}  # actor -> when its stats came, oldest first; not while it is asked

    @abstractmethod
    def _start(self, actor: Any, number: int) -> Any:
        """Calls `ready`; returns the call's reference."""

    @abstractmethod
    def _dispatch(self, actor: Any, assignment: Assignment) -> Any:
        """Calls the method that works on a shard; returns the call's reference."""

    def execute(self, command: Command) -> None:
        """Carry out one command of the scheduler; returns at once."""
        match command:
            case StartReplica(replica):
                if replica not in self._actors:  # it may have been started before
                    self._actors[replica] = self._actor_class.remote()
                self._calls[self._start(self._actors[replica], replica)] = ("ready", replica)
            case Dispatch(replica, assignment):
                self._calls[self._dispatch(self._actors[replica], assignment)] = ("shard", replica)
            case StopReplica(replica, reason):
                log.warning("stopping replica %d: %s", replica, reason)
                self._forget(replica)

    def wait(self, timeout: float) -> list[Event]:
        """The events since the last call; waits at most `timeout` seconds for the first one."""
        self._ask_for_stats()
        if not self._calls:
            time.sleep(timeout)
            return []
        refs = list(self._calls)
        done, _ = ray.wait(refs, num_returns=1, timeout=timeout, fetch_local=True)
        if done:
            time.sleep(min(len(refs) * GATHER_SECONDS_A_CALL, GATHER_SECONDS))
            done, _ = ray.wait(refs, num_returns=len(refs), timeout=0)
        # answers before deaths: the answer of a replica that died right after it must not be lost
        answers = sorted(((ref, _answer(ref)) for ref in done), key=lambda pair: isinstance(pair[1], RayError))
        return [event for ref, answer in answers for event in self._events_of(ref, answer)]

    def last_stats(self, timeout: float) -> list[Stats]:
        """Present totals of the ready replicas that answer within `timeout` seconds."""
        return [Stats(replica, answer) for replica, answer in self._ask_all("stats", timeout)]

    def close(self) -> None:
        """Kill every replica. Shards without a receipt are lost on purpose; a resumed run embeds them again."""
        for replica in list(self._actors):
            self._forget(replica)

    def _ask_all(self, method: str, timeout: float) -> list[tuple[int, Any]]:
        """(replica, answer) of the ready replicas that answer within `timeout` seconds, by number."""
        asked = {getattr(self._actors[replica], method).remote(): replica for replica in sorted(self._ready)}
        done, _ = ray.wait(list(asked), num_returns=len(asked), timeout=timeout) if asked else ([], [])
        answered = set(done)
        answers = [(replica, _answer(ref)) for ref, replica in asked.items() if ref in answered]
        return [(replica, answer) for replica, answer in answers if not isinstance(answer, RayError)]

    def _ask_for_stats(self) -> None:
        due = time.monotonic() - stats_seconds(len(self._ready))
        for replica in list(takewhile(lambda replica: self._stats_at[replica] <= due, self._stats_at)):
            del self._stats_at[replica]  # until its answer comes
            self._calls[self._actors[replica].stats.remote()] = ("stats", replica)

    def _events_of(self, ref: Any, answer: Any) -> Iterator[Event]:
        """The event that the end of a call stands for; none when its replica died in the same round."""
        if ref not in self._calls:
            return
        method, replica = self._calls.pop(ref)
        starting = replica not in self._ready
        match answer:
            case ActorUnavailableError():
                # whether the call still runs is unknown: killing the replica makes sure that it does not
                self._forget(replica)
                yield Lost(replica, f"unreachable: {first_line(answer)}", charged=False, starting=starting)
            case RayActorError():
                if fatal := disowned(answer):
                    raise fatal
                yield lost(replica, answer, self._nodes.get(replica), starting=starting)
                self._forget(replica)
            case RayError():
                self._forget(replica)
                reason = last_line(answer) if starting else f"{type(answer).__name__}: {last_line(answer)}"
                error = refusal(plain(answer)) if starting else None
                yield Lost(replica, reason, charged=True, starting=starting, error=error)
            case _ if method == "ready":
                self._ready.add(replica)
                self._stats_at[replica] = time.monotonic()
                self._nodes[replica] = answer.pop(NODE_ID)
                yield Ready(replica, answer)
            case _ if method == "stats":
                self._stats_at[replica] = time.monotonic()
                yield Stats(replica, answer)
            case _:
                yield Finished(replica, answer)

    def _forget(self, replica: int) -> None:
        actor = self._actors.pop(replica, None)
        self._ready.discard(replica)
        self._stats_at.pop(replica, None)
        self._nodes.pop(replica, None)
        self._calls = {ref: owed for ref, owed in self._calls.items() if owed[1] != replica}
        if actor is not None:
            with contextlib.suppress(RayError):  # it is gone already
                ray.kill(actor, no_restart=True)


def stats_seconds(replicas: int) -> float:
    """Seconds between two questions for one replica's totals, when there are so many replicas."""
    return max(STATS_SECONDS, replicas / STATS_A_SECOND)


def _answer(ref: Any) -> Any:
    """What a call returned, or the RayError that it ended with."""
    try:
        return ray.get(ref)
    except RayError as error:
        return error
