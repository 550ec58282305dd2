"""Who does which shard when, and who answers for a failure: a pure state machine.

Flow: the caller reports events (on_ready, on_receipt, on_failure, on_lost, on_progress, resize) as they happen, then asks
decide(now) for commands (StartReplica, StopReplica, Dispatch), carries them out in that order, and sleeps until the next
event or next_deadline(now). It ends when `finished` is true or `abort_reason` is set.

A shard is never in flight on two live replicas: it moves on only after its replica was lost or told to stop, and whatever
a replica that is gone still says is dropped.

Beside it: backlog (which shard waits), fleet (which replica lives), verdict (who answers for a failure).
Does not know: Ray, storage, text, the clock (`now` is the caller's monotonic seconds; one that runs backwards is held).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from jobs.scheduling.backlog import Backlog, History
from jobs.scheduling.blame import Judge
from jobs.scheduling.fleet import Fleet, Replica, Restarts
from jobs.scheduling.policy import Command, Dispatch, Policy, StartReplica, StopReplica
from workers.records.shard import Assignment, Blame, Failure, Receipt, Shard

__all__ = ["Command", "Dispatch", "Policy", "Scheduler", "StartReplica", "StopReplica"]


class Scheduler:
    """The state of one run. `shards`, in dispatch order and with distinct numbers, is kept by reference and only read."""

    def __init__(self, shards: Sequence[Shard], policy: Policy, replicas: int, first_epoch: int) -> None:
        self._policy = policy
        self._total = len(shards)
        self._target = replicas
        self._first_epoch = first_epoch
        self._backlog = Backlog(shards)
        self._fleet = Fleet(policy)
        self._restarts = Restarts(policy)
        self._judge = Judge(policy, self._backlog)
        self._outbox: list[Command] = []
        self._now = float("-inf")
        self._decided = float("-inf")  # when decide() was last asked
        self._last_progress: float | None = None  # None until the first decision: the run has not begun
        self.done = 0  # receipts
        self.attempts = 0  # dispatches

    @property
    def abort_reason(self) -> str | None:
        """Why the run was given up before its end, and what to look at; None: it was not."""
        return self._judge.abort_reason

    @property
    def quarantined(self) -> Mapping[int, str]:
        """Shard number -> why it was given up, in order of quarantine. A live view."""
        return MappingProxyType(self._judge.quarantined)

    @property
    def running(self) -> int:
        """Shards in flight."""
        return self._fleet.running

    @property
    def pending(self) -> int:
        """Shards that wait for a replica."""
        return self._remaining - self._fleet.running

    @property
    def replicas(self) -> Mapping[str, int]:
        """How many are wanted (no more than there are shards left), ready, and starting."""
        fleet = self._fleet
        return {"wanted": max(self._wanted, 0), "ready": fleet.ready_count, "starting": len(fleet.starting)}

    @property
    def finished(self) -> bool:
        """Every shard is done or quarantined."""
        return self._remaining == 0

    def next_deadline(self, now: float) -> float | None:
        """When (on the caller's clock, maybe already) decide() must be called without an event; None: the run is over."""
        if self._over:
            return None
        if self._last_progress is None:
            return now
        moments = [self._last_progress + self._policy.stall_seconds, self._restarts.not_before]
        moments += [*self._fleet.deadlines(), *self._backlog.deadlines()]
        # What was due at the last decision was dealt with by it, or waits for an event.
        return min((moment for moment in moments if moment > self._decided), default=now)

    def resize(self, target_replicas: int) -> None:
        """How many replicas are wanted from now on. Fewer: those still starting are given up; ready ones are kept."""
        self._target = target_replicas
        while len(self._fleet.live) > target_replicas and self._fleet.starting:
            newest = self._fleet.live[next(reversed(self._fleet.starting))]
            self._stop(newest, f"not wanted any more: the cluster now holds {target_replicas} replicas")

    def on_ready(self, replica: int, now: float) -> None:
        """The replica has loaded its model."""
        now = self._tick(now)
        known = self._fleet.live.get(replica)
        if known is not None and not known.ready:
            self._fleet.ready(known, now)
            self._restarts.succeeded(receipt=False)

    def on_progress(self, replica: int, tokens: int, now: float) -> None:
        """The replica's running total of tokens embedded; an increase anywhere shows that the run is not stalled."""
        now = self._tick(now)
        known = self._fleet.live.get(replica)
        if known is not None and tokens > known.tokens:
            known.tokens = tokens
            self._last_progress = now

    def on_receipt(self, replica: int, receipt: Receipt, now: float) -> bool:
        """A shard is done. False: the late word of an attempt that was given up, dropped; the shard runs elsewhere."""
        now = self._tick(now)
        known = self._fleet.live.get(replica)
        history = known.in_flight.get(receipt.shard) if known else None
        # An adopted part may carry the epoch of the attempt that wrote it.
        if known is None or history is None or not (receipt.adopted or receipt.epoch == history.epoch):
            return False
        self._fleet.release(known, history, now)
        self._restarts.succeeded(receipt=True)
        known.failures = 0
        self._last_progress = now
        self.done += 1
        return True

    def on_failure(self, replica: int, failure: Failure, now: float) -> bool:
        """An attempt ended without a receipt. False: a late word, dropped."""
        now = self._tick(now)
        known = self._fleet.live.get(replica)
        history = known.in_flight.get(failure.shard) if known else None
        if known is None or history is None or history.epoch != failure.epoch:
            return False
        self._judge.last_trouble = f"shard {history.shard.name} on replica {replica}: {failure.reason}"
        if failure.blame is Blame.REPLICA:
            self._restarts.set_back(now)
            self._judge.died(self._stop(known, failure.reason), replica, failure.reason, now)
            return True
        self._fleet.release(known, history, now)
        # A replica that fails everything at once is always free and would draw all the work: it rests, longer each time.
        # Not for objects: a shard may hold many bad ones, and each needs its two failures.
        known.failures += failure.blame is not Blame.OBJECT
        if known.failures > 1:
            self._fleet.rest(known, now, self._policy.backoff(known.failures - 1))
        self._judge.failed(history, replica, failure, now)
        return True

    def on_lost(self, replica: int, reason: str, now: float, *, charged: bool = True, during_start: bool = False) -> None:
        """The replica's process is gone. charged=False: preemption or a lost node, nobody's fault."""
        now = self._tick(now)
        known = self._fleet.live.get(replica)
        if known is None:
            return
        flights = self._fleet.remove(known)
        self._judge.last_trouble = f"replica {replica} was lost: {reason}"
        if during_start or not known.ready:
            self._fail_start(reason, now, charged=charged)
            for history in flights:  # none, unless the caller contradicts itself; then they never ran
                self._backlog.put(history, now)
            return
        self._restarts.set_back(now)
        if charged:
            self._judge.died(flights, replica, f"replica {replica} died: {reason}", now)
        else:
            for history in flights:
                self._judge.interrupted(history, f"replica {replica} was lost: {reason}", now, delay=0.0)

    def decide(self, now: float) -> list[Command]:
        """What to do now. Report every event that is known first, lest a deadline strike what is done already."""
        self._decided = now = self._tick(now)
        if self._last_progress is None:
            self._last_progress = now
        if not self._over:
            self._enforce_deadlines(now, self._last_progress)
        if not self._over:
            self._backlog.wake(now)
            self._fleet.wake(now)
            self._dispatch(now)
            if now >= self._restarts.not_before and not (self._restarts.hopeless and self._fleet.starting):
                for _ in range(self._wanted - len(self._fleet.live)):
                    self._outbox.append(StartReplica(self._fleet.start(now)))
        commands, self._outbox = self._outbox, []
        return commands

    @property
    def _remaining(self) -> int:
        return self._total - self.done - len(self._judge.quarantined)

    @property
    def _over(self) -> bool:
        return self.finished or self.abort_reason is not None

    @property
    def _wanted(self) -> int:
        return min(self._target, self._remaining)  # a replica that would get nothing is not started

    def _tick(self, now: float) -> float:
        self._now = max(self._now, now)
        return self._now

    def _dispatch(self, now: float) -> None:
        for load in range(self._policy.slots):  # every replica gets its first shard before any gets a second
            empty = load == 0
            for replica in self._fleet.open(load) if self._backlog.waiting(empty=empty) else ():
                # No shard is fetched ahead that a replica still starting could have at once.
                if not self._backlog.waiting(empty=empty) or (not empty and self.pending <= len(self._fleet.starting)):
                    break
                if not empty and self._backlog.claim(replica.id, now, self._policy.suspect_seconds):
                    self._fleet.drain(replica, now)
                    continue
                history = self._backlog.take(replica.id, now, empty=empty)
                if history is not None:
                    self._assign(replica, history, now)
                elif empty and len(self._fleet.live) >= self._wanted > 0 and self._backlog.barred(self._fleet.live):
                    self._stop(replica, "replaced, to have a failed shard tried on another replica")

    def _assign(self, replica: Replica, history: History, now: float) -> None:
        history.epoch = self._first_epoch + self.attempts
        history.dispatches += 1
        self.attempts += 1
        self._fleet.assign(replica, history, now)
        assignment = Assignment(history.shard, history.epoch, history.dispatches, history.exclude, wary=history.suspect)
        self._outbox.append(Dispatch(replica.id, assignment))

    def _stop(self, replica: Replica, reason: str) -> list[History]:
        self._outbox.append(StopReplica(replica.id, reason))
        return self._fleet.remove(replica)

    def _fail_start(self, reason: str, now: float, *, charged: bool = True) -> None:
        self._restarts.failed(now, charged=charged, any_ready=self._fleet.ready_count > 0)
        if self._restarts.hopeless and not self._fleet.live:
            self._judge.cannot_start(self._restarts.failed_in_a_row, reason)

    def _enforce_deadlines(self, now: float, last_progress: float) -> None:
        policy = self._policy
        if now - last_progress >= policy.stall_seconds:
            fleet = f"{self._fleet.ready_count} replicas ready, {len(self._fleet.starting)} starting, {self._target} wanted"
            state = f"{fleet}; {self.running} shards in flight, {self.pending} waiting"
            self._judge.stalled(now - last_progress, state)
            return
        while late := self._fleet.late_start(now):
            self._stop(late, reason := f"not ready within {policy.ready_seconds:g} s (cluster.replica_ready_seconds)")
            self._judge.last_trouble = f"replica {late.id}: {reason}"
            self._fail_start(reason, now)
        while late := self._fleet.late_shard(now):
            reason = f"not finished within {policy.shard_seconds:g} s (run.shard_seconds)"
            guilty, *others = self._stop(late, f"shard {next(iter(late.in_flight.values())).shard.name} {reason}")
            self._judge.last_trouble = f"shard {guilty.shard.name} on replica {late.id}: {reason}"
            self._restarts.set_back(now)
            self._judge.died([guilty], late.id, reason, now)
            for history in others:  # they only waited for it
                self._backlog.put(history, now)
