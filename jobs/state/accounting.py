"""Accounting: rows in = rows out + quarantined + excluded ones, shard by shard; sums over receipts; the work spent.

Pure: shards and receipts in, figures out. Each function iterates over the receipts once, in order of shards, so that they
need not all be in memory as objects.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, fields

from workers.errors import RunAborted
from workers.records.shard import Receipt, ReplicaStats, Shard

ALTERED = "this is a defect, or its receipt was altered"
COUNTS = tuple(item.name for item in fields(Receipt) if item.type == "int" and item.name not in ("shard", "epoch"))
"""Every count of a receipt, by its field's type: a new one is summed, and known to the gate, without a line here."""


@dataclass(frozen=True, slots=True)
class Totals:
    """Sums over receipts. Seconds are replica seconds; bytes are of the data files."""

    shards: int = 0
    documents: int = 0
    rows_read: int = 0
    rows: int = 0
    quarantined_rows: int = 0
    tokens: int = 0
    padded_tokens: int = 0
    truncated: int = 0
    empty: int = 0
    duplicate_ids: int = 0
    clipped: int = 0
    adopted: int = 0
    carried: int = 0  # shards whose parts were copied from an earlier snapshot
    carried_documents: int = 0
    reused_rows: int = 0
    repeated_rows: int = 0
    files: int = 0
    output_bytes: int = 0
    seconds: float = 0.0
    stage_seconds: dict[str, float] = field(default_factory=dict)
    lost_objects: tuple[str, ...] = ()
    excluded_rows: int = 0
    counts: Mapping[str, int] = field(default_factory=lambda: dict.fromkeys(COUNTS, 0))  # sums of COUNTS, by name


@dataclass(frozen=True, slots=True)
class Accounting:
    """rows_in == documents + known_quarantined_rows + excluded_rows, unless there are breaches.

    A breach is a sentence that names the shard. `unknown`: objects or shards whose number of quarantined rows is not known.
    """

    rows_in: int
    documents: int
    rows: int
    known_quarantined_rows: int
    unknown: tuple[str, ...]
    breaches: tuple[str, ...] = ()
    excluded_rows: int = 0  # by corpus.exclude

    @property
    def quarantined_rows(self) -> int | None:
        """None if the number is unknown, because an object or shard could not be read."""
        return None if self.unknown else self.known_quarantined_rows


@dataclass(frozen=True, slots=True)
class Work:
    """The work of a run's drivers, summed over restarts. The last seconds of a killed driver are missing."""

    sessions: int = 1
    attempts: int = 0  # dispatches of a shard to a replica
    documents_embedded: int = 0  # counted each time a replica processes one, whether its vector is computed or reused
    seconds: float = 0.0
    busy_seconds: float = 0.0
    replica_seconds: float = 0.0  # time replicas were ready, the basis of cost
    peak_memory_bytes: int = 0  # largest replica process
    tokens: int = 0  # embedded, committed or not; not known of drivers of earlier versions

    def plus(self, attempts: int, seconds: float, replicas: Iterable[ReplicaStats]) -> Work:
        """This work plus that of the present driver so far."""
        stats = list(replicas)
        return Work(
            sessions=self.sessions,
            attempts=self.attempts + attempts,
            documents_embedded=self.documents_embedded + sum(item.documents for item in stats),
            seconds=round(self.seconds + seconds, 3),
            busy_seconds=round(self.busy_seconds + sum(item.busy_seconds for item in stats), 3),
            replica_seconds=round(self.replica_seconds + sum(item.uptime_seconds for item in stats), 3),
            peak_memory_bytes=max([self.peak_memory_bytes, *(item.peak_memory_bytes for item in stats)]),
            tokens=self.tokens + sum(item.tokens for item in stats),
        )


def totals(receipts: Mapping[int, Receipt]) -> Totals:
    """Sums over all receipts."""
    sums = dict.fromkeys(COUNTS, 0)
    shards = adopted = carried = carried_documents = files = output_bytes = 0
    seconds = 0.0
    stages: dict[str, float] = {}
    lost: set[str] = set()
    for receipt in receipts.values():
        shards += 1
        for name in COUNTS:
            sums[name] += getattr(receipt, name)
        for stage, spent in receipt.stage_seconds.items():
            stages[stage] = stages.get(stage, 0.0) + spent
        adopted += receipt.adopted
        if receipt.carried_from is not None:
            carried += 1
            carried_documents += receipt.documents
        files += len(receipt.files)
        output_bytes += sum(file.bytes for file in receipt.files)
        seconds += receipt.seconds
        lost.update(receipt.lost_objects)
    return Totals(
        shards=shards,
        adopted=adopted,
        carried=carried,
        carried_documents=carried_documents,
        files=files,
        output_bytes=output_bytes,
        seconds=seconds,
        stage_seconds=stages,
        lost_objects=tuple(sorted(lost)),
        counts=sums,
        **{name: sums[name] for name in _NAMED},
    )


_NAMED = tuple(item.name for item in fields(Totals) if item.name in COUNTS)


def account(shards: Iterable[Shard], receipts: Mapping[int, Receipt], quarantined: Collection[int]) -> Accounting:
    """As audit(), but a breach is an error.

    Raises:
        RunAborted: names the shard and both figures.
    """
    accounting = audit(shards, receipts, quarantined)
    if accounting.breaches:
        raise RunAborted(f"{accounting.breaches[0]}; nothing is published; {ALTERED}: delete the receipt to embed it again")
    return accounting


def audit(shards: Iterable[Shard], receipts: Mapping[int, Receipt], quarantined: Collection[int]) -> Accounting:
    """Check that every row of every shard is embedded, quarantined or excluded, by the manifest's figures if it holds them.

    `quarantined`: numbers of quarantined shards; one that nevertheless has a receipt counts as done.

    Returns:
        Sums, and a breach for each shard whose figures do not add up.
    Raises:
        RunAborted: a shard is neither done nor quarantined.
    """
    rows_in = documents = rows = lost = excluded = 0
    unknown: list[str] = []
    breaches: list[str] = []
    numbers = set()
    for shard in shards:
        numbers.add(shard.number)
        receipt = receipts.get(shard.number)
        if receipt is not None:
            breaches += _breaches(shard, receipt)
            rows_in += receipt.rows_read
            documents += receipt.documents
            rows += receipt.rows
            lost += receipt.quarantined_rows
            excluded += receipt.excluded_rows
            unknown += receipt.lost_objects
        elif shard.number not in quarantined:
            raise RunAborted(f"shard {shard.number} has neither receipt nor quarantine; run the same command again")
        elif shard.rows is None:
            unknown.append(f"shard {shard.number}")
        else:
            rows_in += shard.rows
            lost += shard.rows
    strangers = sorted(set(receipts) - numbers)
    if strangers:
        breaches.append(f"receipts of shards {strangers[:5]} are not of this manifest; the run's folder was tampered with")
    return Accounting(rows_in, documents, rows, lost, tuple(unknown), tuple(breaches), excluded)


def _breaches(shard: Shard, receipt: Receipt) -> list[str]:
    name = f"shard {shard.number} ({shard.slices[0].uri}{' and others' if len(shard.slices) > 1 else ''})"
    found = []
    if shard.rows is not None and receipt.rows_read != shard.rows:
        found.append(f"{name}: the manifest has {shard.rows} rows, {receipt.rows_read} were read")
    accounted = receipt.documents + receipt.quarantined_rows + receipt.excluded_rows
    if receipt.rows_read != accounted:
        what = "embedded, quarantined or excluded" if receipt.excluded_rows else "embedded or quarantined"
        found.append(f"{name}: {receipt.rows_read} rows read, {accounted} {what}")
    in_files = sum(file.rows for file in receipt.files)
    if not receipt.documents <= receipt.rows == in_files:
        found.append(f"{name}: {receipt.documents} documents gave {receipt.rows} rows, the files hold {in_files}")
    return found
