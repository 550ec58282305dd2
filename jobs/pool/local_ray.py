"""A Ray of our own starts faster: what serves people who watch a cluster is left out, and nothing is slept for.

    lean_start    for the length of ray.init

Left out: the dashboard's server (ray.init waits for it), the autoscaler's monitor (nothing to scale; it does not hear
SIGTERM either), the log monitor (nobody to tell), the larger half of the node's agent. A cluster that is joined has them
all, for whoever started it. These are Ray's private parts: each is left alone where it is not what it was, and then some
time is lost.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import ray

REGISTRATION_SECONDS = 20.0  # then Ray waits on its own terms
_LEFT_OUT = ImportError("not needed by a Ray that lives as long as one job")


@contextlib.contextmanager
def lean_start() -> Iterator[None]:
    """Ray starts only what a job needs, inside the block. Joining a cluster is not affected."""
    node, services, utils = ray._private.node.Node, ray._private.services, ray._private.utils
    with contextlib.ExitStack() as changes:
        for owner, name, stand_in in (
            (services, "start_api_server", lambda *_, **__: (None, None)),
            (node, "start_monitor", lambda _: None),
            (node, "start_log_monitor", lambda _: None),
            (utils, "get_dashboard_dependency_error", lambda: _LEFT_OUT),
            (services, "get_node", _watching()),
        ):
            if stand_in is not None and callable(getattr(owner, name, None)):
                changes.callback(setattr, owner, name, getattr(owner, name))
                setattr(owner, name, stand_in)
        yield


def _watching() -> Callable[[str, str], Any] | None:
    """Ray looks once a second whether the raylet that it has just started is registered; this one, as soon as it is."""
    services, state = ray._private.services, ray._private.state.GlobalState
    ask, options = getattr(services, "get_node", None), getattr(services, "_get_gcs_client_options", None)
    if ask is None or options is None or not hasattr(state, "node_table"):
        return None

    def watch(gcs_address: str, node_id: str) -> Any:
        known = state()
        known._initialize_global_state(options(gcs_address))
        until = time.monotonic() + REGISTRATION_SECONDS
        while time.monotonic() < until and not any(node.get("NodeID") == node_id for node in known.node_table()):
            time.sleep(0.02)
        return ask(gcs_address, node_id)

    return watch
