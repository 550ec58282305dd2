"""What a run has spent and may spend: the limits of `cost` against receipts, the work of earlier drivers, and estimates.

    budget_of        for the scheduler: what one more shard needs, and whether it fits             (scheduling/budget.py)
    require_room     before replicas are started: nothing is started that nothing fits
    budget_facts     for the summary; planned_budget for `plan`, which also says whether what is left fits
    require_fit      for `plan --must-fit`

Tokens are those that replicas embedded, in failed attempts too; a killed driver's last seconds are missing, so committed
shards count at least what their receipts say. Costs are replica-seconds at cost.gpu_hour_usd, as in the summary.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

from jobs.config import CostConfig
from jobs.planning.run import Run
from jobs.scheduling.budget import LAST_SHARDS, NO_BUDGET, Budget, Limited, Limits, Spent
from jobs.state.accounting import Work
from jobs.state.stored_shards import text_bytes_of
from workers.errors import RunAborted, UsageError
from workers.records.shard import Receipt, Shard

HOUR = 3600.0


def limits_of(cost: CostConfig) -> Limits | None:
    """None: nothing is limited."""
    if cost.max_tokens is None and cost.max_usd is None:
        return None
    return Limits(cost.max_tokens, cost.max_usd, (cost.gpu_hour_usd or 0.0) / HOUR)


def spent_before(committed: int, work: Work) -> Spent:
    """By earlier drivers of the run, whose receipts hold `committed` tokens."""
    return Spent(max(work.tokens, committed), work.replica_seconds)


def budget_of(run: Run, receipts: Mapping[int, Receipt], work: Work) -> Budget:
    """`work`: of earlier drivers; `receipts`: of the shards that are done."""
    limits = limits_of(run.config.cost)
    if limits is None:
        return NO_BUDGET
    size, committed, embedded = text_bytes_of(run.shards), 0, 0
    last: deque[tuple[int, int]] = deque(maxlen=LAST_SHARDS)
    for receipt in receipts.values():
        if receipt.carried_from is None:
            committed, embedded = committed + receipt.tokens, embedded + size(receipt.shard)
            last.append((size(receipt.shard), receipt.tokens))
    predicted = run.record.extra.get("predicted", {})
    tokens_a_byte = _ratio(predicted.get("tokens"), predicted.get("text_bytes"))
    seconds_a_byte = _ratio(tokens_a_byte, predicted.get("tokens_per_second_per_replica"))
    seconds_a_byte = _ratio(work.replica_seconds, embedded) or seconds_a_byte
    budget = Limited(limits, spent_before(committed, work), tokens_a_byte, seconds_a_byte)
    for text_bytes, tokens in last:
        budget.learn(text_bytes, tokens)
    return budget


def budget_facts(cost: CostConfig, spent: Spent) -> dict[str, Any]:
    """`budget` of the summary: limits, and what is spent; {} where nothing is limited."""
    limits = limits_of(cost)
    if limits is None:
        return {}
    usd = round(spent.seconds * limits.usd_a_second, 4) if cost.gpu_hour_usd is not None else None
    return {"max_tokens": limits.tokens, "spent_tokens": round(spent.tokens), "max_usd": limits.usd, "spent_usd": usd}


def planned_budget(cost: CostConfig, spent: Spent, tokens: int, usd: float | None) -> dict[str, Any] | None:
    """`budget` of `plan`: the facts, and whether what is left fits, by estimate. None: nothing is limited.

    `usd`: what the tokens that are left cost; None: not known, because no run has measured a rate. Then so is `fits`.
    """
    facts = budget_facts(cost, spent)
    fits: list[bool | None] = []
    if tokens and cost.max_tokens is not None:
        fits.append(facts["spent_tokens"] + tokens <= cost.max_tokens)
    if tokens and cost.max_usd is not None:
        fits.append(None if usd is None else facts["spent_usd"] + usd <= cost.max_usd)
    return facts | {"fits": False if False in fits else None if None in fits else True} if facts else None


def budget_text(facts: Mapping[str, Any]) -> str:
    """The facts in words."""
    parts = []
    if facts["max_tokens"] is not None:
        parts.append(f"{facts['spent_tokens']:,} of {facts['max_tokens']:,} tokens")
    if facts["max_usd"] is not None:
        parts.append(f"{facts['spent_usd']} of {facts['max_usd']:g} USD")
    return f"{', '.join(parts)} spent"


def require_fit(plan: Mapping[str, Any]) -> None:
    """Raises: UsageError: by estimate the planned run exceeds its budget, or nobody can tell."""
    facts = plan["budget"]
    if not facts:
        raise UsageError("--must-fit: nothing is limited; set cost.max_tokens, or cost.max_usd and cost.gpu_hour_usd")
    left = f"about {plan['estimated_tokens']:,} tokens"
    if facts["fits"] is None:
        raise UsageError(
            f"cost.max_usd={facts['max_usd']:g}: whether {left} fit is not known before a run on this output has measured a "
            "rate; set cost.max_tokens instead"
        )
    if not facts["fits"]:
        left += f", {plan['cost_usd']} USD" if plan["cost_usd"] is not None else ""
        limits = [f"cost.{name}={facts[name]}" for name in ("max_tokens", "max_usd") if facts[name] is not None]
        spent = budget_text(facts)
        mend = "raise the limit, or embed fewer texts"
        raise UsageError(f"{', '.join(limits)}: {left} are left to embed, with {spent}; {mend}")


def require_room(run: Run, todo: Sequence[Shard], receipts: Mapping[int, Receipt], work: Work) -> None:
    """Before replicas are started for `todo`. Raises: RunAborted: the first of these shards does not fit."""
    budget = budget_of(run, receipts, work)
    if not budget.grants(todo[0], 0.0):
        reason = budget.ended_by(0.0, "no further shard fits")
        raise RunAborted(f"{reason}; what is committed stays, run the same command again to resume")


def expected_excess(run: Run) -> str | None:
    """Which limits the run will reach before it is done, by what was predicted when it began; None: none."""
    cost, predicted = run.config.cost, run.record.extra.get("predicted", {})
    told = []
    for name, unit, need, limit in (
        ("cost.max_tokens", "tokens", predicted.get("tokens"), cost.max_tokens),
        ("cost.max_usd", "USD", predicted.get("cost_usd"), cost.max_usd),
    ):
        if need is not None and limit is not None and need > limit:
            told.append(f"about {need:,} {unit}, {name}={limit}")
    return "; ".join(told) or None


def _ratio(one: float | None, other: float | None) -> float | None:
    return one / other if one and other else None
