"""The connection to Ray: join the cluster that is there, or start a local Ray for the length of one command.

connected()           joins or starts, and disconnects at the end of the block
cluster_resources()   what the cluster has
recorder()            where a figure of jobs/monitoring/metrics.py goes

ray.init runs in a thread of its own. It retries for minutes inside calls that no signal interrupts, and catches what a
signal handler raises between them. The main thread waits for it: deadlines and signals hold whatever Ray does.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from pathlib import Path
from threading import Thread
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
LAST_SECONDS = 1.0  # that a signal leaves ray.init to end, so that what it has started is stopped in order
_POLL_SECONDS = 0.1
_NO_HANDLER = "SIGTERM handler is not set"  # a warning of ray.init in a thread; the driver has handlers of its own


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
    joined = _join(config.address, check)
    if not joined:
        _start(check)
    try:
        yield joined
    finally:
        ray.shutdown()


def _join(address: str, check: Callable[[], None]) -> bool:
    """Join the cluster at an address; False: a local Ray is wanted.

    For `auto` without RAY_ADDRESS that is the cluster that `ray start` made on this machine. ray.init(address="auto") would
    not do: it also joins the private Ray of any other process on this machine, which ends with that process.
    """
    require_cluster(address)
    named, at = f"cluster.address={address}", address
    if starts_a_ray(address):
        standing = standing_cluster() if address == "auto" else None
        if standing is None:
            return False
        named, at = f"cluster.address=auto, the cluster of this machine at {standing}", standing
    elif address == "auto":
        at = os.environ[RAY_ADDRESS]
        named = f"{RAY_ADDRESS}={at}"
    code = {} if os.environ.get(IN_A_JOB) else {"runtime_env": {"py_modules": _code()}}
    try:
        _init(CONNECT_SECONDS, check, address=at, **code)
    except _InitFailed as error:
        raise UsageError(
            f"{named}: no Ray cluster answers there, or it wants another token than ours (RAY_AUTH_TOKEN, "
            f"~/.ray/auth_token; presented unless RAY_AUTH_MODE=disabled): {error}; correct it, or set cluster.address=local"
        ) from None
    return True


def _start(check: Callable[[], None]) -> None:
    try:
        _init(START_SECONDS, check, address="local", include_dashboard=False, object_store_memory=LOCAL_OBJECT_STORE_BYTES)
    except _InitFailed as error:
        raise RunAborted(
            f"the local Ray did not start: {error}; this machine may be overloaded, or short of memory or disk (its logs: "
            "session_latest/logs in Ray's temporary folder, /tmp/ray); run the same command again when it has room"
        ) from None


class _InitFailed(Exception):
    """ray.init raised, or did not return in time. The message is one line."""


def _init(seconds: float, check: Callable[[], None], **arguments: Any) -> None:
    """ray.init within so many seconds. Raises: _InitFailed; what `check` raises."""
    # Ray would print its version and its dashboard's address; a job's log is for the job
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.WARNING, "configure_logging": False}
    connecting: Future[None] = Future()

    def connect() -> None:
        try:
            ray.init(**arguments, **quiet)
        except BaseException as error:  # noqa: BLE001 - handed to the thread that waits
            connecting.set_exception(error)
        else:
            connecting.set_result(None)

    end = time.monotonic() + seconds
    with _without_warning():
        Thread(target=connect, daemon=True, name="ray-init").start()
        while not connecting.done():
            wait([connecting], _POLL_SECONDS)
            try:
                check()
            except BaseException:
                _give_up(connecting)
                raise
            if time.monotonic() > end and not connecting.done():
                raise _InitFailed(f"no answer for {seconds:.0f} s")
    error = connecting.exception()
    if error is not None:
        raise _InitFailed(on_one_line(error))


def _give_up(connecting: Future[None]) -> None:
    """Leave the thread to itself, unless it is about to end: a Ray that is up is shut down in order."""
    wait([connecting], LAST_SECONDS)
    if connecting.done() and connecting.exception() is None:
        ray.shutdown()


@contextlib.contextmanager
def _without_warning() -> Iterator[None]:
    log = logging.getLogger("ray._private.worker")

    def wanted(record: logging.LogRecord) -> bool:
        return not record.getMessage().startswith(_NO_HANDLER)

    log.addFilter(wanted)
    try:
        yield
    finally:
        log.removeFilter(wanted)


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
