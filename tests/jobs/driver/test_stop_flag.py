"""How long a driver has after a signal. Real signals to real drivers: tests/integration/test_signals.py."""

from __future__ import annotations

import pytest

from jobs.driver.signals import WAIT, StopFlag, grace_seconds
from workers.errors import UsageError


@pytest.mark.parametrize(("told", "seconds"), [(None, 2.5), ("", 2.5), ("3", 2.5), ("20", 19.5), ("1", 0.5), ("0", 0.5)])
def test_half_a_second_less_than_ray_waits(monkeypatch: pytest.MonkeyPatch, told: str | None, seconds: float) -> None:
    monkeypatch.delenv(WAIT, raising=False)
    if told is not None:
        monkeypatch.setenv(WAIT, told)
    assert grace_seconds() == seconds


@pytest.mark.parametrize("told", ["2.5", "-1", "soon"])
def test_what_ray_could_not_read_is_refused(monkeypatch: pytest.MonkeyPatch, told: str) -> None:
    monkeypatch.setenv(WAIT, told)
    with pytest.raises(UsageError, match=f"{WAIT}='{told}' in the environment: write whole seconds"):
        StopFlag()
