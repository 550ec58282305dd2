"""What a Ray cluster records of its jobs and actors, written to stdout as bytes; searched by tests/security/hunting.py."""

from __future__ import annotations

import sys
from typing import Any

_SPACES = (
    None,
    *(name.encode() for name in ("", "fun", "job", "session", "cluster", "dashboard", "usage_stats", "tracing")),
)
_TABLES: dict[str, dict[str, Any]] = {
    "get_job_table": {"skip_submission_job_info_field": False},
    "get_actor_table": {"job_id": None, "actor_state_name": None},
    "get_worker_table": {},
    "get_placement_group_table": {},
    "get_task_events": {},
}


def dump(gcs_address: str) -> None:
    """Jobs, actors, tasks, workers and nodes, and every key and value of the internal store."""
    import ray
    from ray._private.services import _get_gcs_client_options
    from ray._private.state import GlobalState
    from ray._raylet import GcsClient

    out = sys.stdout.buffer
    state = GlobalState()
    state._initialize_global_state(_get_gcs_client_options(gcs_address))
    for ask in (state.job_table, lambda: state.actor_table(None), state.node_table, state.workers, state.get_system_config):
        out.write(f"{ask()!r}\n".encode())
    accessor: Any = state._connect_and_get_accessor()
    for name, arguments in _TABLES.items():
        for record in getattr(accessor, name)(**arguments):
            out.write(bytes(record))
    client, keys = GcsClient(address=gcs_address), 0
    for space in _SPACES:
        for key in client.internal_kv_keys(b"", namespace=space):
            keys += 1
            out.write(key + b": " + (client.internal_kv_get(key, namespace=space) or b"") + b"\n")
    out.write(f"{keys} keys, Ray {ray.__version__}\n".encode())
    out.flush()
