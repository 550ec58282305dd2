"""What befalls one run: drawn from (seed, number) alone, so that both say it again.

A run is a few starts of the same command, `Start`s, each with its strikes in order; then the command is started again,
undisturbed by strikes, until it exits 0. Faults on the wire last as long as their start.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import StrEnum

from tests.faults.proxy import Wire

SHIFT_SECONDS = 1200
WIRE_RATES = {Wire.SILENCE: 0.004, Wire.DRIP: 0.02, Wire.TRUNCATED: 0.04, Wire.FLIPPED: 0.05, Wire.LOST_ACK_RESET: 0.04,
              Wire.LOST_ACK_500: 0.04, Wire.ERROR_500: 0.03, Wire.SLOW_DOWN: 0.05, Wire.RESET: 0.03}  # fmt: skip


class Kind(StrEnum):
    """Everything but the wire."""

    DRIVER_KILLED = "driver_killed"  # its whole process group
    DRIVER_KILLED_ALONE = "driver_killed_alone"
    DRIVER_TERMINATED = "driver_terminated"  # SIGTERM
    DRIVER_INTERRUPTED = "driver_interrupted"  # SIGINT to the process group
    SECOND_DRIVER = "second_driver"
    REPLICA_KILLED = "replica_killed"
    REPLICA_FROZEN = "replica_frozen"
    RAYLET_KILLED = "raylet_killed"
    GCS_KILLED = "gcs_killed"
    NODE_LOST = "node_lost"  # of a cluster: its raylet and all else there
    SERVER_CRASHED = "server_crashed"
    SERVER_FROZEN = "server_frozen"
    KEY_SUSPENDED = "key_suspended"
    TOKEN_EXPIRED = "token_expired"
    DISK_FULL = "disk_full"
    CLOCK_OFF = "clock_off"


ENDING = (Kind.DRIVER_KILLED, Kind.DRIVER_KILLED_ALONE, Kind.DRIVER_TERMINATED, Kind.DRIVER_INTERRUPTED, Kind.RAYLET_KILLED,
          Kind.GCS_KILLED, Kind.KEY_SUSPENDED, Kind.TOKEN_EXPIRED)  # fmt: skip
PASSING = (Kind.SECOND_DRIVER, Kind.REPLICA_KILLED, Kind.REPLICA_FROZEN, Kind.SERVER_CRASHED, Kind.SERVER_FROZEN,
           Kind.DISK_FULL)  # fmt: skip
OF_THE_SERVER = (Kind.SERVER_CRASHED, Kind.SERVER_FROZEN, Kind.KEY_SUSPENDED, Kind.TOKEN_EXPIRED)
ALL_KINDS: tuple[Kind | Wire, ...] = (*Kind, *WIRE_RATES)


@dataclass(frozen=True)
class Strike:
    """`at`: `seconds` after the start, or after so many receipts, or after all of them (-1)."""

    kind: Kind
    receipts: int | None
    seconds: float
    lasts: float = 0.0
    which: str = ""  # daemon of the server
    number: int = 0  # replica

    def __str__(self) -> str:
        at = "" if self.receipts is None else "all receipts + " if self.receipts < 0 else f"{self.receipts} receipts + "
        lasts = f" for {self.lasts:.1f} s" if self.lasts else ""
        return f"{self.kind}{f' {self.which}' if self.which else ''} at {at}{self.seconds:.2f} s{lasts}"


@dataclass(frozen=True)
class Start:
    """One start of the command. `shift`: what the clocks of the driver and its replicas are off by, in seconds."""

    strikes: tuple[Strike, ...] = ()
    wire: Mapping[Wire, float] | None = None
    shift: int = 0

    def __str__(self) -> str:
        wire = [f"{fault} {rate:.1%}" for fault, rate in (self.wire or {}).items()]
        shift = [f"{Kind.CLOCK_OFF} {self.shift:+d} s"] if self.shift else []
        return "; ".join([*shift, *wire, *map(str, self.strikes)]) or "nothing"


@dataclass(frozen=True)
class Script:
    """`night`: 1 on an empty output, 2 on what an earlier night has published, with a corpus that has changed since."""

    seed: int | str
    number: int
    place: str
    night: int
    replicas: int
    cluster: bool
    starts: tuple[Start, ...]

    @property
    def name(self) -> str:
        return f"{self.seed}-{self.number}"


def draw(seed: int, number: int, shards: int, places: Collection[str], kinds: Collection[Kind | Wire]) -> Script:
    """The script of run `number`. `kinds`: what may happen; `shards`: how many receipts there will be, about."""
    chance = random.Random(f"{seed} {number}")
    place = sorted(places)[number % len(places)]
    cluster = Kind.NODE_LOST in kinds and place == "local" and chance.random() < 0.12
    allowed = {kind for kind in kinds if place == "s3" or (isinstance(kind, Kind) and kind not in OF_THE_SERVER)}
    starts = [_start(chance, allowed, shards, place, cluster) for _ in range(chance.choice((1, 1, 2)))]
    return Script(seed, number, place, chance.choice((1, 1, 2)), chance.choice((1, 2)), cluster, tuple(starts))


def _start(chance: random.Random, allowed: Collection[Kind | Wire], shards: int, place: str, cluster: bool) -> Start:
    wire = {fault: rate * chance.uniform(0.3, 2.0) for fault, rate in WIRE_RATES.items() if fault in allowed}
    few = dict(chance.sample(sorted(wire.items()), min(len(wire), 3))) if chance.random() < 0.8 else {}
    if Kind.CLOCK_OFF in allowed and chance.random() < 0.08:
        return Start(shift=chance.choice((-SHIFT_SECONDS, SHIFT_SECONDS)))
    if cluster:
        return Start((_strike(chance, Kind.NODE_LOST, shards),))
    passing = [kind for kind in PASSING if kind in allowed]
    # what only a server can suffer comes about half as often otherwise: only every other run has one
    weights = [2 if kind in OF_THE_SERVER else 1 for kind in passing]
    chosen = list(dict.fromkeys(chance.choices(passing, weights, k=chance.choice((0, 1, 1, 2))))) if passing else []
    ending = [kind for kind in ENDING if kind in allowed]
    idle = not chosen and not few  # something happens in every start
    if ending and (chance.random() < 0.6 or idle):
        chosen.append(chance.choice(ending))
    strikes = sorted((_strike(chance, kind, shards) for kind in chosen), key=lambda strike: _order(strike, shards))
    last = next((place for place, strike in enumerate(strikes) if strike.kind in ENDING), len(strikes))
    return Start(tuple(strikes[: last + 1]), few)


def _order(strike: Strike, shards: int) -> float:
    """Starting comes before all receipts."""
    return -1 / (1 + strike.seconds) if strike.receipts is None else strike.receipts % (shards + 1) + strike.seconds


def _strike(chance: random.Random, kind: Kind, shards: int) -> Strike:
    phase = chance.choice(("start", "work", "work", "end"))
    at_work = kind in (Kind.REPLICA_KILLED, Kind.REPLICA_FROZEN, Kind.NODE_LOST)  # there is no replica before
    lasts = chance.uniform(0.3, 3.0)
    which = chance.choice(("rgw", "rgw", "osd", "mon", "")) if kind is Kind.SERVER_CRASHED else ""
    which = chance.choice(("rgw", "osd")) if kind is Kind.SERVER_FROZEN else which
    long = kind in (Kind.REPLICA_FROZEN, Kind.SERVER_CRASHED, Kind.SERVER_FROZEN, Kind.DISK_FULL)
    if phase == "start" and not at_work:
        return Strike(kind, None, chance.uniform(0.2, 6.0), lasts if long else 0.0, which, chance.randrange(2))
    receipts = -1 if phase == "end" and not at_work else chance.randrange(0 if at_work else 1, max(2, shards * 3 // 4))
    pause = chance.uniform(0, 0.8 if receipts < 0 else 0.15)
    return Strike(kind, receipts, pause, lasts if long else 0.0, which, chance.randrange(2))
