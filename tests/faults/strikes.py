"""How each fault is done to a running command: wait for its moment, strike, and undo what has to be undone.

Everything here is real: signals, the server's own daemons, its user's suspension, a disk that is full. A strike whose moment
never came (the command was quicker) is not counted.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

from tests.drivers import Driver
from tests.faults.oracle import reader_of
from tests.faults.proxy import Wire
from tests.faults.scene import Place
from tests.faults.script import Kind, Strike
from tests.ray_nodes import RayNode
from tests.sessions import name_of

MOMENT_SECONDS = 300.0  # longest wait for a moment, and for an end that must come
_SIGNALS = {Kind.DRIVER_TERMINATED: signal.SIGTERM, Kind.DRIVER_INTERRUPTED: signal.SIGINT}


class Striker:
    """For one run. `injected` counts what was done; `findings` what went wrong while it was."""

    def __init__(self, place: Place, run: str, config: Path, earlier: int, shards: int, node: RayNode | None = None) -> None:
        """`earlier`: receipts that were there before the run; `shards`: how many of its own there will be."""
        self.injected: Counter[str] = Counter()
        self.findings: list[str] = []
        self.kills = 0
        self.node = node
        self._place, self._run, self._config = place, run, config
        self._earlier, self._shards = earlier, shards
        self._fs: Any = reader_of(place)

    def receipts(self) -> int:
        """On storage now, of this run; fewer than there are while the server is away."""
        try:
            self._fs.invalidate_cache()
            return (
                sum("/receipts/" in path for path in self._fs.find(f"{self._place.output(self._run)}/runs")) - self._earlier
            )
        except OSError:
            return 0

    def strike(self, driver: Driver, strike: Strike) -> None:
        """Wait for its moment, then do it."""
        if not self._moment(driver, strike):
            return
        kind, name = strike.kind, f"_{strike.kind}"
        done = self._signal(driver, kind) if kind in _SIGNALS else getattr(self, name)(driver, strike)
        if done:
            self.injected[str(kind)] += 1

    def _moment(self, driver: Driver, strike: Strike) -> bool:
        end = time.monotonic() + MOMENT_SECONDS
        if strike.receipts is not None:
            wanted = self._shards if strike.receipts < 0 else min(strike.receipts, self._shards - 1)
            while driver.running and self.receipts() < wanted and time.monotonic() < end:
                time.sleep(0.1 if self._place.server else 0.02)
        until = time.monotonic() + strike.seconds
        while driver.running and time.monotonic() < until:
            time.sleep(0.005)
        return driver.running and time.monotonic() < end

    def _signal(self, driver: Driver, kind: Kind) -> bool:
        """As `ray job stop` or Ctrl-C does; it must leave in time."""
        ended = driver.send(_SIGNALS[kind], group=kind is Kind.DRIVER_INTERRUPTED)
        if ended.rc not in (0, 4, 128 + _SIGNALS[kind], -_SIGNALS[kind]) and not ended.before_our_first_line:
            self.findings.append(f"{kind}: exit {ended.rc}")
        return True

    def _driver_killed(self, driver: Driver, strike: Strike) -> bool:
        self.kills += 3
        driver.kill()
        return True

    def _driver_killed_alone(self, driver: Driver, strike: Strike) -> bool:
        self.kills += 3
        driver.send(signal.SIGKILL)
        return True

    def _second_driver(self, driver: Driver, strike: Strike) -> bool:
        with Driver(self._config, env=self._place.environment) as second:
            ended = second.end()
        calm = not (self._place.proxy and self._place.proxy.rates)
        if calm and driver.running and (ended.rc != 4 or "works on this output" not in ended.stdout):
            self.findings.append(f"a second driver ended with {ended.rc}: {ended.log[-500:]}")
        return True

    def _replica_killed(self, driver: Driver, strike: Strike) -> bool:
        found = self._replicas(driver, strike)
        self.kills += len(found)
        return _send(found, signal.SIGKILL)

    def _replica_frozen(self, driver: Driver, strike: Strike) -> bool:
        found = self._replicas(driver, strike)
        done = _send(found, signal.SIGSTOP)
        _sleep(driver, strike.lasts)
        _send(found, signal.SIGCONT)
        return done

    def _replicas(self, driver: Driver, strike: Strike) -> list[psutil.Process]:
        """One of the driver's replicas: a worker of its local Ray, by its title."""
        workers = [one for one in driver.family() if "ReplicaActor" in " ".join(_words(one))]
        return workers[strike.number % len(workers) :][:1] if workers else []

    def _raylet_killed(self, driver: Driver, strike: Strike) -> bool:
        return self._of_ray(driver, "raylet")

    def _gcs_killed(self, driver: Driver, strike: Strike) -> bool:
        return self._of_ray(driver, "gcs_server")

    def _of_ray(self, driver: Driver, program: str) -> bool:
        found = [one for one in driver.family() if name_of(one) == program]
        self.kills += 2 * len(found)
        return _send(found, signal.SIGKILL)

    def _node_lost(self, driver: Driver, strike: Strike) -> bool:
        if self.node is None:
            return False
        self.node.kill()
        self.kills += 1
        return True

    def _server_crashed(self, driver: Driver, strike: Strike) -> bool:
        server = self._place.server
        if server is None:
            return False
        server.crash(*([strike.which] if strike.which else []))
        _sleep(driver, strike.lasts)
        server.start()
        return True

    def _server_frozen(self, driver: Driver, strike: Strike) -> bool:
        server = self._place.server
        if server is None:
            return False
        server.freeze(strike.which)
        try:
            _sleep(driver, strike.lasts)
        finally:
            server.thaw(strike.which)
        return True

    def _key_suspended(self, driver: Driver, strike: Strike) -> bool:
        server = self._place.server
        if server is None:
            return False
        server.admin("user", "suspend", "--uid=test")
        try:
            self._ends(driver, "suspended key")
        finally:
            server.admin("user", "enable", "--uid=test")
        return True

    def _token_expired(self, driver: Driver, strike: Strike) -> bool:
        proxy = self._place.proxy
        if proxy is None:
            return False
        before, proxy.rates = proxy.rates, {Wire.EXPIRED: 1.0}
        try:
            self._ends(driver, "expired token")
        finally:
            proxy.rates = before
        return True

    def _disk_full(self, driver: Driver, strike: Strike) -> bool:
        with full(self._place.disk):
            _sleep(driver, strike.lasts)
        return True

    def _ends(self, driver: Driver, why: str) -> None:
        """It must end by itself, soon."""
        end = time.monotonic() + MOMENT_SECONDS
        while driver.running and time.monotonic() < end:
            time.sleep(0.05)
        if driver.running:
            self.findings.append(f"{why}: the driver still runs after {MOMENT_SECONDS:.0f} s")
            driver.kill()


@contextlib.contextmanager
def full(disk: Path) -> Iterator[None]:
    """No byte is left there."""
    ballast = disk / "ballast"
    try:
        with ballast.open("wb", buffering=0) as stream, contextlib.suppress(OSError):
            for size in (1 << 20, 1 << 12, 1):
                with contextlib.suppress(OSError):
                    while stream.write(b"\1" * size) == size:
                        pass
        yield
    finally:
        ballast.unlink(missing_ok=True)


def _sleep(driver: Driver, seconds: float) -> None:
    """Not longer than the driver runs."""
    end = time.monotonic() + seconds
    while driver.running and time.monotonic() < end:
        time.sleep(0.02)


def _send(processes: list[psutil.Process], number: int) -> bool:
    """Whether it reached any."""
    reached = False
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, number)
            reached = True
    return reached


def _words(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []
