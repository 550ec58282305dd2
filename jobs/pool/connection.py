"""The connection to Ray: join the cluster that is there, or start a local Ray for the length of one command.

connected()           joins or starts, and disconnects at the end of the block
cluster_resources()   what the cluster has
recorder()            where a figure of jobs/monitoring/metrics.py goes

ray.init runs in a thread of its own. It retries for minutes inside calls that no signal interrupts, and catches what a
signal handler raises between them. The main thread waits for it: deadlines and signals hold whatever Ray does.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from pathlib import Path
from threading import Event, Thread
from typing import Any, cast

import ray
from ray.util.metrics import Counter, Gauge, Histogram

import jobs
import workers
from jobs.config import ClusterConfig
from jobs.driver.preflight import IN_A_JOB, RAY_ADDRESS, require_cluster, standing_cluster, starts_a_ray
from jobs.monitoring.metrics import Kind, Metric
from jobs.pool.error_text import on_one_line
from workers.errors import RunAborted, UsageError

LOCAL_OBJECT_STORE_BYTES = 100 << 20  # nothing large ever goes through it; Ray's minimum is 75 MiB
CONNECT_SECONDS = 90.0  # Ray alone would wait for 14 minutes on a cluster that has gone, for ever on one of another token
START_SECONDS = 300.0  # for a local Ray on a busy machine: longer than Ray's own limits, so that its reason is told
START_ATTEMPTS = 2
IDLE_WORKERS = "RAY_prestart_worker_first_driver"  # a setting of the raylet's
LAST_SECONDS = 1.0  # that a signal leaves ray.init to end, so that what it has started is stopped in order
LAST_SHUTDOWN_SECONDS = 0.5  # that it leaves ray.shutdown; a local Ray is killed with this process at the latest
_POLL_SECONDS = 0.1
_NO_HANDLER = "SIGTERM handler is not set"  # a warning of ray.init in a thread; the driver has handlers of its own
log = logging.getLogger("reembed")


@contextlib.contextmanager
def connected(config: ClusterConfig, check: Callable[[], None] = lambda: None) -> Iterator[bool]:
    """Connect to Ray for the length of the block. Yields whether a running cluster was joined; that one is left running.

    Args:
        check: called several times a second while Ray connects; what it raises ends the attempt.

    Raises:
        UsageError: there is no cluster at the address. RunAborted: a local Ray did not start.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    connection = _join(config.address, check) or _start(check)
    try:
        yield connection.joined
    finally:
        connection.close(LAST_SHUTDOWN_SECONDS if _ends(check) else None)


def _ends(check: Callable[[], None]) -> bool:
    """Whether a signal was sent: then there is no time for the seconds that Ray leaves each of its processes."""
    try:
        check()
    except RunAborted:
        return True
    return False


def _join(address: str, check: Callable[[], None]) -> _Connection | None:
    """Join the cluster at an address; None: a local Ray is wanted.

    For `auto` without RAY_ADDRESS that is the cluster that `ray start` made on this machine. ray.init(address="auto") would
    not do: it also joins the private Ray of any other process on this machine, which ends with that process.
    """
    require_cluster(address)
    named, at = f"cluster.address={address}", address
    if starts_a_ray(address):
        standing = standing_cluster() if address == "auto" else None
        if standing is None:
            return None
        named, at = f"cluster.address=auto, the cluster of this machine at {standing}", standing
    elif address == "auto":
        at = os.environ[RAY_ADDRESS]
        named = f"{RAY_ADDRESS}={at}"
    code = {} if os.environ.get(IN_A_JOB) else {"runtime_env": {"py_modules": _code()}}
    connection = _Connection(joined=True, address=at, **code)
    try:
        connection.open(CONNECT_SECONDS, check)
    except _InitFailed as error:
        raise UsageError(
            f"{named}: no Ray cluster answers there, or it wants another token than ours (RAY_AUTH_TOKEN, "
            f"~/.ray/auth_token; presented unless RAY_AUTH_MODE=disabled): {error}; correct it, or set cluster.address=local"
        ) from None
    return connection


def _start(check: Callable[[], None]) -> _Connection:
    """Start a local Ray. Ray gives up when its own processes take half a minute, as on a busy machine: then once more."""
    os.environ.setdefault(IDLE_WORKERS, "0")  # else ray.init waits until each core has a process, most of which stay idle
    own = {"include_dashboard": False, "object_store_memory": LOCAL_OBJECT_STORE_BYTES}
    for attempt in range(1, START_ATTEMPTS + 1):
        connection = _Connection(joined=False, address="local", **own)
        try:
            connection.open(START_SECONDS, check)
            break
        except _InitFailed as error:
            if attempt == START_ATTEMPTS or not connection.ended:
                raise RunAborted(
                    f"the local Ray did not start: {error}; this machine may be overloaded, or short of memory or disk "
                    "(its logs: session_latest/logs in Ray's temporary folder, /tmp/ray); run the same command again when "
                    "it has room"
                ) from None
            log.warning("the local Ray did not start: %s; tried once more", error)
    return connection


class _InitFailed(Exception):
    """ray.init raised, or did not return in time. The message is one line."""


class _Connection:
    """ray.init and ray.shutdown in one thread, which lives in between: a local Ray ends with the thread that started it.

    (Its processes ask the kernel for a signal at the death of their parent, which on Linux is a thread.)
    """

    def __init__(self, *, joined: bool, **arguments: Any) -> None:
        self.joined = joined
        # Ray would print its version and its dashboard's address; a job's log is for the job
        self._arguments = arguments | {"log_to_driver": False, "logging_level": logging.WARNING, "configure_logging": False}
        self._opened: Future[None] = Future()
        self._closed: Future[None] = Future()
        self._close = Event()

    def open(self, seconds: float, check: Callable[[], None]) -> None:
        """Raises: _InitFailed: ray.init raised, or did not return in time. What `check` raises."""
        end = time.monotonic() + seconds
        with _without_warning():
            Thread(target=self._live, daemon=True, name="ray").start()
            while not self._opened.done():
                wait([self._opened], _POLL_SECONDS)
                try:
                    check()
                except BaseException:
                    self._close.set()  # a Ray that is up by then is shut down in order, else left to itself
                    wait([self._closed], LAST_SECONDS)
                    raise
                if time.monotonic() > end and not self._opened.done():
                    self._close.set()
                    raise _InitFailed(f"no answer for {seconds:.0f} s")
        error = self._opened.exception()
        if error is not None:
            raise _InitFailed(on_one_line(error))

    @property
    def ended(self) -> bool:
        """Whether its thread calls nothing of Ray's any more."""
        return self._closed.done()

    def close(self, seconds: float | None = None) -> None:
        """Disconnect; a local Ray ends. After so many seconds that is left to the thread."""
        self._close.set()
        if wait([self._closed], seconds).done:
            self._closed.result()

    def _live(self) -> None:
        try:
            ray.init(**self._arguments)
        except BaseException as error:  # noqa: BLE001 - handed to the thread that waits
            self._closed.set_result(None)
            self._opened.set_exception(error)
            return
        self._opened.set_result(None)
        self._close.wait()
        try:
            with _nothing_released():
                ray.shutdown()
        except BaseException as error:  # noqa: BLE001 - as above
            self._closed.set_exception(error)
        else:
            self._closed.set_result(None)


@contextlib.contextmanager
def _nothing_released() -> Iterator[None]:
    """No reference of Ray's is released by the garbage collector of another thread while Ray shuts down.

    Ray's C++ would end the whole process there and then, with status 1. The errors of lost actors hold such references, in
    cycles with their tracebacks.
    """
    gc.collect()
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@contextlib.contextmanager
def _without_warning() -> Iterator[None]:
    # where records of Ray's loggers may end; the last resort where the logger `ray` has no handler
    found = [*logging.getLogger("ray").handlers, *logging.getLogger().handlers, logging.lastResort]
    handlers = [handler for handler in found if handler is not None]

    def wanted(record: logging.LogRecord) -> bool:
        return not record.getMessage().startswith(_NO_HANDLER)

    for handler in handlers:
        handler.addFilter(wanted)
    try:
        yield
    finally:
        for handler in handlers:
            handler.removeFilter(wanted)


def _code() -> list[str]:
    """Folders of this program's packages, for nodes that lack them. A Ray job's working_dir has them; Ray refuses both."""
    return [str(Path(module.__file__ or "").parent) for module in (jobs, workers)]


def cluster_resources() -> dict[str, float]:
    """What the cluster has now, busy or not: CPU, GPU, memory in bytes, ..."""
    return dict(ray.cluster_resources())


def recorder(metric: Metric) -> Callable[[float, dict[str, str]], None]:
    """Open a metric for this driver. A value given to the result reaches Prometheus within ten seconds, or at disconnection.

    A driver that connects by ray:// exports nothing.
    """
    tags = tuple(metric.tags)
    match metric.kind:
        case Kind.COUNTER:
            record = Counter(metric.name, metric.help, tags).inc
        case Kind.GAUGE:
            record = Gauge(metric.name, metric.help, tags).set
        case Kind.HISTOGRAM:
            record = Histogram(metric.name, metric.help, list(metric.boundaries), tags).observe
    return cast("Callable[[float, dict[str, str]], None]", record)
