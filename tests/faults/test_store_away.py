"""The store refuses, hangs or hits a limit in the middle of a run: a clear end in bounded time, and then a resumed run.

Budgets for an absent store are a tenth of the real ones here (tests/faults/bent): those are 60 s a call and 180 s for the
lock. `REEMBED_FREEZE_SECONDS=30` freezes the server for as long as the promise says.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.drivers import Driver, Ended, committed
from tests.faults.campaign import BENT
from tests.faults.conftest import LONG
from tests.faults.oracle import Watch, judge, reader_of
from tests.faults.proxy import Wire
from tests.faults.scene import Place
from tests.faults.strikes import full
from tests.s3_server.ceph import CephServer
from tests.sessions import ROOT

pytestmark = [pytest.mark.ray, pytest.mark.slow]

FREEZE_SECONDS = float(os.environ.get("REEMBED_FREEZE_SECONDS", "6"))
HASTE = {"REEMBED_HASTE": "0.1", "PYTHONPATH": f"{BENT}:{ROOT}"}
BOUND_SECONDS = 240.0  # for an end with a tenth of the budgets, on a machine that does other things as well


@contextlib.contextmanager
def answered(place: Place, fault: Wire) -> Iterator[None]:
    """Every request, with nothing else."""
    assert place.proxy is not None
    place.proxy.rates = {fault: 1.0}
    try:
        yield
    finally:
        place.proxy.calm()


def expired(place: Place) -> contextlib.AbstractContextManager[None]:
    return answered(place, Wire.EXPIRED)


def failing(place: Place) -> contextlib.AbstractContextManager[None]:
    return answered(place, Wire.SLOW_DOWN)


@contextlib.contextmanager
def suspended(place: Place) -> Iterator[None]:
    server = _server(place)
    server.admin("user", "suspend", "--uid=test")
    try:
        yield
    finally:
        server.admin("user", "enable", "--uid=test")


@contextlib.contextmanager
def over_quota(place: Place) -> Iterator[None]:
    server = _server(place)
    server.admin("quota", "set", "--quota-scope=bucket", "--uid=test", "--max-objects=1")
    server.admin("quota", "enable", "--quota-scope=bucket", "--uid=test")
    try:
        yield
    finally:
        server.admin("quota", "disable", "--quota-scope=bucket", "--uid=test")


@contextlib.contextmanager
def frozen(place: Place) -> Iterator[None]:
    _server(place).freeze("osd")
    try:
        yield
    finally:
        _server(place).thaw("osd")
        deadline = time.monotonic() + BOUND_SECONDS  # what has piled up comes first
        while not _answers(place) and time.monotonic() < deadline:
            time.sleep(0.5)


@contextlib.contextmanager
def disk_full(place: Place) -> Iterator[None]:
    if not place.disk_is_ours:
        pytest.skip("no disk can be mounted here (root is needed)")
    with full(place.disk):
        yield


@contextlib.contextmanager
def removed(remove: Callable[[], None]) -> Iterator[None]:
    """For good."""
    remove()
    yield


def _answers(place: Place) -> bool:
    try:
        return bool(place.fs.call_s3("list_objects_v2", Bucket=place.root, MaxKeys=1))
    except OSError:
        return False


def _server(place: Place) -> CephServer:
    assert place.server is not None
    return place.server


def ended_while(place: Place, run: str, trouble: contextlib.AbstractContextManager[None]) -> tuple[Path, Ended, float]:
    """A run that meets `trouble` at its second receipt, which lasts until the run has ended; and after how many seconds."""
    place.prepare(run, 1)
    config = place.configure(run)
    fs = reader_of(place)

    def receipts() -> int:
        fs.invalidate_cache()
        return sum("/receipts/" in path for path in fs.find(f"{place.output(run)}/runs"))

    with Driver(config, env=place.environment | HASTE) as driver:
        driver.until(lambda: receipts() >= 2)
        began = time.monotonic()
        with trouble:
            ended = driver.end(BOUND_SECONDS * 2)
        seconds = time.monotonic() - began
        assert driver.family_gone() == []
    print(f"{run}: exit {ended.rc} after {seconds:.0f} s: {ended.log.splitlines()[-1]}")
    return config, ended, seconds


def resumed(place: Place, run: str, config: Path) -> dict[str, Any]:
    with Watch(place, run) as watch:
        with Driver(config, env=place.environment) as driver:
            ended = driver.end()
        assert ended.rc == 0, ended.log
        assert "resuming" in ended.log
        verdict = judge(place, run, 1, config, ended.summary, kills=0)
        watch.look()
    assert verdict.findings == []
    assert watch.invalid == []
    return ended.summary


@pytest.mark.s3
@pytest.mark.parametrize(
    ("run", "trouble", "words"),
    [
        # the server says UserSuspended, or AccessDenied to a request that it had begun before
        ("suspended", suspended, ["access denied", "check credentials"]),
        pytest.param("expired", expired, ["ExpiredToken", "renew them"], marks=LONG),
        pytest.param("all-fails", failing, ["SlowDown"], marks=LONG),
        pytest.param("quota", over_quota, ["QuotaExceeded"], marks=LONG),
        pytest.param("frozen", frozen, [], marks=LONG),
    ],
)
def test_a_clear_end_in_time_and_then_resumed(
    run: str, trouble: Callable[[Place], contextlib.AbstractContextManager[None]], words: list[str], s3_place: Place
) -> None:
    config, ended, seconds = ended_while(s3_place, run, trouble(s3_place))
    assert ended.rc == 4, ended.log
    assert seconds < BOUND_SECONDS
    message = ended.log.splitlines()[-1]
    for word in words:
        assert word in message, ended.log
    assert "Traceback" not in ended.log
    resumed(s3_place, run, config)


@LONG
@pytest.mark.s3
def test_a_key_that_is_replaced(s3_place: Place) -> None:
    """Removed while the run works; the same command resumes with the new one."""
    server, old = _server(s3_place), _server(s3_place).environment()
    new = {"AWS_ACCESS_KEY_ID": "B" * 20, "AWS_SECRET_ACCESS_KEY": "b" * 40}

    def key(verb: str, keys: Mapping[str, str]) -> None:
        words = [f"--access-key={keys['AWS_ACCESS_KEY_ID']}"]
        words += [f"--secret-key={keys['AWS_SECRET_ACCESS_KEY']}"] if verb == "create" else []
        server.admin("key", verb, "--uid=test", "--key-type=s3", *words)

    key("create", new)
    try:
        config, ended, seconds = ended_while(s3_place, "replaced", removed(lambda: key("rm", old)))
        assert ended.rc == 4, ended.log
        assert seconds < BOUND_SECONDS
        assert "check credentials" in ended.log.splitlines()[-1], ended.log
        with Driver(config, env=s3_place.environment | new) as driver:
            after = driver.end()
    finally:
        key("create", old)
        key("rm", new)
    assert after.rc == 0, after.log
    assert "resuming" in after.log
    assert judge(s3_place, "replaced", 1, config, after.summary, kills=0).findings == []


@LONG
def test_the_disk_of_the_output_is_full(local_place: Place) -> None:
    config, ended, seconds = ended_while(local_place, "full", disk_full(local_place))
    assert ended.rc == 4, ended.log
    assert seconds < BOUND_SECONDS
    assert "No space left" in ended.log.splitlines()[-1]
    output = Path(local_place.output("full"))
    assert list(output.rglob("*.tmp")) == [], "no temporary file stays on a disk that is full"
    standing = committed(output)
    resumed(local_place, "full", config)
    assert standing.items() <= committed(output).items()


@LONG
@pytest.mark.s3
def test_a_frozen_store_is_waited_for(s3_place: Place) -> None:
    """Longer than clients wait for one answer, shorter than the budget of a call: nobody but the clock notices."""
    s3_place.prepare("thawed", 1)
    config = s3_place.configure("thawed")
    fs = reader_of(s3_place)
    with Driver(config, env=s3_place.environment) as driver:
        driver.until(lambda: [path for path in fs.find(f"{s3_place.output('thawed')}/runs") if "/receipts/" in path])
        with frozen(s3_place):
            time.sleep(FREEZE_SECONDS)
        ended = driver.end()
    assert ended.rc == 0, ended.log
    assert judge(s3_place, "thawed", 1, config, ended.summary, kills=0).findings == []
