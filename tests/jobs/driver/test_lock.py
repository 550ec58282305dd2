"""One driver in, the other refused: real processes race, freeze and die, on a folder and on a real S3 server."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from jobs.driver.lock import DriverLock
from jobs.driver.process_identity import Identity
from workers.errors import LockHeld, RunAborted, TransientError
from workers.storage.store import Store

ROOT = Path(__file__).resolve().parents[3]
BACKENDS = ["local", pytest.param("s3", marks=pytest.mark.s3)]
pytestmark = pytest.mark.alone
BEAT, TAKEOVER = 0.2, 1.6  # the real 3 s and 20 s, shortened

_DRIVER = """
import sys
from dataclasses import replace
from jobs.driver.process_identity import Identity
from jobs.driver.lock import DriverLock
from workers.errors import LockHeld
from workers.storage.store import Store
uri, host, beat, takeover = sys.argv[1:]
me = Identity.mine()
lock = DriverLock(Store(uri, {}), identity=replace(me, host=host or me.host), beat_seconds=float(beat),
                  takeover_seconds=float(takeover))
print("ready", flush=True); sys.stdin.readline()
try:
    lock.acquire()
except LockHeld as error:
    print(f"refused {error}", flush=True); sys.exit()
print(f"held {lock.generation}", flush=True)
for order in sys.stdin:
    if order == "release\\n":
        lock.release(); print("released", flush=True)
    elif order == "wait\\n":
        print(f"lost {lock.lost.wait(30)}", flush=True)
"""


class Driver:
    """A process that takes the lock when told to; `host` fakes where it runs."""

    def __init__(self, uri: str, host: str = "") -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", _DRIVER, uri, host, str(BEAT), str(TAKEOVER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        )

    def hear(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def say(self, order: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(order + "\n")
        self.process.stdin.flush()

    def end(self) -> None:
        self.process.kill()
        self.process.send_signal(signal.SIGCONT)
        self.process.communicate()


@pytest.fixture
def start() -> Iterator[Callable[..., Driver]]:
    drivers: list[Driver] = []

    def begin(uri: str, host: str = "") -> Driver:
        drivers.append(Driver(uri, host))
        return drivers[-1]

    yield begin
    for driver in drivers:
        driver.end()


@pytest.fixture(params=BACKENDS)
def uri(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "s3":
        return f"s3://{request.getfixturevalue('s3_bucket')}/{uuid.uuid4().hex[:8]}"
    return str(tmp_path / "out")


def _quick(store: Store, identity: Identity | None = None, read_back: float = 0.1) -> DriverLock:
    return DriverLock(store, identity=identity, beat_seconds=BEAT, takeover_seconds=TAKEOVER, read_back_seconds=read_back)


def _elsewhere(host: str = "elsewhere") -> Identity:
    return replace(Identity.mine(), host=host)


def _stored(store: Store, generation: int) -> dict[str, object]:
    return dict(json.loads(store.read(f"runs/lock/{generation:08d}.json")))


def test_of_eight_racing_processes_one_gets_in(uri: str, start: Callable[..., Driver]) -> None:
    drivers = [start(uri) for _ in range(8)]
    assert [driver.hear() for driver in drivers] == ["ready"] * 8
    began = time.monotonic()
    for driver in drivers:
        driver.say("go")
    answers = [driver.hear() for driver in drivers]
    assert time.monotonic() - began < 60
    assert sorted(answer.split()[0] for answer in answers) == ["held", *["refused"] * 7]
    winner = next(driver for driver, answer in zip(drivers, answers, strict=True) if answer.startswith("held"))
    for answer in answers:
        if answer.startswith("refused"):
            assert f"pid {winner.process.pid} of " in answer
            assert f"kill {winner.process.pid}" in answer
    winner.say("release")
    assert winner.hear() == "released"
    with _quick(Store(uri, {})) as lock:
        assert lock.generation > 1


def test_a_killed_holder_on_this_machine_is_followed_at_once(uri: str, start: Callable[..., Driver]) -> None:
    driver = start(uri)
    driver.hear()
    driver.say("go")
    assert driver.hear() == "held 1"
    os.kill(driver.process.pid, signal.SIGKILL)
    os.waitid(os.P_PID, driver.process.pid, os.WEXITED | os.WNOWAIT)  # dead, but not collected: it still has its pid
    began = time.monotonic()
    with DriverLock(Store(uri, {})) as lock:  # the real 20 s: it must not need them
        assert time.monotonic() - began < 15
        assert lock.generation == 2
        lock.check()


def test_a_frozen_holder_on_this_machine_is_never_followed(tmp_path: Path, start: Callable[..., Driver]) -> None:
    driver = start(str(tmp_path))
    driver.hear()
    driver.say("go")
    assert driver.hear() == "held 1"
    os.kill(driver.process.pid, signal.SIGSTOP)
    time.sleep(TAKEOVER)
    with pytest.raises(LockHeld, match=rf"stop it \(kill {driver.process.pid}\)"):
        DriverLock(Store(str(tmp_path), {})).acquire()  # at once: not after the real 20 s


def test_a_frozen_holder_elsewhere_is_followed_and_finds_out(uri: str, start: Callable[..., Driver]) -> None:
    driver = start(uri, "elsewhere")
    driver.hear()
    driver.say("go")
    assert driver.hear() == "held 1"
    store = Store(uri, {})
    with pytest.raises(LockHeld, match=rf"pid {driver.process.pid} .* on elsewhere .*stop it there or wait"):
        _quick(store).acquire()
    os.kill(driver.process.pid, signal.SIGSTOP)
    began = time.monotonic()
    with _quick(store) as lock:
        assert TAKEOVER <= time.monotonic() - began < TAKEOVER + 60
        assert lock.generation == 2
        driver.say("wait")
        os.kill(driver.process.pid, signal.SIGCONT)
        assert driver.hear() == "lost True"
        driver.say("release")
        assert driver.hear() == "released"
        lock.check()
        assert _stored(store, 2)["state"] == "held", "a fallen holder's release changes nothing"


def test_the_second_driver_changes_nothing(tmp_path: Path) -> None:
    store = Store(str(tmp_path), {})
    with _quick(store) as lock:
        before = store.list("")
        for refused in (_quick(store).refuse_if_held, _quick(store).acquire, _quick(store, _elsewhere()).acquire):
            with pytest.raises(LockHeld, match="works on this output; nothing was changed"):
                refused()
        assert store.list("").keys() == before.keys()
        lock.check()
    _quick(store).refuse_if_held()


def test_the_heartbeat_beats_and_release_is_final(tmp_path: Path) -> None:
    store = Store(str(tmp_path), {})
    lock = _quick(store)
    lock.acquire()
    lock.acquire()
    time.sleep(4 * BEAT)
    assert int(str(_stored(store, 1)["beat"])) >= 2
    lock.release()
    lock.release()
    assert _stored(store, 1)["state"] == "released"
    assert not lock.lost.is_set()
    with pytest.raises(RunAborted, match="does not hold"):
        lock.guard()
    beat = _stored(store, 1)["beat"]
    time.sleep(3 * BEAT)
    assert _stored(store, 1)["beat"] == beat


def test_generations_grow_and_old_ones_are_cleared(tmp_path: Path) -> None:
    store = Store(str(tmp_path), {})
    for generation in range(1, 6):
        with _quick(store) as lock:
            assert lock.generation == generation
    assert list(store.list("runs/lock")) == ["runs/lock/00000004.json", "runs/lock/00000005.json"]


def test_a_higher_generation_ends_the_holder(tmp_path: Path) -> None:
    store = Store(str(tmp_path), {})
    lock = _quick(store, _elsewhere())
    lock.acquire()
    store.put("runs/lock/00000002.json", store.read("runs/lock/00000001.json").replace(b"elsewhere", b"rival"))
    with pytest.raises(RunAborted, match=r"no longer holds.*taken over by .* on rival"):
        lock.check()
    for refuses in (lock.guard, lock.raise_if_lost):
        with pytest.raises(RunAborted, match="rival"):
            refuses()
    lock.release()
    assert b"released" not in store.read("runs/lock/00000001.json")


def test_a_latecomer_that_creates_a_used_up_generation_does_not_hold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Frozen between its look and its put; meanwhile generations 1 to 3 came, and 1 was cleared away."""
    store = Store(str(tmp_path), {})
    late = _quick(store)
    looks = iter([late._await_free()])
    monkeypatch.setattr(late, "_await_free", lambda: next(looks, None) or DriverLock._await_free(late))
    for _ in range(2):
        _quick(store).__enter__().release()
    with _quick(store) as holder:
        assert not store.exists("runs/lock/00000001.json")
        with pytest.raises(LockHeld):
            late.acquire()
        holder.check()
        assert holder.generation == 3


class _Away(Store):
    """A store that can be switched off."""

    away = False

    def _try(self, call: Callable[[], object], path: str) -> object:  # type: ignore[override]
        if self.away:
            raise TransientError(f"{path}: storage did not answer")
        return super()._try(call, path)


def test_a_store_that_is_away_for_a_while_costs_nobody_the_lock(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = _Away(str(tmp_path), {})
    with _quick(store) as lock:
        store.away = True
        time.sleep(TAKEOVER)
        with pytest.raises(TransientError):  # the holder is not known, so nothing may be written
            lock.guard()
        lock.raise_if_lost()
        store.away = False
        lock.guard()
        time.sleep(2 * BEAT)
        assert not lock.lost.is_set()
    assert "heartbeat of the lock failed, trying again" in caplog.text


def test_a_store_that_stays_away_ends_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = _Away(str(tmp_path), {})
    lock = DriverLock(store, beat_seconds=BEAT, takeover_seconds=TAKEOVER, give_up_seconds=0.8)
    lock.acquire()
    gone = threading.Event()
    monkeypatch.setattr(store, "_try", lambda call, path: gone.wait(120))  # hangs instead of failing
    assert lock.lost.wait(60)
    with pytest.raises(RunAborted, match="storage could not be reached for 1 s"):
        lock.raise_if_lost()
    gone.set()


def test_a_lost_acknowledgement_of_the_create_is_success(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(str(tmp_path), {})
    write, failed = store._write, []

    def applied_but_not_heard(path: str, data: bytes, *, create: bool) -> bool:
        done = write(path, data, create=create)
        if create and not failed:
            failed.append(path)
            raise ConnectionResetError("reset by peer")
        return done

    monkeypatch.setattr(store, "_write", applied_but_not_heard)
    with _quick(store) as lock:
        assert failed
        assert lock.generation == 1


def test_without_atomic_create_the_last_writer_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both find nothing and both write; after the wait, the driver whose token is stored holds the lock."""
    uri, both_looked = str(tmp_path), threading.Barrier(2)

    class Simple(Store):
        def put_if_absent(self, path: str, data: bytes) -> bool:
            with_others = not self.exists(path)
            if with_others:
                both_looked.wait(60)
                self.put(path, data)
            return with_others

    outcomes: list[DriverLock | LockHeld] = []

    def drive(host: str) -> None:
        store = Simple(uri, {})
        store.atomic_create = False
        lock = _quick(store, _elsewhere(host), read_back=0.5)
        try:
            lock.acquire()
            outcomes.append(lock)
        except LockHeld as error:
            outcomes.append(error)

    threads = [threading.Thread(target=drive, args=(host,)) for host in ("one", "two")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    holders = [item for item in outcomes if isinstance(item, DriverLock)]
    assert len(outcomes) == 2
    assert len(holders) == 1
    holders[0].check()
    holders[0].release()


def test_a_reused_pid_does_not_keep_the_lock(tmp_path: Path) -> None:
    store = Store(str(tmp_path), {})
    gone = _quick(store, replace(Identity.mine(), started="1"))  # this pid, but another process
    gone.acquire()
    gone._stop.set()
    with DriverLock(store) as lock:
        assert lock.generation == 2


def test_a_foreign_object_among_the_locks_is_named(tmp_path: Path) -> None:
    store = Store(str(tmp_path), {})
    store.put("runs/lock/00000001.json", b"{}")
    with pytest.raises(RunAborted, match=r"00000001\.json: not a lock of this program; delete it"):
        _quick(store).acquire()
