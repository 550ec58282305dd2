"""Which failure an error of an attempt stands for: who is to blame, and the reason on one line."""

from __future__ import annotations

import logging
import traceback

from workers.errors import (
    LocalDiskFull,
    ObjectError,
    ReplicaError,
    StorageFull,
    StoreRefused,
    TransientError,
    UsageError,
    one_line,
)
from workers.host.spill_file import no_room
from workers.records.shard import Assignment, Blame, Failure

log = logging.getLogger("reembed")

ENOSPC_HINT = "the local disk of this node is full; free space under its temporary folder"


def failure_of(assignment: Assignment, error: Exception) -> Failure:
    """The failure that an error stands for. An error that nobody expected is the shard's; its stack goes to the log."""
    shard, uri, rows_read = assignment.shard, None, 0
    reason = str(error)
    match error:
        case ObjectError():
            blame, uri, reason, rows_read = Blame.OBJECT, error.object_uri, error.reason, error.rows_read
        case ReplicaError():
            blame = Blame.REPLICA
        case StorageFull():
            blame = Blame.OUTPUT
        case LocalDiskFull():
            blame = Blame.DISK
        case OSError() if no_room(error):
            blame, reason = Blame.DISK, f"{error}; {ENOSPC_HINT}"
        case TransientError() | StoreRefused():  # storage away, credentials expired: not the shard's fault
            blame = Blame.NOBODY
        case UsageError():  # every shard would meet it, on every replica
            blame = Blame.REQUEST
        case OSError():
            blame = Blame.NOBODY
        case _:
            blame = Blame.SHARD
            reason = f"{type(error).__name__}: {error}"
            log.error("shard %d: %s", shard.number, "".join(traceback.format_exception(error)))
    return Failure(shard.number, assignment.epoch, blame, one_line(reason, 1000), uri, rows_read)
