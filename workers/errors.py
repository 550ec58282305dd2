"""Whose fault it is decides what happens next; this is the whole exception tree.

ReembedError                 every error the user may meet: one line, names the thing and the mend
├── UsageError               configuration, credentials, model or schema; nothing was started    -> exit 2
├── RunAborted               the run stopped early and the same command resumes it               -> exit 4
│   └── LockHeld             another driver works on this output; this one changed nothing       -> exit 4
├── TransientError           storage hiccup, timeout: worth another attempt anywhere
│   └── PartConflict         another attempt's part is in the way and ours may not replace it
├── ObjectError              one source object is at fault (corrupt, vanished, replaced): blame the object
│   ├── ObjectMissing
│   └── ObjectChanged
└── ReplicaError             this process cannot be trusted any more (CUDA context, failed self-check): replace it
    └── PrecisionRefused     the precision asked for does not hold on this device
"""

from __future__ import annotations


class ReembedError(Exception):
    """Base of every error that is shown to the user as one line."""


class UsageError(ReembedError):
    """The request itself cannot be carried out: configuration, credentials, model, schema."""


class RunAborted(ReembedError):
    """The run stopped before its end; what is committed stays, the same command resumes it."""


class LockHeld(RunAborted):
    """Another driver holds the output; names the holder."""


class TransientError(ReembedError):
    """The same call may succeed later or elsewhere (storage hiccup, timeout)."""


class PartConflict(TransientError):
    """A part file of another attempt stands where ours should go, and it is not ours to replace."""


class ObjectError(ReembedError):
    """One source object cannot be read as it was planned; `object_uri` is to blame, nothing else.

    `rows_read` is how many rows were read before the failure, a lower bound of what is lost.
    """

    def __init__(self, object_uri: str, reason: str, rows_read: int = 0) -> None:
        super().__init__(f"{object_uri}: {reason}")
        self.object_uri = object_uri
        self.reason = reason
        self.rows_read = rows_read


class ObjectMissing(ObjectError):
    """The object was there when the run was planned and is gone."""


class ObjectChanged(ObjectError):
    """The object's size or etag is not what the manifest recorded."""


class ReplicaError(ReembedError):
    """The process must be replaced: its device or its arithmetic is not to be trusted."""


class PrecisionRefused(ReplicaError):
    """The precision asked for does not reproduce the golden texts on this device; another one may."""
