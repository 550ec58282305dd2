"""Classifies an actor's death: charged to the replica and its shard, or not charged because the node went away.

lost(replica, error, node)   the event for jobs/scheduling/scheduler.py, charged or not
disowned(error)              the error to end the run with, when Ray has given up this driver and kills all its actors
"""

from __future__ import annotations

import logging
from collections.abc import Collection

import ray
import ray.util.client
from ray.exceptions import RayActorError, RayError

from jobs.pool.error_text import death, last_line, plain, refusal
from jobs.scheduling.messages import Lost
from workers.errors import RunAborted

STATUS_SECONDS = 5  # for one question to the cluster's head
_DRAINING = "DRAINING"
log = logging.getLogger("reembed")


def lost(replica: int, error: RayActorError, node: str | None, *, starting: bool) -> Lost:
    """The event of an actor's death. `node` is the id of the replica's node; None before the replica was ready."""
    text = plain(error)
    preempted = _leaving(node) or bool(getattr(error, "preempted", False))
    away = preempted or "node has died" in text or "node was terminated" in text.lower()
    failed_in_start = bool(getattr(error, "actor_init_failed", False))
    reason = last_line(error) if failed_in_start else death(text)  # the last line of a traceback is the exception
    return Lost(replica, reason, charged=not away, starting=starting, error=refusal(text) if starting else None)


def disowned(error: RayActorError) -> RunAborted | None:
    """The error to end the run with when Ray has given up this driver; every later replica would die of the same cause.

    Ray kills actors whose owner is dead. This process owns them and is alive, so the raylet beside it is dead.
    """
    if "its owner has died" not in str(error):
        return None
    return RunAborted(
        "the Ray node that this driver runs on was lost (its raylet died), and every replica with it: Ray's logs and the "
        "kernel's (out of memory?) tell why; run the same command again, what is committed stands"
    )


def _leaving(node: str | None) -> bool:
    """Whether a node is gone or has been told to end soon; its processes are killed before Ray reports the node dead.

    Ray calls this draining: its autoscaler drains a node, and so does `ray start --block` on the SIGTERM that ends a pod.
    """
    if node is None:
        return False
    # asked again at the end: a draining node ends once nothing runs on it, and then it is no longer listed as draining
    return not _alive(node) or node in _draining() or not _alive(node)


def _alive(node: str) -> bool:
    return any(each["NodeID"] == node and each["Alive"] for each in ray.nodes())


def _draining() -> Collection[str]:
    """Ids of the nodes that are draining, as `ray status` reports them. Empty where Ray does not tell.

    ray.nodes() does not report this state. A driver that connects by ray:// may not reach the head's own address, and
    another version of Ray may lack the module; such a death is charged to the replica.
    """
    if ray.util.client.ray.is_connected():
        return ()
    try:
        from ray.autoscaler.v2.sdk import get_cluster_status

        status = get_cluster_status(ray.get_runtime_context().gcs_address, timeout=STATUS_SECONDS)
        return [node.node_id for node in (*status.active_nodes, *status.idle_nodes) if node.node_status == _DRAINING]
    except (ImportError, AttributeError, RuntimeError, RayError) as error:
        log.debug("Ray does not tell which nodes are draining: %s", error)
        return ()
