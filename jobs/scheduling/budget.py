"""The budget: what a run may spend, and whether one more shard fits. Pure: figures in, decisions out.

    spent       tokens embedded, committed or not, and seconds in which replicas were ready; earlier drivers' included
    promised    what the shards in flight still need, by estimate
    grants      spent + promised + this shard <= the limit

A shard's need is estimated from its bytes of text: the pooled rate of the last shards that were done, and the largest excess
of one of them over it. Before the first is done the caller's prediction counts; where there is none, a text is taken to
have at most one token a byte, and seconds are not estimated: the clock alone then ends the run.

A run therefore ends less than one shard's need below its limit. The scheduler tells what happens, in its own time.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field

from workers.records.shard import Shard

LAST_SHARDS = 32  # that rates are taken from
MARGIN = 1.05  # on tokens: the next shard may be denser than each of the last ones
MARGIN_OF_PREDICTION = 1.25  # a sample of a few shards stands for all
MOST_TOKENS_A_BYTE = 1.0  # where nothing is known
STOP_SECONDS = 1.0  # between the decision that the limit is reached and the end of the replicas


@dataclass(frozen=True, slots=True)
class Spent:
    """Tokens embedded, and seconds in which replicas were ready."""

    tokens: float = 0.0
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Limits:
    """What may be spent over all drivers of a run; None: no limit. With `usd` the price of a replica-second is above 0."""

    tokens: int | None = None
    usd: float | None = None
    usd_a_second: float = 0.0

    @property
    def seconds(self) -> float | None:
        """`usd` in replica-seconds."""
        return self.usd / self.usd_a_second if self.usd is not None else None

    def told(self, spent: Spent) -> str:
        """What is spent of each limit, as text."""
        parts = []
        if self.tokens is not None:
            parts.append(f"{spent.tokens:,.0f} tokens of cost.max_tokens={self.tokens}")
        if self.usd is not None:
            parts.append(f"{spent.seconds * self.usd_a_second:.4f} USD of cost.max_usd={self.usd:g}")
        return f"{' and '.join(parts)} spent"


class Rate:
    """What shards need of something, by their bytes of text."""

    def __init__(self, predicted: float | None, unknown: float) -> None:
        """`predicted`: of one byte. `unknown`: of one byte, where nothing was predicted."""
        self._first = unknown if predicted is None else predicted * MARGIN_OF_PREDICTION
        self._last: deque[tuple[float, float]] = deque(maxlen=LAST_SHARDS)
        self._of_byte = self._excess = 0.0

    def add(self, text_bytes: float, amount: float) -> None:
        """A shard of so many bytes needed that much."""
        self._last.append((max(text_bytes, 1.0), amount))
        self._of_byte = sum(needed for _, needed in self._last) / sum(size for size, _ in self._last)
        self._excess = max(needed - self._of_byte * size for size, needed in self._last)  # not negative, but for rounding

    def of(self, text_bytes: float, shards: int = 1) -> float:
        """What so many shards, of so many bytes together, will need."""
        if not self._last:
            return self._first * text_bytes
        return self._of_byte * text_bytes + shards * max(self._excess, 0.0)


@dataclass(slots=True)
class _Meter:
    """One ready replica."""

    told: float  # when it last reported
    since: float  # when the shard at the head of its queue began
    tokens: float = 0.0  # as it reported
    seconds: float = 0.0  # as it reported
    settled: float = 0.0  # tokens of its attempts that have ended
    queue: dict[int, int] = field(default_factory=dict)  # shard in flight -> bytes of text, the oldest first

    def uptime(self, now: float) -> float:
        return self.seconds + now - self.told


class Budget:
    """The budget of a run without limits: every shard fits. `now` and all other times are the scheduler's, in seconds."""

    refused = False
    """A shard did not fit at some time."""

    def ready(self, replica: int, now: float) -> None:
        """The replica takes shards from now on."""

    def report(self, replica: int, tokens: int, seconds: float, now: float) -> None:
        """The replica's running totals of tokens, and of seconds since it was ready."""

    def given(self, replica: int, shard: Shard, now: float) -> None:
        """The replica has been given a shard that was granted."""

    def ended(self, replica: int, shard: int, tokens: int | None, now: float) -> None:
        """An attempt has ended. `tokens`: embedded by it; None: it failed, or an earlier attempt had written the parts."""

    def removed(self, replica: int, now: float) -> None:
        """The replica is gone, or was told to go."""

    def grants(self, shard: Shard, now: float) -> bool:  # noqa: ARG002 - of a run without limits
        """Whether the shard fits beside what is spent and promised. If so it is promised."""
        return True

    def exceeded_at(self, now: float) -> float:  # noqa: ARG002
        """When the replicas must be stopped, if nothing happens before; infinity: not for the budget's sake."""
        return math.inf

    def told(self, now: float) -> str:  # noqa: ARG002
        """What is spent of each limit, as text."""
        return "nothing is limited"

    def ended_by(self, now: float, cause: str) -> str:
        """Why the run ends, and what to do."""
        return f"the budget allows no more: {self.told(now)}, and {cause}; raise that limit"


NO_BUDGET = Budget()


class Limited(Budget):
    """What one run has spent and may spend."""

    def __init__(
        self, limits: Limits, before: Spent, tokens_a_byte: float | None = None, seconds_a_byte: float | None = None
    ) -> None:
        """`before`: spent by earlier drivers. Tokens and replica-seconds a byte of text: as predicted; None: not known."""
        self.limits, self.refused = limits, False
        self._gone = before  # and by replicas that are gone
        self._meters: dict[int, _Meter] = {}
        self._tokens = Rate(tokens_a_byte, MOST_TOKENS_A_BYTE)
        self._seconds = Rate(seconds_a_byte, 0.0)
        self._room: tuple[float, Spent] | None = None  # when, and what was left then beside what is promised

    def learn(self, text_bytes: int, tokens: int) -> None:
        """An earlier driver has embedded a shard of so many bytes."""
        self._tokens.add(text_bytes, tokens)

    def ready(self, replica: int, now: float) -> None:
        """The replica takes shards from now on."""
        self._meters[replica] = _Meter(told=now, since=now)
        self._room = None

    def report(self, replica: int, tokens: int, seconds: float, now: float) -> None:
        """The replica's running totals of tokens, and of seconds since it was ready."""
        meter = self._meters.get(replica)
        if meter is not None:
            meter.tokens, meter.seconds, meter.told = tokens, max(seconds, meter.uptime(now)), now
            self._room = None

    def given(self, replica: int, shard: Shard, now: float) -> None:
        """The replica has been given a shard that was granted."""
        meter = self._meters[replica]
        meter.since = meter.since if meter.queue else now
        meter.queue[shard.number] = shard.text_bytes

    def ended(self, replica: int, shard: int, tokens: int | None, now: float) -> None:
        """An attempt has ended. `tokens`: embedded by it; None: it failed, or an earlier attempt had written the parts."""
        meter = self._meters[replica]
        text_bytes = meter.queue.pop(shard)
        if tokens is None:
            meter.settled = max(meter.settled, meter.tokens)
        else:
            meter.settled += tokens
            self._tokens.add(text_bytes, tokens)
            self._seconds.add(text_bytes, now - meter.since)
        meter.since = now
        self._room = None

    def removed(self, replica: int, now: float) -> None:
        """The replica is gone, or was told to go."""
        meter = self._meters.pop(replica, None)
        if meter is not None:
            tokens = max(meter.tokens, meter.settled)
            self._gone = Spent(self._gone.tokens + tokens, self._gone.seconds + meter.uptime(now))
            self._room = None

    def spent(self, now: float) -> Spent:
        """Until now, as far as replicas have told."""
        meters = self._meters.values()
        tokens = self._gone.tokens + sum(max(meter.tokens, meter.settled) for meter in meters)
        return Spent(tokens, self._gone.seconds + sum(meter.uptime(now) for meter in meters))

    def grants(self, shard: Shard, now: float) -> bool:
        """Whether the shard fits beside what is spent and promised. If so it is promised."""
        room = self._room[1] if self._room is not None and self._room[0] == now else self._left(now)
        tokens, seconds = MARGIN * self._tokens.of(shard.text_bytes), self._seconds.of(shard.text_bytes)
        granted = tokens <= room.tokens and seconds <= room.seconds
        self._room = now, Spent(room.tokens - tokens, room.seconds - seconds) if granted else room
        self.refused = self.refused or not granted
        return granted

    def exceeded_at(self, now: float) -> float:
        """When the replicas must be stopped, if nothing happens before; infinity: not for the budget's sake."""
        spent, limit = self.spent(now), self.limits.seconds
        if self.limits.tokens is not None and spent.tokens >= self.limits.tokens:
            return now
        if limit is None or not self._meters:
            return math.inf
        return max(now, now + (limit - spent.seconds) / len(self._meters) - STOP_SECONDS)

    def told(self, now: float) -> str:
        """What is spent of each limit, as text."""
        return self.limits.told(self.spent(now))

    def _left(self, now: float) -> Spent:
        tokens, promised = self._gone.tokens, 0.0
        for meter in self._meters.values():
            text_bytes, count = sum(meter.queue.values()), len(meter.queue)
            needed = MARGIN * self._tokens.of(text_bytes, count) if count else 0.0
            tokens += max(meter.tokens, meter.settled + needed)
            if count:  # of the first of them the time that it has taken is spent already
                promised += max(0.0, self._seconds.of(text_bytes, count) - (now - meter.since))
        limits, stop = self.limits, STOP_SECONDS * max(1, len(self._meters))
        return Spent(
            limits.tokens - tokens if limits.tokens is not None else math.inf,
            limits.seconds - self.spent(now).seconds - promised - stop if limits.seconds is not None else math.inf,
        )
