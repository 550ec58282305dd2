"""Clocks that are twenty minutes off: a store's refusal is named, and no order rests on them.

The driver and its replicas run with a shifted clock (tests/faults/bent); monotonic clocks are not shifted.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs.commands.verify import verify_snapshot
from tests.drivers import Driver, Snapshot, embed, receipts
from tests.faults.campaign import BENT
from tests.faults.conftest import LONG, Calm
from tests.faults.scene import Place
from tests.faults.script import SHIFT_SECONDS
from tests.sessions import ROOT

pytestmark = [pytest.mark.ray, pytest.mark.slow]


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


@LONG
def test_a_night_after_one_with_a_clock_ahead(calm: Calm, tmp_path: Path) -> None:
    """The second night's run has an earlier name than the first's; killed and resumed, it is the snapshot all the same."""
    corpus, output = tmp_path / "corpus", tmp_path / "out"
    corpus.mkdir()
    for path in calm.corpus.iterdir():
        (corpus / path.name).write_bytes(path.read_bytes())
    last = sorted(corpus.iterdir())[-1]
    tail = last.read_text().splitlines(keepends=True)
    last.write_text("".join(tail[:-60]))
    config = calm.configure(tmp_path, corpus=corpus)
    first = embed(config, "run.reuse=off", env=shifted(SHIFT_SECONDS))
    assert first.rc == 0, first.log
    last.write_text("".join(tail))
    standing = len(receipts(output))
    with Driver(config, "run.reuse=off") as driver:
        driver.until(lambda: len(receipts(output)) > standing + 3)
        driver.kill()
    second = embed(config, "run.reuse=off", env=shifted(-SHIFT_SECONDS))
    assert second.rc == 0, second.log
    assert second.summary["run_id"] < first.summary["run_id"], "named by a clock that was set back"
    assert "resuming" in second.log
    assert Snapshot.read(second.summary["data"]).same_bits(calm.snapshot)
    assert verify_snapshot(str(config), 0)["findings"] == []
    again = embed(config, "run.reuse=off")
    assert (again.rc, again.summary["run_id"]) == (0, second.summary["run_id"]), "nothing to do"
    assert again.summary["unchanged"] is True
