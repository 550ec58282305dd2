"""Who answers for a failure. Each shard that comes back goes to the backlog again or into quarantine, or the run ends.

Whose fault it is decides:
    OBJECT    two replicas must agree, then the object is excluded and the shard goes on without it
    SHARD     charged; after `max_attempts`, made on two replicas, it is quarantined
    NOBODY    retried after a back-off; more than `max_uncharged` for one shard abort the run, which can be resumed
    a death   charged to the one shard in flight; of several nobody is charged: all are suspects and run alone from then
              on, so that an innocent does not pay for its neighbour
Does not know: which replica does what next, deadlines, commands.
"""

from __future__ import annotations

from jobs.scheduling.backlog import Backlog, History
from jobs.scheduling.policy import Policy
from workers.records.shard import Blame, Failure


class Judge:
    """Holds what was decided for good: the quarantined shards and the reason to abort."""

    def __init__(self, policy: Policy, backlog: Backlog) -> None:
        self._policy = policy
        self._backlog = backlog
        self.quarantined: dict[int, str] = {}
        self.abort_reason: str | None = None
        self.last_trouble = "none was reported"

    def failed(self, history: History, replica: int, failure: Failure, now: float) -> None:
        """An attempt ended with an exception, for which the replica is not to blame."""
        uri = failure.object_uri
        if failure.blame is Blame.NOBODY:
            self.interrupted(history, failure.reason, now, self._policy.backoff(history.uncharged + 1))
        elif failure.blame is Blame.OBJECT and uri is not None and history.may_blame(uri):
            history.blame(uri, replica, failure.reason, one_suffices=self._policy.max_attempts == 1)
            self._backlog.put(history, now)
        else:
            self._charge(history, replica, failure.reason, now)

    def died(self, flights: list[History], replica: int, reason: str, now: float) -> None:
        """A replica ended with these shards in flight, and one of them may be why."""
        for history in flights:
            history.suspect = True
            if len(flights) == 1:
                self._charge(history, replica, reason, now)
            else:
                self._backlog.put(history, now)

    def interrupted(self, history: History, reason: str, now: float, delay: float) -> None:
        """An attempt ended through nobody's fault; the shard runs again `delay` seconds from now."""
        history.uncharged += 1
        self._backlog.put(history, now, delay)
        if history.uncharged > self._policy.max_uncharged:
            self._abort(
                f"shard {history.shard.name} was interrupted {history.uncharged} times through no fault of its own, "
                f"last: {reason}; look at the storage, its credentials, and at preempted nodes"
            )

    def cannot_start(self, times: int, reason: str) -> None:
        """So many replicas in a row were lost before they were ready, and none is left."""
        self._abort(
            f"{times} replicas in a row failed to start and none is alive, last: {reason}; look at the model (name, "
            "revision, access), the device's driver and free memory, and whether the cluster has the resources of one "
            "replica (cluster.gpus_per_replica, cluster.cpus_per_replica)"
        )

    def stalled(self, seconds: float, state: str) -> None:
        """No receipt and no document for so long."""
        self._abort(
            f"no document was embedded anywhere for {seconds:.0f} s (run.stall_seconds): {state}; last trouble: "
            f"{self.last_trouble}; look at the replicas' logs, the storage, and whether the cluster has free GPUs"
        )

    def _charge(self, history: History, replica: int, reason: str, now: float) -> None:
        history.charged += 1
        history.failed_on.add(replica)
        if history.exhausted(self._policy.max_attempts):
            tried = ", ".join(map(str, sorted(history.failed_on)))
            self.quarantined[history.shard.number] = f"{reason} (failed attempts: {history.charged}, on replicas {tried})"
        else:
            self._backlog.put(history, now)

    def _abort(self, reason: str) -> None:
        self.abort_reason = self.abort_reason or reason  # the first stands
