"""The figures of a run's report, computed from receipts, shards and summary. Pure: no storage, no clock, no drawing.

    gather_facts(...)        -> ReportFacts: everything that report.html shows
    ReportFacts.to_json()    a compact form, stored in summary.json under `report`

Nothing is estimated: figures that receipts of an earlier version lack (times, histograms) are left out; the report says so.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from jobs.report.timeline import Pause, Throughput, Timeline, WorkingTime, throughput, timeline
from jobs.state.quarantine_reasons import Reasons
from workers.records.shard import TOKEN_BINS, Receipt, Shard

STAGES = ("read", "tokenize", "encode", "wait", "write")
STARVING_SHARE = 0.05  # share of its time that the encoder may wait before `starving` names a stage


@dataclass(frozen=True, slots=True)
class RowOrigins:
    """Output rows by the origin of their vectors. `planned` and `quarantined` are source rows (each may give chunks)."""

    planned: int | None  # None: not known before the source is read
    carried: int  # in part files copied from the previous snapshot
    reused: int  # single vectors taken from the previous snapshot
    repeated: int  # text that occurs earlier in the same shard; embedded once
    embedded: int
    quarantined: int
    excluded: int = 0  # source rows left out by corpus.exclude


@dataclass(frozen=True, slots=True)
class Stages:
    """Replica seconds of each stage. Stages run concurrently, so shares are of the encoder's time (encode + wait = 1)."""

    seconds: dict[str, float]

    @property
    def encoder_seconds(self) -> float:
        return self.seconds.get("encode", 0.0) + self.seconds.get("wait", 0.0)

    @property
    def shares(self) -> dict[str, float]:
        whole = self.encoder_seconds
        return {name: seconds / whole if whole else 0.0 for name, seconds in self.seconds.items()}

    @property
    def starving(self) -> str | None:
        """The slowest stage before an encoder that waits too much; `shards` if it waited longer than these stages worked.

        None: the encoder hardly waits, so only more or faster devices help.
        """
        wait = self.shares.get("wait", 0.0)
        if wait <= STARVING_SHARE:
            return None
        before = {name: self.seconds.get(name, 0.0) for name in ("read", "tokenize")}
        slowest = max(before, key=lambda name: before[name])
        return slowest if sum(before.values()) >= self.seconds["wait"] else "shards"

    @property
    def sentence(self) -> str:
        if not self.encoder_seconds:
            return "No replica encoded anything."
        wait = self.shares.get("wait", 0.0)
        waited = f"The encoder waited for {wait:.1%} of its time"
        match self.starving:
            case None:
                return f"{waited}: it is the slowest stage, and nothing starves it."
            case "shards":
                return (
                    f"{waited}, longer than reading and tokenising took together: for its first shard, for the next one, or "
                    "at the end for others to finish. Larger corpora, or fewer replicas, wait less."
                )
            case stage:
                doing = {"read": "reading", "tokenize": "tokenising"}[stage]
                return f"{waited}: {doing} ({self.shares[stage]:.1%} of it) is the slowest stage before it and starves it."


@dataclass(frozen=True, slots=True)
class Lengths:
    """Documents by number of tokens: `documents[i]` have at most TOKEN_BINS[i], the last entry has more."""

    documents: tuple[int, ...]

    @property
    def counted(self) -> int:
        return sum(self.documents)

    @property
    def labels(self) -> tuple[str, ...]:
        lowest = [1, *(edge + 1 for edge in TOKEN_BINS[:-1])]
        return (*(f"{low:,} to {edge:,}" for low, edge in zip(lowest, TOKEN_BINS, strict=True)), f"over {TOKEN_BINS[-1]:,}")

    def to_json(self) -> list[dict[str, Any]]:
        return [
            {"most_tokens": edge, "documents": count}
            for edge, count in zip((*TOKEN_BINS, None), self.documents, strict=True)
        ]


@dataclass(frozen=True, slots=True)
class Forecast:
    """One figure as predicted at planning time, and its actual value; None: not known."""

    name: str
    predicted: float | None
    actual: float | None

    @property
    def ratio(self) -> float | None:
        return self.actual / self.predicted if self.predicted and self.actual is not None else None


@dataclass(frozen=True, slots=True)
class ReportFacts:
    origins: RowOrigins
    embedded_tokens: int
    tokens_per_second: float
    padding_share: float
    truncated_share: float
    stages: Stages
    lengths: Lengths
    throughput: Throughput | None
    timeline: Timeline
    pauses: tuple[Pause, ...]
    untimed_shards: int  # shards whose receipts do not hold the time at which they ended
    reasons: Reasons
    forecasts: tuple[Forecast, ...]

    def to_json(self) -> dict[str, Any]:
        return {
            "rows": asdict(self.origins),
            "embedded_tokens": self.embedded_tokens,
            "tokens_per_second": round(self.tokens_per_second, 1),
            "padding_share": round(self.padding_share, 4),
            "truncated_share": round(self.truncated_share, 4),
            "stages": {
                "seconds": {name: round(value, 3) for name, value in self.stages.seconds.items()},
                "shares_of_encoder_time": {name: round(value, 4) for name, value in self.stages.shares.items()},
                "starving": self.stages.starving,
                "sentence": self.stages.sentence,
            },
            "token_lengths": self.lengths.to_json(),
            "throughput": self.throughput.to_json() if self.throughput else None,
            "timeline": self.timeline.to_json(),
            "pauses": [{"at": round(pause.at, 3), "seconds": round(pause.seconds, 3)} for pause in self.pauses],
            "quarantine": self.reasons.to_json(),
            "forecasts": {item.name: {"predicted": item.predicted, "actual": item.actual} for item in self.forecasts},
        }


def gather_facts(
    *,
    shards: Sequence[Shard],
    receipts: Mapping[int, Receipt],
    summary: Mapping[str, Any],
    reasons: Reasons,
    predicted: Mapping[str, Any],
) -> ReportFacts:
    """`summary` is the run's (jobs/report/summary.py); `predicted` the estimate made at planning time."""
    sums = _Sums()
    work = WorkingTime.of(sums.adding(receipts.values()))
    tokens, padded = sums.tokens, sums.padded
    seconds = summary["seconds"]
    actual = {"tokens": tokens, "replica_hours": summary["replica_hours"], "cost_usd": summary["cost_usd"]}
    return ReportFacts(
        origins=_origins(shards, sums, summary["quarantined_rows"], summary.get("excluded_rows", 0)),
        embedded_tokens=tokens,
        tokens_per_second=tokens / seconds if seconds else 0.0,
        padding_share=(padded - tokens) / padded if padded > tokens else 0.0,
        truncated_share=sums.truncated / sums.documents if sums.documents else 0.0,
        stages=Stages(sums.stages),
        lengths=Lengths(tuple(sums.lengths)),
        throughput=throughput(work),
        timeline=timeline(work),
        pauses=work.pauses,
        untimed_shards=sums.made - len(work.ends),
        reasons=reasons,
        forecasts=tuple(Forecast(name, predicted.get(name), value) for name, value in actual.items()),
    )


@dataclass(slots=True)
class _Sums:
    """Sums over receipts. Copied parts, which no replica of this run made, are counted separately."""

    documents: int = 0
    truncated: int = 0
    carried_rows: int = 0
    made: int = 0  # receipts of replicas; the fields below are sums over these
    rows: int = 0
    tokens: int = 0
    padded: int = 0
    reused: int = 0
    repeated: int = 0
    stages: dict[str, float] = field(default_factory=lambda: dict.fromkeys(STAGES, 0.0))
    lengths: list[int] = field(default_factory=lambda: [0] * (len(TOKEN_BINS) + 1))  # of all receipts

    def adding(self, receipts: Iterable[Receipt]) -> Iterator[Receipt]:
        """Add each receipt and yield those of replicas, so that a million receipts are iterated once."""
        for receipt in receipts:
            self.documents += receipt.documents
            self.truncated += receipt.truncated
            for place, count in enumerate(receipt.token_histogram[: len(self.lengths)]):
                self.lengths[place] += count
            if receipt.carried_from is not None:
                self.carried_rows += receipt.rows
                continue
            self.made += 1
            self.rows += receipt.rows
            self.tokens += receipt.tokens
            self.padded += receipt.padded_tokens
            self.reused += receipt.reused_rows
            self.repeated += receipt.repeated_rows
            for name, value in receipt.stage_seconds.items():
                self.stages[name] = self.stages.get(name, 0.0) + value
            yield receipt


def _origins(shards: Sequence[Shard], sums: _Sums, quarantined: int, excluded: int) -> RowOrigins:
    planned: int | None = 0
    for shard in shards:
        rows = shard.rows
        if rows is None or planned is None:
            planned = None
            break
        planned += rows
    return RowOrigins(
        planned=planned,
        carried=sums.carried_rows,
        reused=sums.reused,
        repeated=sums.repeated,
        embedded=max(0, sums.rows - sums.reused - sums.repeated),
        quarantined=quarantined,
        excluded=excluded,
    )
