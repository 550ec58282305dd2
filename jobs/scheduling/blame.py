"""Blame: which failures are charged to a shard. A failed shard is retried or quarantined, or the run is aborted.

By the failure's blame:
    OBJECT          once two replicas agree, the object is excluded and the shard runs without it
    SHARD           charged to the shard; after `max_attempts`, made on two replicas, it is quarantined
    NOBODY          not charged: retried after a back-off; more than `max_uncharged` of one shard abort the run
    DISK            not charged: another replica, maybe of another node, makes the next attempt, alone: a neighbour needs
                    room too. The run is aborted once `max_attempts` replicas met it with one shard, or all replicas did
    OUTPUT          the run is aborted: the attempt has tried for its whole budget, and no other would do better
    replica died    charged to the shard if it was the only one in flight. Otherwise none is charged: each shard in
                    flight becomes a suspect and runs alone from then on, which shows whether it is the cause
The budget (budget.py) aborts a run too. An aborted run can be resumed. Does not know: which replica does what next,
deadlines, commands.
"""

from __future__ import annotations

from jobs.scheduling.backlog import Backlog, History
from jobs.scheduling.policy import Policy
from workers.records.shard import Blame, Failure


class BlameAssigner:
    """Charges failures, returns shards to the backlog, and keeps the quarantined shards and the reason to abort."""

    def __init__(self, policy: Policy, backlog: Backlog) -> None:
        self._policy = policy
        self._backlog = backlog
        self.quarantined: dict[int, str] = {}  # shard number -> reason
        self.abort_reason: str | None = None
        self.last_failure = "none was reported"

    def attempt_failed(self, history: History, replica: int, failure: Failure, now: float) -> None:
        """An attempt ended with an exception that is not the replica's fault."""
        uri = failure.object_uri
        if failure.blame is Blame.OUTPUT:
            self._backlog.put(history, now)
            self._abort(failure.reason)
        elif failure.blame is Blame.DISK:
            history.no_room.add(replica)
            history.suspect = True
            self._backlog.put(history, now)
            if len(history.no_room) >= self._policy.max_attempts:
                self._abort(f"{failure.reason} (shard {history.shard.name} on {len(history.no_room)} replicas)")
        elif failure.blame is Blame.NOBODY:
            self.attempt_interrupted(history, failure.reason, now, self._policy.backoff(history.uncharged + 1))
        elif failure.blame is Blame.OBJECT and uri is not None and history.may_blame(uri):
            history.blame(uri, replica, failure.reason, one_suffices=self._policy.max_attempts == 1)
            self._backlog.put(history, now)
        else:
            self._charge(history, replica, failure.reason, now)

    def replica_failed(self, in_flight: list[History], replica: int, reason: str, now: float) -> None:
        """A replica ended with these shards in flight, and one of them may be the cause."""
        for history in in_flight:
            history.suspect = True
            if len(in_flight) == 1:
                self._charge(history, replica, reason, now)
            else:
                self._backlog.put(history, now)

    def attempt_interrupted(self, history: History, reason: str, now: float, delay: float) -> None:
        """An attempt was lost to preemption, a lost node or a storage error; it is retried `delay` seconds from now."""
        history.uncharged += 1
        self._backlog.put(history, now, delay)
        if history.uncharged > self._policy.max_uncharged:
            self._abort(
                f"shard {history.shard.name} was interrupted {history.uncharged} times through no fault of its own, "
                f"last: {reason}; look at the storage, its credentials, and at preempted nodes"
            )

    def disks_full(self, times: int, reason: str) -> None:
        """Every ready replica has met a full local disk since its last receipt, so many times in all; 0: not every one."""
        if times >= self._policy.max_attempts:
            self._abort(f"{reason} ({times} times in a row, on every replica)")

    def starts_exhausted(self, times: int, reason: str) -> None:
        """`times` replicas in a row were lost before they were ready, and no replica is left."""
        self._abort(
            f"{times} replicas in a row failed to start and none is alive, last: {reason}; look at the model (name, "
            "revision, access), the device's driver and free memory, and whether the cluster has the resources of one "
            "replica (cluster.gpus_per_replica, cluster.cpus_per_replica)"
        )

    def stalled(self, seconds: float, state: str) -> None:
        """No receipt arrived and no document was embedded for `seconds`."""
        self._abort(
            f"no document was embedded anywhere for {seconds:.0f} s (run.stall_seconds): {state}; last trouble: "
            f"{self.last_failure}; look at the replicas' logs, the storage, and whether the cluster has free GPUs"
        )

    def budget_reached(self, reason: str) -> None:
        """No further shard may be begun, or those in flight may not go on."""
        self._abort(reason)

    def _charge(self, history: History, replica: int, reason: str, now: float) -> None:
        history.charged += 1
        history.failed_on.add(replica)
        if history.exhausted(self._policy.max_attempts):
            tried = ", ".join(map(str, sorted(history.failed_on)))
            self.quarantined[history.shard.number] = f"{reason} (failed attempts: {history.charged}, on replicas {tried})"
        else:
            self._backlog.put(history, now)

    def _abort(self, reason: str) -> None:
        self.abort_reason = self.abort_reason or reason  # the first reason is kept
