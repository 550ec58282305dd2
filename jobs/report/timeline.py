"""The timeline of a run: throughput over time, and the shards that each replica embedded. Pure arithmetic on receipts.

    WorkingTime.of(receipts)   one interval for each shard; long pauses of the whole run are removed from the time axis
    throughput(work)           documents and tokens per second, in at most MAX_BINS bins
    timeline(work)             at most MAX_LANES replicas with at most MAX_BARS bars each, for any number of shards

A replica embeds one shard after another and reads the next one meanwhile. A shard's interval therefore begins when its
replica ended the previous shard, not when reading began. A shard's work is spread evenly over its interval. Times are from
the replicas' own clocks.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from workers.records.shard import Receipt

MAX_BINS = 200
MAX_LANES = 60
MAX_BARS = 400
SHORTEST_PAUSE_SECONDS = 60.0  # a pause is at least this long, and a tenth of the working time
SHORTEST_INTERVAL_SECONDS = 1e-3

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Pause:
    """No replica worked for `seconds`; `at` is the position on the axis of working time."""

    at: float
    seconds: float


@dataclass(frozen=True, slots=True)
class WorkingTime:
    """Intervals of work by replica, then time; seconds since the first began, without pauses. Arrays are [shards]."""

    replicas: tuple[str, ...]
    replica: NDArray[np.int64]  # index into `replicas`
    starts: Floats
    ends: Floats
    documents: Floats
    tokens: Floats
    began: float  # Unix seconds, UTC
    pauses: tuple[Pause, ...]

    @property
    def seconds(self) -> float:
        return float(self.ends.max()) if len(self.ends) else 0.0

    @classmethod
    def of(cls, receipts: Iterable[Receipt]) -> WorkingTime:
        """From the receipts that hold an end time; copied parts were not the work of a replica and are skipped."""
        seen: dict[str, int] = {}  # replica -> index, in order of first receipt
        indices, figures = array("q"), array("d")
        for item in receipts:
            if item.ended > 0 and item.carried_from is None:
                indices.append(seen.setdefault(item.replica, len(seen)))
                figures.extend((item.ended, item.seconds, item.documents, item.tokens))
        names = tuple(sorted(seen, key=_natural))
        rank = np.zeros(len(seen), np.int64)
        rank[[seen[name] for name in names]] = np.arange(len(names))
        replica = rank[np.array(indices, np.int64)]
        ends, seconds, documents, tokens = np.array(figures, np.float64).reshape(-1, 4).T
        order = np.lexsort((ends, replica))
        replica, ends = replica[order], ends[order]
        starts = ends - seconds[order]
        if len(ends):
            follows = replica[1:] == replica[:-1]
            starts[1:] = np.where(follows, np.maximum(starts[1:], ends[:-1]), starts[1:])
        starts = np.minimum(starts, ends - SHORTEST_INTERVAL_SECONDS)
        starts, ends, began, pauses = _without_pauses(starts, ends)
        return cls(
            replicas=names,
            replica=replica,
            starts=starts,
            ends=ends,
            documents=documents[order],
            tokens=tokens[order],
            began=began,
            pauses=pauses,
        )


@dataclass(frozen=True, slots=True)
class Throughput:
    """Mean rates over bins of equal length of the working time."""

    bin_seconds: float
    tokens_per_second: tuple[float, ...]
    documents_per_second: tuple[float, ...]

    def to_json(self) -> dict[str, Any]:
        return {
            "bin_seconds": round(self.bin_seconds, 3),
            "tokens_per_second": [round(value, 1) for value in self.tokens_per_second],
            "documents_per_second": [round(value, 2) for value in self.documents_per_second],
        }


@dataclass(frozen=True, slots=True)
class Bar:
    """One block of `shards` consecutive shards; start and end in seconds of working time."""

    start: float
    end: float
    shards: int


@dataclass(frozen=True, slots=True)
class Lane:
    replica: str
    shards: int
    busy_seconds: float
    bars: tuple[Bar, ...]


@dataclass(frozen=True, slots=True)
class Timeline:
    """`lanes` are a sample if there are fewer than `replicas`; bars hold several shards if `merged`."""

    seconds: float
    replicas: int
    shards: int
    lanes: tuple[Lane, ...]
    merged: bool

    @property
    def note(self) -> str:
        """States what is sampled or merged; empty if everything is drawn."""
        notes = []
        if len(self.lanes) < self.replicas:
            notes.append(f"a sample: {len(self.lanes)} of {self.replicas:,} replicas, evenly spread")
        if self.merged:
            notes.append("neighbouring shards are drawn as one block, so that all of them fit")
        return "; ".join(notes)

    def to_json(self) -> dict[str, Any]:
        lanes = [
            {"replica": lane.replica, "shards": lane.shards, "busy_seconds": round(lane.busy_seconds, 3)}
            for lane in self.lanes
        ]
        return {"seconds": round(self.seconds, 3), "replicas": self.replicas, "shards": self.shards, "lanes": lanes}


def throughput(work: WorkingTime) -> Throughput | None:
    """None when no receipt holds an end time."""
    if not len(work.ends):
        return None
    bins = min(MAX_BINS, 4 * len(work.ends))
    edges = np.linspace(0.0, work.seconds, bins + 1)
    width = work.seconds / bins

    def rates(amounts: Floats) -> tuple[float, ...]:
        done = _done_until(edges, work.starts, work.ends, amounts)
        return tuple(np.maximum(np.diff(done) / width, 0.0).tolist())

    return Throughput(width, rates(work.tokens), rates(work.documents))


def timeline(work: WorkingTime) -> Timeline:
    count = len(work.replicas)
    chosen = range(count) if count <= MAX_LANES else [at * count // MAX_LANES for at in range(MAX_LANES)]
    lanes = tuple(_lane(work, number) for number in chosen)
    merged = any(bar.shards > 1 for lane in lanes for bar in lane.bars)
    return Timeline(work.seconds, count, len(work.ends), lanes, merged)


def _lane(work: WorkingTime, number: int) -> Lane:
    first, last = np.searchsorted(work.replica, [number, number + 1])
    starts, ends = work.starts[first:last], work.ends[first:last]
    count = len(starts)
    # a bar ends where the replica was idle for a hundredth of the time; there are at most 100 such places
    breaks = np.flatnonzero(starts[1:] - ends[:-1] > work.seconds / 100) + 1
    size = 1 if count <= MAX_BARS else -(-count // (MAX_BARS - len(breaks) - 1))
    borders = [0, *breaks.tolist(), count]
    cuts = [at for begin, end in pairwise(borders) for at in range(begin, end, size)] + [count]
    bars = tuple(Bar(float(starts[begin]), float(ends[end - 1]), end - begin) for begin, end in pairwise(cuts))
    return Lane(work.replicas[number], count, float((ends - starts).sum()), bars)


def _done_until(edges: Floats, starts: Floats, ends: Floats, amounts: Floats) -> Floats:
    """[edges]: the amount done until each edge, with each amount spread evenly from its start to its end."""
    rates = amounts / (ends - starts)
    times = np.concatenate([starts, ends])
    order = np.argsort(times, kind="stable")
    times, speed = times[order], np.cumsum(np.concatenate([rates, -rates])[order])
    done = np.concatenate([[0.0], np.cumsum(speed[:-1] * np.diff(times))])
    return np.asarray(np.interp(edges, times, done), np.float64)


def _without_pauses(starts: Floats, ends: Floats) -> tuple[Floats, Floats, float, tuple[Pause, ...]]:
    """Both arrays on the axis of working time, the time at which it began (Unix seconds), and the pauses removed."""
    if not len(starts):
        return starts, ends, 0.0, ()
    began = float(starts.min())
    starts, ends = starts - began, ends - began
    order = np.argsort(starts, kind="stable")
    reached = np.maximum.accumulate(ends[order])
    gaps = np.maximum(starts[order][1:] - reached[:-1], 0.0)
    worked = reached[-1] - gaps.sum()
    long = np.flatnonzero(gaps > max(SHORTEST_PAUSE_SECONDS, worked / 10))
    resumed_at, lengths = starts[order][1:][long], gaps[long]
    cut = np.concatenate([[0.0], np.cumsum(lengths)])
    pauses = tuple(
        Pause(float(at - gone), float(length)) for at, gone, length in zip(resumed_at, cut[1:], lengths, strict=True)
    )
    # an interval lies between two pauses, so both its ends move by the same amount
    shift = cut[np.searchsorted(resumed_at, starts, side="right")]
    return starts - shift, ends - shift, began, pauses


def _natural(name: str) -> list[tuple[int, str]]:
    """Sort key that puts replica-2 before replica-10."""
    return [(int(piece), "") if piece.isdecimal() else (-1, piece) for piece in re.split(r"(\d+)", name)]
