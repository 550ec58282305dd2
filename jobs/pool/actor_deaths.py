"""A replica has died: was it its own fault (and its shard's), or did the node go away under it?

lost(replica, error, node)   the event that jobs/scheduling/scheduler.py decides by: charged, or not
disowned(error)              it was neither: Ray takes this driver for dead, and ends all that is its own
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping

import ray
from ray.exceptions import RayActorError, RayError

from jobs.pool.error_text import death, last_line, plain, refusal
from jobs.scheduling.messages import Lost
from workers.errors import RunAborted


def lost(replica: int, error: RayActorError, node: str | None, *, starting: bool) -> Lost:
    """The event of that death; `node` is where the replica was, once it was ready."""
    text = plain(error)
    preempted = _leaving(node) or bool(getattr(error, "preempted", False))
    away = preempted or "node has died" in text or "node was terminated" in text.lower()
    failed_in_start = bool(getattr(error, "actor_init_failed", False))
    reason = last_line(error) if failed_in_start else death(text)  # of a traceback the last line tells
    return Lost(replica, reason, charged=not away, starting=starting, error=refusal(text) if starting else None)


def disowned(error: RayActorError) -> RunAborted | None:
    """What to end the run with when Ray has given this driver up, which every later replica would die of as well.

    Ray kills actors whose owner is dead. Ours are owned by this process: it lives, so the raylet beside it does not.
    """
    if "its owner has died" not in str(error):
        return None
    return RunAborted(
        "the Ray node that this driver runs on was lost (its raylet died), and every replica with it: Ray's logs and the "
        "kernel's (out of memory?) tell why; run the same command again, what is committed stands"
    )


def _leaving(node: str | None) -> bool:
    """Whether a node is gone, or has had notice that it soon will be: a preempted one loses its processes before itself.

    Ray calls the notice draining: its autoscaler gives it, and `ray start --block` on the SIGTERM that ends a pod.
    """
    if node is None:
        return False
    there = any(each["NodeID"] == node and each["Alive"] for each in ray.nodes())
    return not there or node in _draining()


def _draining() -> Mapping[str, int]:
    """Nodes that have had notice, by id. Of Ray's private parts (Ray Train asks the same); empty where they have changed."""
    ask = getattr(getattr(ray._private.state, "state", None), "get_draining_nodes", None)
    with contextlib.suppress(RayError):  # a ray:// client is told what is public, and no more
        return dict(ask()) if ask is not None else {}
    return {}
