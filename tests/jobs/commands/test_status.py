"""`reembed status` while a driver starts: the lock tells of it before any run has begun."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from jobs.commands.status import run_status, status_text
from jobs.driver.claims import Claim, Claims, LockState
from jobs.driver.lock import DriverLock
from jobs.driver.process_identity import Identity
from tests.jobs.snapshot_samples import make_run, run_id
from workers.errors import UsageError
from workers.storage.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "out"), {})


def _claimed(store: Store, holder: Identity, state: LockState = LockState.HELD) -> None:
    Claims(store).create(1, Claim("token", holder, "2026-11-28T14:00:00+00:00", 3, state))


def test_before_the_first_run_has_begun(store: Store) -> None:
    with DriverLock(store):
        report = run_status(store.uri)
        mine = Identity.mine()
        assert (report["run_id"], report["state"], report["starting"]) == (None, "starting", True)
        assert report["driver"]["pid"] == mine.pid
        text = status_text(report)
        assert f"pid {mine.pid} of {mine.user} on {mine.host} starts: no replica is ready yet" in text
    with pytest.raises(UsageError, match="no run was ever begun there"):
        run_status(store.uri)


def test_a_driver_of_this_machine_that_was_killed_is_not_starting(store: Store) -> None:
    _claimed(store, replace(Identity.mine(), started="1"))
    with pytest.raises(UsageError, match="no run was ever begun there"):
        run_status(store.uri)


def test_a_driver_elsewhere_counts_until_it_releases(store: Store) -> None:
    _claimed(store, replace(Identity.mine(), host="elsewhere"))
    assert run_status(store.uri)["driver"]["host"] == "elsewhere"


def test_the_next_night(store: Store) -> None:
    """The run that ended is still the newest, and a driver is starting."""
    make_run(store, 1)
    report = run_status(store.uri)
    assert (report["run_id"], report["driver"], report["starting"]) == (run_id(1), None, False)
    assert "driver" not in status_text(report)
    with DriverLock(store):
        report = run_status(store.uri)
    assert (report["run_id"], report["state"], report["starting"]) == (run_id(1), "complete", True)
    assert "starts: no replica is ready yet" in status_text(report)
