"""The policy of a run: retry limits, timeouts and back-off delays."""

from __future__ import annotations

from dataclasses import dataclass, fields

GPU_SLOTS = 3  # on a GPU a shard takes seconds: the parts of one are sent while the next is embedded and a third is read


@dataclass(frozen=True, slots=True)
class Policy:
    """Retry limits and timeouts. Times are in seconds. Raises: ValueError for a limit below 1."""

    max_attempts: int = 3  # charged attempts before a shard is quarantined; made on two replicas unless 1
    slots: int = 2  # shards in flight per replica: one is embedded while the next is read; see GPU_SLOTS
    ready_seconds: float = 900.0  # a replica that is not ready by then is stopped
    shard_seconds: float = 7200.0  # limit for a replica's oldest shard; beyond it the replica is stopped
    stall_seconds: float = 1800.0  # the run is aborted if no document was embedded anywhere for this time
    max_uncharged: int = 20  # uncharged failures of one shard (preemption, lost node, storage) before the run is aborted
    max_failed_starts: int = 3  # failed starts in a row, with no replica ready, before the run is aborted
    backoff_seconds: float = 1.0  # first delay of a restart or a transient retry; doubles each time …
    max_backoff_seconds: float = 60.0  # … up to this
    suspect_seconds: float = 60.0  # after suspects waited this long for an empty replica, one is drained for them

    def __post_init__(self) -> None:
        if min(self.max_attempts, self.slots, self.max_failed_starts) < 1:
            raise ValueError("policy: max_attempts, slots and max_failed_starts must be at least 1")

    @classmethod
    def of(cls, settings: object, **others: float) -> Policy:
        """Every limit that `settings` has under the same name; the rest are given, or stay as they are here.

        A limit that becomes a setting is declared here and in `run` (jobs/config.py), and needs no line in between.
        """
        same = {field.name: getattr(settings, field.name) for field in fields(cls) if hasattr(settings, field.name)}
        return cls(**same | others)

    def backoff(self, times: int) -> float:
        """Seconds to wait after `times` (1 or more) failures in a row."""
        return min(self.max_backoff_seconds, self.backoff_seconds * 2.0 ** min(times - 1, 60))
