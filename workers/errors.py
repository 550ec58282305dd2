"""All exceptions of the project. The class says what is at fault, and so what happens next.

ReembedError                 every error that is shown to the user: one line, says what is wrong and how to fix it
├── UsageError               configuration, credentials, model or schema                         -> exit 2
│   ├── StoreRefused         credentials, bucket, endpoint: within a run tried again, they may be mended meanwhile
│   │   └── AccessDenied     the store knows who asks, and refuses this object, or all of them
│   └── ReplicaRefused       a replica says it, of a run that has begun: every other replica would, so the run ends
├── RunAborted               the run stopped early and the same command resumes it               -> exit 4
│   └── LockHeld             another driver works on this output; this one changed nothing       -> exit 4
├── TransientError           storage failure, timeout: tried again on any replica
│   ├── PartConflict         a part of another attempt exists and may not be replaced
│   ├── StorageFull          the disk or quota below the output is used up: the run ends after one budget of retries
│   └── LocalDiskFull        a node's temporary folder has no room left: tried on other replicas, a few times
├── ObjectError              one source object is at fault (corrupt, deleted, replaced)
│   ├── ObjectMissing
│   ├── ObjectArchived       cold storage does not hand it out; restored, it has the same bytes
│   └── ObjectChanged
└── ReplicaError             this process is unusable (CUDA error, failed self-check) and is replaced
    └── PrecisionRefused     the precision asked for does not hold on this device
"""

from __future__ import annotations

REASON = 300  # characters of another program's message inside one of ours


def one_line(text: object, most: int | None = REASON) -> str:
    """Another program's message as it stands inside one of ours: on one line, cut. See storage.uris.public_line as well."""
    return " ".join(str(text).split())[:most]


class ReembedError(Exception):
    """Base of every error that is shown to the user as one line."""


class UsageError(ReembedError):
    """The request itself cannot be carried out: configuration, credentials, model, schema."""


class StoreRefused(UsageError):
    """A store refuses access: credentials, permissions, bucket, endpoint."""


class AccessDenied(StoreRefused):
    """The store refuses an object to these credentials. Whether it refuses others as well only they can tell."""


class ReplicaRefused(UsageError):
    """A replica says that the request itself cannot be carried out; the run had begun, and what is committed stays."""


class RunAborted(ReembedError):
    """The run stopped before its end. Committed shards stay; the same command resumes the run."""


class LockHeld(RunAborted):
    """Another driver works on the output. The message names it."""


class TransientError(ReembedError):
    """The same call may succeed later or on another machine (storage failure, timeout)."""


class PartConflict(TransientError):
    """A part file of another attempt has the same path, and this attempt may not replace it."""


class StorageFull(TransientError):
    """The store has no room left, after a whole budget of retries. Trying elsewhere does not help."""


class LocalDiskFull(TransientError):
    """This machine's temporary folder has no room left. Another machine may have; trying here again does not help."""


class ObjectError(ReembedError):
    """One source object, `object_uri`, cannot be read as planned; nothing else is at fault.

    `rows_read`: rows read before the failure, a lower bound of the rows lost.
    """

    def __init__(self, object_uri: str, reason: str, rows_read: int = 0) -> None:
        super().__init__(f"{object_uri}: {reason}")
        self.object_uri = object_uri
        self.reason = reason
        self.rows_read = rows_read

    def __reduce__(self) -> tuple[type[ObjectError], tuple[str, str, int]]:
        """For the way back from an isolated process: exceptions are otherwise made anew from their message alone."""
        return type(self), (self.object_uri, self.reason, self.rows_read)


class ObjectMissing(ObjectError):
    """The object existed when the run was planned and has been deleted."""


class ObjectArchived(ObjectError):
    """The store keeps the object in cold storage. Restored, it is readable with the same size and etag."""


class ObjectChanged(ObjectError):
    """The object's size or etag differs from the manifest's."""


class ReplicaError(ReembedError):
    """The process must be replaced: its device fails or computes wrong results."""


class PrecisionRefused(ReplicaError):
    """The configured precision does not reproduce the golden vectors on this device; another precision may."""
