"""Limits are taken from the settings of the same name; delays double up to a limit."""

from __future__ import annotations

from dataclasses import fields

import pytest

from jobs.config import RunSection
from jobs.scheduling.policy import Policy


def test_limits_come_from_the_settings_of_the_same_name() -> None:
    settings = RunSection(max_attempts=5, shard_seconds=11.0, stall_seconds=12.0)
    policy = Policy.of(settings, ready_seconds=13.0)
    assert (policy.max_attempts, policy.shard_seconds, policy.stall_seconds, policy.ready_seconds) == (5, 11.0, 12.0, 13.0)
    assert (policy.slots, policy.backoff_seconds) == (Policy().slots, Policy().backoff_seconds)


def test_which_limits_are_settings() -> None:
    """A setting that is renamed would otherwise stop to count, and say nothing."""
    shared = {field.name for field in fields(Policy)} & set(RunSection.model_fields)
    assert shared == {"max_attempts", "shard_seconds", "stall_seconds"}


@pytest.mark.parametrize("name", ["max_attempts", "slots", "max_failed_starts"])
def test_a_limit_below_one_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        Policy(**{name: 0})


def test_delays_double_up_to_the_limit() -> None:
    policy = Policy(backoff_seconds=2.0, max_backoff_seconds=30.0)
    assert [policy.backoff(times) for times in (1, 2, 3, 4, 5, 500)] == [2.0, 4.0, 8.0, 16.0, 30.0, 30.0]
