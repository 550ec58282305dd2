"""What is spent and what fits, by hand: limits, earlier drivers, unknown rates."""

from __future__ import annotations

from typing import Any

import pytest

from jobs.config import CostConfig
from jobs.planning.spending import budget_facts, budget_text, limits_of, planned_budget, require_fit, spent_before
from jobs.scheduling.budget import Spent
from jobs.state.accounting import Work
from workers.errors import UsageError

SPENT = Spent(tokens=1000.4, seconds=1800)
BOTH = CostConfig(gpu_hour_usd=3.0, max_usd=4.0, max_tokens=5000)


def test_dollars_are_replica_hours_at_their_price() -> None:
    limits = limits_of(BOTH)
    assert limits is not None
    assert limits.seconds == pytest.approx(4800)  # 4 USD of 3 an hour
    assert budget_facts(BOTH, SPENT) == {"max_tokens": 5000, "spent_tokens": 1000, "max_usd": 4.0, "spent_usd": 1.5}
    assert budget_text(budget_facts(BOTH, SPENT)) == "1,000 of 5,000 tokens, 1.5 of 4 USD spent"
    assert limits_of(CostConfig(gpu_hour_usd=3.0)) is None
    assert budget_facts(CostConfig(gpu_hour_usd=3.0), SPENT) == {}


def test_a_killed_drivers_committed_shards_count_although_its_last_status_is_late() -> None:
    assert spent_before(700, Work(tokens=500, replica_seconds=9.0)) == Spent(700, 9.0)
    assert spent_before(700, Work(tokens=800, replica_seconds=9.0)) == Spent(800, 9.0), "failed attempts were spent too"


@pytest.mark.parametrize(
    ("tokens", "usd", "fits"),
    [
        (3999, 2.5, True),
        (4001, 2.5, False),
        (3999, 2.6, False),
        (4001, None, False),
        (3999, None, None),
        (0, 0.0, True),
    ],
)
def test_what_is_left_fits_if_it_fits_both_limits(tokens: int, usd: float | None, fits: bool | None) -> None:
    planned = planned_budget(BOTH, Spent(1000, 1800), tokens, usd)
    assert planned is not None
    assert planned["fits"] is fits


def test_a_run_that_has_nothing_left_fits_whatever_it_has_spent() -> None:
    planned = planned_budget(CostConfig(max_tokens=1), SPENT, 0, 0.0)
    assert planned is not None
    assert planned["fits"] is True
    assert planned_budget(CostConfig(), SPENT, 10, 1.0) is None


@pytest.mark.parametrize(
    ("cost", "usd", "told"),
    [
        (CostConfig(), 1.0, "--must-fit: nothing is limited; set cost.max_tokens, or cost.max_usd and cost.gpu_hour_usd"),
        (
            CostConfig(max_tokens=5000),
            None,
            "cost.max_tokens=5000: about 9,000 tokens are left to embed, with 1,000 of 5,000 tokens spent; raise the limit",
        ),
        (BOTH, 7.5, "cost.max_tokens=5000, cost.max_usd=4.0: about 9,000 tokens, 7.5 USD are left to embed"),
        (
            CostConfig(gpu_hour_usd=3.0, max_usd=4.0),
            None,
            "cost.max_usd=4: whether about 9,000 tokens fit is not known before a run on this output has measured a rate",
        ),
    ],
)
def test_what_does_not_fit_is_refused_when_asked(cost: CostConfig, usd: float | None, told: str) -> None:
    plan: dict[str, Any] = {"estimated_tokens": 9000, "cost_usd": usd, "budget": planned_budget(cost, SPENT, 9000, usd)}
    with pytest.raises(UsageError) as refused:
        require_fit(plan)
    assert told in str(refused.value)
    require_fit(plan | {"budget": {"fits": True}})
