"""The connection to Ray: join the cluster that is there, or start a local Ray for the length of one command.

connected()           joins or starts, and disconnects at the end of the block
cluster_resources()   what the cluster has
recorder()            where a figure of jobs/monitoring/metrics.py goes
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import ray
from ray.util.metrics import Counter, Gauge, Histogram

import jobs
import workers
from jobs.config import ClusterConfig
from jobs.driver.signals import deadline, handlers_kept
from jobs.monitoring.metrics import Kind, Metric
from jobs.pool.error_text import first_line
from workers.errors import ReembedError, UsageError

LOCAL_OBJECT_STORE_BYTES = 100 << 20  # nothing large ever goes through it; Ray's minimum is 75 MiB
CONNECT_SECONDS = 90.0  # Ray alone would wait for ever on a cluster that has gone or wants another token
IN_A_JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"  # set by `ray job submit` for its entry point


@contextlib.contextmanager
def connected(config: ClusterConfig) -> Iterator[bool]:
    """Connect to Ray for the length of the block. Yields whether a running cluster was joined; that one is left running.

    Raises:
        UsageError: there is no cluster at the address.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    # Ray would print its version and its dashboard's address; a job's log is for the job
    arguments: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.WARNING, "configure_logging": False}
    joining = arguments | ({} if os.environ.get(IN_A_JOB) else {"runtime_env": {"py_modules": _code()}})
    own: dict[str, Any] = {"include_dashboard": False, "object_store_memory": LOCAL_OBJECT_STORE_BYTES}
    try:
        with deadline(CONNECT_SECONDS), handlers_kept():
            joined = config.address != "local"
            if not joined:
                ray.init(address="local", **own, **arguments)
            elif config.address != "auto":
                ray.init(address=config.address, **joining)
            elif os.environ.get("RAY_ADDRESS"):
                ray.init(**joining)
            else:
                joined = _join_or_start(own | arguments, joining)
    except Exception as error:
        if isinstance(error, ReembedError):
            raise
        raise UsageError(
            f"cluster.address={config.address}: no Ray cluster there, or it wants another token than ours (RAY_AUTH_TOKEN, "
            f"~/.ray/auth_token): {first_line(error)}"
        ) from None
    try:
        yield joined
    finally:
        ray.shutdown()


def _code() -> list[str]:
    """Folders of this program's packages, for nodes that lack them. A Ray job's working_dir has them; Ray refuses both."""
    return [str(Path(module.__file__ or "").parent) for module in (jobs, workers)]


def _join_or_start(start: dict[str, Any], join: dict[str, Any]) -> bool:
    """Join the cluster that `ray start` made on this machine, if there is one (True); else start a local Ray (False).

    address="auto" would not do: it also joins the private Ray of any other process on this machine, which ends with that
    process.
    """
    try:
        ray.init(**start)
    except ValueError:  # Ray refuses our object store size before it connects: a cluster is there, with its own size
        ray.init(**join)
        return True
    return False


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
