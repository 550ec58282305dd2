"""The checks of the publish gate, which a run must pass to become the published snapshot. Pure: facts in, checks out.

    accounting     rows in = rows out + rows quarantined, shard by shard
    quarantined    run.max_quarantined_rows
    kept           every kept column was in some row
    row_change     documents, against the last snapshot
    truncated      share of truncated documents, by itself and against the last snapshot
    empty          share of rows without text
    golden         golden texts, against their vectors in the last snapshot
    sample         unchanged texts embedded again, against their vectors in the last snapshot
    norms          vectors are finite, and their norms are as expected
    spread         vectors differ from each other
    columns        other columns of vectors agree with the one that they are made of
    mean_vector    against the last snapshot's
    model_change   the model and its use are the same as the last snapshot's, or the change is allowed

Every check is always listed. A check with nothing to compare with is `skipped`: it gives the reason and blocks nothing.
docs/gate.md describes the checks for users. Knows nothing of storage, Parquet or Ray: judge.py collects the facts.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from jobs.config import GateConfig
from jobs.publish.gate.figures import BESIDE, Comparison, Figures
from jobs.state.accounting import ALTERED, Accounting
from workers.config import VectorType
from workers.table.paths import RunPaths

AGAIN = "and run the same command again: nothing is embedded twice"
_SHOWN_BREACHES = 3
LEAST_VECTORS = 16  # of fewer, the same text in every row may be a trial
LEAST_AGREEMENT = {VectorType.FLOAT32: 0.999, VectorType.FLOAT16: 0.999, VectorType.INT8: 0.98, VectorType.BINARY: 0.9}


@dataclass(frozen=True, slots=True)
class GateCheck:
    """The result of one check. `measured` and `allowed` are figures of the same kind; `note` describes the measurement."""

    name: str
    ok: bool
    measured: float | int | str | None
    allowed: float | int | str | None
    note: str
    skipped: bool = False  # nothing to compare with; ok is True then
    setting: str = ""  # the limit as it is configured, `gate.max_empty=0.5`
    mend: str = ""  # what a person can do, if the check failed

    @property
    def reason(self) -> str:
        """Why the run is not published, in one line."""
        return f"{self.name}: {self.note}" + (f" ({self.setting})" if self.setting else "") + f"; {self.mend}"

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class GateFacts:
    """Everything that the checks read."""

    accounting: Accounting
    receipts: str  # URI of the folder
    quarantine: str  # URI of the folder
    now: Figures
    last: Figures | None
    alone: str  # why there is no last snapshot to compare with
    golden: Comparison
    probes: Comparison
    joined: Comparison
    absent: tuple[str, ...] = ()  # kept columns that no row had, and whose type corpus.schema does not state


def check_run(facts: GateFacts, gate: GateConfig, max_quarantined_rows: int) -> list[GateCheck]:
    """All checks, in the order above."""
    return [
        _accounting(facts),
        _quarantined(facts, max_quarantined_rows),
        _kept(facts),
        _row_change(facts, gate),
        _truncated(facts, gate),
        _empty(facts, gate),
        _golden(facts, gate),
        _sample(facts, gate),
        _norms(facts, gate),
        _spread(facts, gate),
        *_columns(facts),
        _mean_vector(facts, gate),
        _model_change(facts, gate),
    ]


def failed(checks: list[GateCheck]) -> list[GateCheck]:
    return [check for check in checks if not check.ok]


def _accounting(facts: GateFacts) -> GateCheck:
    accounting = facts.accounting
    breaches = accounting.breaches
    if not breaches:
        note = (
            f"{accounting.rows_in:,} rows read: {accounting.documents:,} documents, "
            f"{accounting.known_quarantined_rows:,} quarantined rows"
            + (f", {accounting.excluded_rows:,} rows left out by corpus.exclude" if accounting.excluded_rows else "")
        )
        return GateCheck("accounting", True, 0, 0, note)
    more = len(breaches) - _SHOWN_BREACHES
    note = "; ".join(breaches[:_SHOWN_BREACHES]) + (f"; and {more:,} more" if more > 0 else "")
    mend = (
        f"{ALTERED}: delete the receipt below {facts.receipts}, and the shard's parts, and run the same command again, "
        "which embeds that shard again"
    )
    return GateCheck("accounting", False, len(breaches), 0, note, mend=mend)


def _quarantined(facts: GateFacts, limit: int) -> GateCheck:
    lost, known = facts.accounting.quarantined_rows, facts.accounting.known_quarantined_rows
    if lost is None:
        note = f"an unknown number of rows ({facts.accounting.unknown[0]}) is quarantined"
    else:
        note = f"{lost:,} rows are quarantined"
    note += f", see {facts.quarantine}" if lost != 0 else ""
    mend = (
        "mend the source, which makes a new run, or raise the limit (-1: any) and run the same command again: of an "
        "unchanged source nothing is embedded twice"
    )
    ok = limit < 0 or (lost is not None and lost <= limit)
    return _check("quarantined", ok, known, limit, note, f"run.max_quarantined_rows={limit}", mend)


def _kept(facts: GateFacts) -> GateCheck:
    absent = facts.absent
    if not absent:
        return GateCheck("kept", True, 0, 0, "every kept column was in some row")
    note = "no row had " + ", ".join(f"`{name}`" for name in absent)
    mend = (
        f"correct corpus.keep; a column that will come says so in corpus.schema: {{{absent[0]}: string}}, or whatever type "
        "it has"
    )
    return GateCheck("kept", False, len(absent), 0, note, setting="corpus.keep", mend=mend)


def _row_change(facts: GateFacts, gate: GateConfig) -> GateCheck:
    if facts.last is None:
        return _skipped("row_change", facts.alone)
    now, last = facts.now.documents, facts.last.documents
    if last == 0:
        return _skipped("row_change", "the last snapshot is empty")
    change = abs(now - last) / last
    note = f"{now:,} documents, {last:,} in the last snapshot: {change:.1%} {'fewer' if now < last else 'more'}"
    mend = f"look at what corpus.uri names now, or raise the setting {AGAIN}"
    limit = gate.max_row_change
    return _check("row_change", change <= limit, _round(change), limit, note, f"gate.max_row_change={limit:g}", mend)


def _truncated(facts: GateFacts, gate: GateConfig) -> GateCheck:
    share, limit = facts.now.truncated_share or 0.0, gate.max_truncated
    note, setting = f"{share:.1%} of {facts.now.documents:,} documents lost tokens", f"gate.max_truncated={limit:g}"
    if facts.last is not None and (before := facts.last.truncated_share) is not None:
        step = gate.max_truncated_increase
        note += f", {before:.1%} in the last snapshot"
        if before + step < limit:
            limit, setting = before + step, f"gate.max_truncated_increase={step:g}"
    mend = f"look at the texts and at model.max_tokens and model.long_text, or raise the setting {AGAIN}"
    return _check("truncated", share <= limit, _round(share), _round(limit), note, setting, mend)


def _empty(facts: GateFacts, gate: GateConfig) -> GateCheck:
    share, limit = facts.now.empty_share, gate.max_empty
    note = f"{share:.1%} of {facts.now.rows_read:,} rows have no text"
    mend = f"look at the column that corpus.text names, or raise the setting {AGAIN}"
    return _check("empty", share <= limit, _round(share), limit, note, f"gate.max_empty={limit:g}", mend)


def _golden(facts: GateFacts, gate: GateConfig) -> GateCheck:
    if why := _apart(facts):
        return _skipped("golden", why)
    found, limit = facts.golden, gate.min_golden_cosine
    if found.least is None:
        return _skipped("golden", found.note)
    note = f"cosines of {found.least:.6f} and more between {found.count:,} vectors of golden texts and the last snapshot's"
    mend = (
        "the same model gives other vectors here: look at the replicas' devices, drivers and library versions, then "
        f"{_afresh(facts)}, or lower the setting {AGAIN}"
    )
    ok = found.least >= limit
    return _check("golden", ok, _round(found.least), limit, note, f"gate.min_golden_cosine={limit:g}", mend)


def _sample(facts: GateFacts, gate: GateConfig) -> GateCheck:
    if why := _apart(facts):
        return _skipped("sample", why)
    met = [item for item in (facts.probes, facts.joined) if item.least is not None]
    if not met:
        return _skipped("sample", facts.probes.note or facts.joined.note)
    least, limit = min(item.least for item in met if item.least is not None), gate.min_sample_cosine
    count = sum(item.count for item in met)
    note = f"cosines of {least:.6f} and more between {count:,} unchanged texts embedded now and in the last snapshot"
    mend = (
        "the same texts got other vectors: look at the replicas' devices, drivers and library versions, then "
        f"{_afresh(facts)}, or lower the setting {AGAIN}"
    )
    ok = least >= limit
    return _check("sample", ok, _round(least), limit, note, f"gate.min_sample_cosine={limit:g}", mend)


def _norms(facts: GateFacts, gate: GateConfig) -> GateCheck:
    now, limit = facts.now.vectors, gate.max_norm_change
    if now is None:
        return _skipped("norms", "no part holds a vector to look at")
    mend = f"look at the replicas and their devices, then {_afresh(facts)}"
    if now.not_finite:
        note = f"{now.not_finite:,} of {now.count:,} vectors looked at have NaN or Inf"
        return _check("norms", False, now.not_finite, 0, note, "", mend)
    last = None if _apart(facts) or facts.last is None else facts.last.vectors
    unit = facts.now.model.get("normalize") is True and facts.now.model.get("vector") != VectorType.BINARY
    expected, whose = (last.mean_length, "in the last snapshot") if last else (1.0, "is a unit vector's")
    if last is None and not unit:
        note = f"{now.count:,} vectors looked at are finite; no other length to compare theirs of {now.mean_length:.4f} with"
        return GateCheck("norms", True, None, None, note)
    change = abs(now.mean_length - expected) / expected if expected else 0.0
    note = f"{now.count:,} vectors looked at are {now.mean_length:.4f} long on average; {expected:.4f} {whose}"
    mend += f", or raise the setting {AGAIN}"
    return _check("norms", change <= limit, _round(change), limit, note, f"gate.max_norm_change={limit:g}", mend)


def _spread(facts: GateFacts, gate: GateConfig) -> GateCheck:
    """Needs no last snapshot: vectors that are all the same are wrong on the first night too."""
    now, limit = facts.now.vectors, gate.min_spread
    if now is None or now.pair_distance is None or now.count < LEAST_VECTORS:
        return _skipped("spread", f"fewer than {LEAST_VECTORS} vectors to compare with each other")
    if now.not_finite:
        return _skipped("spread", "vectors have NaN or Inf")
    texts = "" if now.texts is None else f", of {now.texts:,} different texts,"
    note = f"{now.count:,} vectors looked at{texts} have a mean cosine of {1 - now.pair_distance:.7f} to each other"
    why = (
        "all rows have the same text: look at the column that corpus.text names"
        if now.texts == 1
        else "the model gives nearly the same vector for every text: look at its weights, model.pooling and model.precision"
    )
    mend = f"{why}; or lower the setting {AGAIN}"
    ok = now.pair_distance >= limit
    return _check("spread", ok, _round(now.pair_distance, 9), limit, note, f"gate.min_spread={limit:g}", mend)


def _columns(facts: GateFacts) -> list[GateCheck]:
    """Only where there are several columns of vectors."""
    found = facts.now.agreement
    if not found:
        return []
    model = facts.now.model
    types = {column: str(model.get(BESIDE + column, model.get("vector"))).partition(" ")[0] for column in found}
    limits = {column: LEAST_AGREEMENT[VectorType(kind)] for column, kind in types.items()}
    worst = min(found, key=lambda column: found[column] - limits[column])
    least, limit = found[worst], limits[worst]
    note = ", ".join(f"{column} {cosine:.4f}" for column, cosine in sorted(found.items()))
    note = f"least cosines of other columns of vectors to the one that they are made of, over a sample: {note}"
    mend = f"look at the replicas and their devices, then {_afresh(facts)}"
    return [_check("columns", least >= limit, _round(least), limit, note, "", mend)]


def _mean_vector(facts: GateFacts, gate: GateConfig) -> GateCheck:
    if why := _apart(facts):
        return _skipped("mean_vector", why)
    now, last = facts.now.vectors, facts.last.vectors if facts.last else None
    if now is None or last is None or now.not_finite or last.not_finite:
        return _skipped("mean_vector", "no vectors to compare")
    cosine, limit = now.mean_cosine(last), gate.min_mean_cosine
    if cosine is None:
        return _skipped("mean_vector", f"the mean of {last.count:,} vectors of the last snapshot is about zero")
    note = f"cosine {cosine:.4f} between the means of {now.count:,} vectors and of {last.count:,} of the last snapshot"
    mend = f"another kind of text came in, or the vectors are wrong: search a few, or lower the setting {AGAIN}"
    return _check("mean_vector", cosine >= limit, _round(cosine), limit, note, f"gate.min_mean_cosine={limit:g}", mend)


def _model_change(facts: GateFacts, gate: GateConfig) -> GateCheck:
    if facts.last is None:
        return _skipped("model_change", facts.alone)
    changed = "; ".join(facts.now.changes(facts.last))
    allowed = gate.allow_model_change
    if not changed:
        return GateCheck("model_change", True, "none", "any" if allowed else "none", "the model and its use are the same")
    mend = (
        "vectors of the two cannot be compared, so every reader must change at once: give gate.allow_model_change=true "
        f"{AGAIN}; or take the change back"
    )
    setting = f"gate.allow_model_change={str(allowed).lower()}"
    return _check("model_change", allowed, changed, "any" if allowed else "none", changed, setting, mend)


def _apart(facts: GateFacts) -> str:
    """Why vectors cannot be compared with the last snapshot's; '' if they can."""
    if facts.last is None:
        return facts.alone
    return "the model, or its use, is not the last snapshot's" if facts.now.changes(facts.last) else ""


def _afresh(facts: GateFacts) -> str:
    """Advice to embed everything again. Existing parts would be adopted, so it includes deleting them."""
    paths = RunPaths(facts.now.run_id)
    return f"delete {paths.root} and {paths.data} and run the same command, which embeds everything again"


def _check(
    name: str, ok: bool, measured: float | str, allowed: float | str, note: str, setting: str, mend: str
) -> GateCheck:
    return GateCheck(name, ok, measured, allowed, note, setting=setting, mend="" if ok else mend)


def _skipped(name: str, why: str) -> GateCheck:
    return GateCheck(name, True, None, None, why, skipped=True)


def _round(figure: float, digits: int = 6) -> float:
    return round(figure, digits)
