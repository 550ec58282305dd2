"""Clocks that are twenty minutes off: a store's refusal is named, and no order rests on them.

The driver and its replicas run with a shifted clock (tests/faults/bent); monotonic clocks are not shifted.
"""

from __future__ import annotations

import pytest

from tests.drivers import embed
from tests.faults.campaign import BENT
from tests.faults.conftest import LONG
from tests.faults.scene import Place
from tests.faults.script import SHIFT_SECONDS
from tests.sessions import ROOT

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(900)]


def shifted(seconds: int) -> dict[str, str]:
    return {"REEMBED_CLOCK_SHIFT": str(seconds), "PYTHONPATH": f"{BENT}:{ROOT}"}


@pytest.mark.s3
@pytest.mark.parametrize("seconds", [SHIFT_SECONDS, pytest.param(-SHIFT_SECONDS, marks=LONG)])
def test_the_store_refuses_and_is_quoted(seconds: int, s3_place: Place) -> None:
    """By a real server, which looks at the time that a request is signed for. Nothing is begun."""
    run = f"skew{seconds}"
    config = s3_place.configure(run)
    s3_place.calm(1)
    ended = embed(config, env=s3_place.environment | shifted(seconds))
    assert ended.rc == 2, ended.log
    assert "the server refuses this machine's clock (RequestTimeTooSkewed); set the clock (NTP)" in ended.log
    s3_place.fs.invalidate_cache()
    assert not s3_place.fs.exists(s3_place.output(run))
