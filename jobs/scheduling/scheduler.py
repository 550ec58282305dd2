"""The scheduler: which replica embeds which shard when. A pure state machine.

Flow: the caller reports events (on_ready, on_receipt, on_failure, on_lost, on_progress, resize) as they happen. It then
calls decide(now) for commands (StartReplica, StopReplica, Dispatch), carries them out in that order, and sleeps until the
next event or next_deadline(now). The run is over when `finished` is true or `abort_reason` is set.

A shard is never in flight on two live replicas: it moves only after its replica was lost or told to stop. Later messages
of that replica are ignored.

Parts: backlog (shards that wait), fleet (live replicas), blame (which failures are charged), policy (limits),
budget (whether one more shard may be begun).
Does not know: Ray, storage, text, or the clock. `now` is the caller's monotonic time in seconds; a `now` earlier than the
last one is replaced by the last one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Protocol

from jobs.scheduling.backlog import Backlog, History
from jobs.scheduling.blame import BlameAssigner
from jobs.scheduling.budget import NO_BUDGET, Budget
from jobs.scheduling.fleet import Fleet, Replica, Restarts
from jobs.scheduling.messages import Command, Dispatch, StartReplica, StopReplica
from jobs.scheduling.policy import Policy
from workers.records.shard import Assignment, Blame, Failure, Receipt, Shard


class Finish(Protocol):
    """What ends an attempt well: a Receipt, or the answer to a pass."""

    @property
    def shard(self) -> int: ...
    @property
    def epoch(self) -> int: ...
    @property
    def adopted(self) -> bool: ...


class Scheduler:
    """The state of one run. `shards`, in dispatch order and with distinct numbers, is kept by reference and only read."""

    def __init__(
        self,
        shards: Sequence[Shard],
        policy: Policy,
        replicas: int,
        first_epoch: int,
        budget: Budget = NO_BUDGET,
    ) -> None:
        self._policy = policy
        self._total = len(shards)
        self._target = replicas
        self._first_epoch = first_epoch
        self._backlog = Backlog(shards)
        self._fleet = Fleet(policy)
        self._restarts = Restarts(policy)
        self._blame = BlameAssigner(policy, self._backlog)
        self._budget = budget
        self._commands: list[Command] = []
        self._now = float("-inf")
        self._decided = float("-inf")  # when decide() was last called
        self._last_progress: float | None = None  # None until the first decision: the run has not begun
        self._homes: dict[int, int] = {}  # shard -> the replica that finished it last, in sticky rounds
        self._sticky = False
        self.done = 0  # receipts
        self.attempts = 0  # dispatches

    @property
    def abort_reason(self) -> str | None:
        """Why the run was aborted, and what to check; None: it was not."""
        return self._blame.abort_reason

    @property
    def quarantined(self) -> Mapping[int, str]:
        """Shard number -> why it was quarantined, in order of quarantine. A live view."""
        return MappingProxyType(self._blame.quarantined)

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
        moments.append(self._budget.exceeded_at(self._now))
        # What was due at the last decision was handled by it, or waits for an event.
        return min((moment for moment in moments if moment > self._decided), default=now)

    def resize(self, target_replicas: int) -> None:
        """How many replicas are wanted from now on. Fewer: replicas still starting are stopped, ready ones are kept."""
        self._target = target_replicas
        while len(self._fleet.live) > target_replicas and self._fleet.starting:
            newest = self._fleet.live[next(reversed(self._fleet.starting))]
            self._stop(newest, f"not wanted any more: the cluster now holds {target_replicas} replicas")

    def next_round(self, shards: Sequence[Shard], *, sticky: bool) -> None:
        """All of `shards` from the beginning, by the replicas that are there; the round before must be finished.

        `sticky`: they are shards of earlier rounds, and a replica takes those first that it had before.
        """
        if not self.finished or self._fleet.running:
            raise ValueError("the round before is not finished")
        homes = {number: replica for number, replica in self._homes.items() if replica in self._fleet.live}
        self._total, self.done = len(shards), 0
        self._backlog = Backlog(shards, homes if sticky else None)
        self._blame = BlameAssigner(self._policy, self._backlog)
        self._sticky = sticky
        self._last_progress = None

    def on_ready(self, replica: int, now: float) -> None:
        """The replica has loaded its model."""
        now = self._tick(now)
        sender = self._fleet.live.get(replica)
        if sender is not None and not sender.ready:
            self._fleet.ready(sender, now)
            self._restarts.succeeded(receipt=False)
            self._budget.ready(replica, now)

    def on_progress(self, replica: int, tokens: int, now: float, seconds: float = 0.0) -> None:
        """The replica's running totals: tokens embedded, an increase of which anywhere shows that the run is not stalled,
        and seconds since it was ready, which are paid for."""
        now = self._tick(now)
        sender = self._fleet.live.get(replica)
        if sender is not None and tokens > sender.tokens:
            sender.tokens = tokens
            self._last_progress = now
        self._budget.report(replica, tokens, seconds, now)

    def on_receipt(self, replica: int, receipt: Finish, now: float) -> bool:
        """A shard is done. False: a late message of an abandoned attempt, ignored; the shard runs elsewhere."""
        now = self._tick(now)
        sender = self._fleet.live.get(replica)
        history = sender.in_flight.get(receipt.shard) if sender else None
        # An adopted part may carry the epoch of the attempt that wrote it.
        if sender is None or history is None or not (receipt.adopted or receipt.epoch == history.epoch):
            return False
        self._fleet.release(sender, history, now)
        embedded = receipt.tokens if isinstance(receipt, Receipt) and not receipt.adopted else None
        self._budget.ended(replica, receipt.shard, embedded, now)
        self._restarts.succeeded(receipt=True)
        sender.failures = sender.full_disks = 0
        self._last_progress = now
        self.done += 1
        if self._sticky:
            self._homes[receipt.shard] = replica
        return True

    def on_failure(self, replica: int, failure: Failure, now: float) -> bool:
        """An attempt ended without a receipt. False: a late message, ignored."""
        now = self._tick(now)
        sender = self._fleet.live.get(replica)
        history = sender.in_flight.get(failure.shard) if sender else None
        if sender is None or history is None or history.epoch != failure.epoch:
            return False
        self._blame.last_failure = f"shard {history.shard.name} on replica {replica}: {failure.reason}"
        if failure.blame is Blame.REPLICA:
            self._restarts.replica_lost(now)
            self._blame.replica_failed(self._stop(sender, failure.reason), replica, failure.reason, now)
            return True
        self._fleet.release(sender, history, now)
        self._budget.ended(replica, failure.shard, None, now)
        # A replica that fails every shard at once is always free and would take all the work, so it backs off, longer each
        # time. Failures that blame an object do not count: a shard may hold many bad objects, and each needs two failures.
        sender.failures += failure.blame is not Blame.OBJECT
        sender.full_disks += failure.blame is Blame.DISK
        if sender.failures > 1:
            self._fleet.back_off(sender, now, self._policy.backoff(sender.failures - 1))
        self._blame.attempt_failed(history, replica, failure, now)
        if failure.blame is Blame.DISK:
            self._blame.disks_full(self._fleet.full_disks, failure.reason)
        return True

    def on_lost(self, replica: int, reason: str, now: float, *, charged: bool = True, during_start: bool = False) -> None:
        """The replica's process is gone. charged=False: preemption or a lost node; it counts against no shard."""
        now = self._tick(now)
        sender = self._fleet.live.get(replica)
        if sender is None:
            return
        in_flight = self._fleet.remove(sender)
        self._backlog.abandon(replica)
        self._budget.removed(replica, now)
        self._blame.last_failure = f"replica {replica} was lost: {reason}"
        if during_start or not sender.ready:
            self._fail_start(reason, now, charged=charged)
            for history in in_flight:  # none, unless the caller contradicts itself; then they did not run
                self._backlog.put(history, now)
            return
        self._restarts.replica_lost(now)
        if charged:
            self._blame.replica_failed(in_flight, replica, f"replica {replica} died: {reason}", now)
        else:
            for history in in_flight:
                self._blame.attempt_interrupted(history, f"replica {replica} was lost: {reason}", now, delay=0.0)

    def decide(self, now: float) -> list[Command]:
        """What to do now. Report all events first, or a deadline may fire for finished work."""
        self._decided = now = self._tick(now)
        if self._last_progress is None:
            self._last_progress = now
        if not self._over:
            self._enforce_deadlines(now, self._last_progress)
        if not self._over and self._budget.exceeded_at(now) <= now:
            cause = f"{self.running} shards in flight are given up" if self.running else "no further shard fits"
            self._blame.budget_reached(self._budget.ended_by(now, cause))
        if not self._over:
            self._backlog.wake(now)
            self._fleet.wake(now)
            self._dispatch(now)
            starts = now >= self._restarts.not_before and not (self._restarts.exhausted and self._fleet.starting)
            if starts and not self._over:  # the budget may have ended it
                for _ in range(self._wanted - len(self._fleet.live)):
                    self._commands.append(StartReplica(self._fleet.start(now)))
        commands, self._commands = self._commands, []
        return commands

    @property
    def _remaining(self) -> int:
        return self._total - self.done - len(self._blame.quarantined)

    @property
    def _over(self) -> bool:
        return self.finished or self.abort_reason is not None

    @property
    def _wanted(self) -> int:
        # No replica is started that would get no shard. A budget that has refused one has work for those that are there.
        most = 1 if self._budget.refused else self._target
        return min(most, self._remaining)

    def _tick(self, now: float) -> float:
        self._now = max(self._now, now)
        return self._now

    def _dispatch(self, now: float) -> None:
        for load in range(self._policy.slots):  # every replica gets its first shard before any gets a second
            empty = load == 0
            for replica in self._fleet.open(load) if self._backlog.waiting(empty=empty) else ():
                # Shards that the replicas still starting could run at once are not prefetched.
                if not self._backlog.waiting(empty=empty) or (not empty and self.pending <= len(self._fleet.starting)):
                    break
                if not empty and self._backlog.reserve(replica.id, now, self._policy.suspect_seconds):
                    self._fleet.drain(replica, now)
                    continue
                history = self._backlog.take(replica.id, now, empty=empty)
                if history is not None:
                    if not self._grant(history, now):
                        return
                    self._assign(replica, history, now)
                elif empty and len(self._fleet.live) >= self._wanted > 0 and self._backlog.excluded_on_all(self._fleet.live):
                    self._stop(replica, "replaced, to have a failed shard tried on another replica")

    def _assign(self, replica: Replica, history: History, now: float) -> None:
        history.epoch = self._first_epoch + self.attempts
        history.dispatches += 1
        self.attempts += 1
        self._fleet.assign(replica, history, now)
        self._budget.given(replica.id, history.shard, now)
        assignment = Assignment(
            history.shard, history.epoch, history.dispatches, history.excluded_objects, suspect=history.suspect
        )
        self._commands.append(Dispatch(replica.id, assignment))

    def _stop(self, replica: Replica, reason: str) -> list[History]:
        self._commands.append(StopReplica(replica.id, reason))
        self._backlog.abandon(replica.id)
        self._budget.removed(replica.id, self._now)
        return self._fleet.remove(replica)

    def _fail_start(self, reason: str, now: float, *, charged: bool = True) -> None:
        self._restarts.start_failed(now, charged=charged, any_ready=self._fleet.ready_count > 0)
        if self._restarts.exhausted and not self._fleet.live:
            self._blame.starts_exhausted(self._restarts.failed_in_a_row, reason)

    def _enforce_deadlines(self, now: float, last_progress: float) -> None:
        policy = self._policy
        if now - last_progress >= policy.stall_seconds:
            fleet = f"{self._fleet.ready_count} replicas ready, {len(self._fleet.starting)} starting, {self._target} wanted"
            state = f"{fleet}; {self.running} shards in flight, {self.pending} waiting"
            self._blame.stalled(now - last_progress, state)
            return
        while overdue := self._fleet.overdue_start(now):
            self._stop(overdue, reason := f"not ready within {policy.ready_seconds:g} s (cluster.replica_ready_seconds)")
            self._blame.last_failure = f"replica {overdue.id}: {reason}"
            self._fail_start(reason, now)
        while overdue := self._fleet.overdue_shard(now):
            reason = f"not finished within {policy.shard_seconds:g} s (run.shard_seconds)"
            oldest, *queued = self._stop(overdue, f"shard {next(iter(overdue.in_flight.values())).shard.name} {reason}")
            self._blame.last_failure = f"shard {oldest.shard.name} on replica {overdue.id}: {reason}"
            self._restarts.replica_lost(now)
            self._blame.replica_failed([oldest], overdue.id, reason, now)
            for history in queued:  # they only waited for the oldest
                self._backlog.put(history, now)

    def _grant(self, history: History, now: float) -> bool:
        """Whether the budget has room for the shard. If not, it waits, and replicas with nothing to do are stopped."""
        if self._budget.grants(history.shard, now):
            return True
        self._backlog.put(history, now)
        for replica in [each for each in self._fleet.live.values() if not each.in_flight]:
            self._stop(replica, "no further shard fits the budget (cost.max_tokens, cost.max_usd)")
        if not self._fleet.running:
            self._blame.budget_reached(self._budget.ended_by(now, "no further shard fits"))
        return False
