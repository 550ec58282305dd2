"""Errors that nobody expected: one line for the user, the stack in a file.

stack_file    stores the stack of an error; returns where
machine_full  an error that tells of this machine, not of this program
described     an error as one line
hook          errors in threads and destructors: one line in the log
"""

from __future__ import annotations

import errno
import logging
import os
import sys
import tempfile
import threading
import traceback
from typing import Any

from workers.storage.uris import hide_secrets, public_line

_MACHINE = {
    errno.ENOSPC: "free space on the disk of its temporary folder",
    errno.EDQUOT: "raise the quota of the disk of its temporary folder",
    errno.EMFILE: "raise its limit of open files (ulimit -n)",
    errno.ENFILE: "raise its limit of open files",
    errno.ENOMEM: "give it more memory",
    errno.EAGAIN: "raise its limit of processes (ulimit -u)",
}
_log = logging.getLogger("reembed")


def stack_file(error: BaseException) -> str:
    """Store the error's stack in a file that only this user may read. Returns its path, or why there is none."""
    text = hide_secrets("".join(traceback.format_exception(error)))
    try:
        handle, path = tempfile.mkstemp(prefix="reembed-error-", suffix=".txt")
        with os.fdopen(handle, "w", encoding="utf-8", errors="backslashreplace") as stream:
            stream.write(text)
    except OSError as failure:
        return f"not stored: {failure}"
    return path


def described(error: BaseException) -> str:
    """Class and message on one line, without secrets."""
    return public_line(f"{type(error).__name__}: {error}")


def machine_full(error: BaseException) -> str | None:
    """What this machine lacks and the remedy, if the error tells of that; else None."""
    if isinstance(error, MemoryError):
        return "this machine has too little memory for it; give it more, then run the same command again"
    mend = _MACHINE.get(error.errno or 0) if isinstance(error, OSError) else None
    return f"this machine: {described(error)}; {mend}, then run the same command again" if mend else None


def hook() -> None:
    """Log errors of threads and destructors as one line, which Python would print with their stack."""

    def in_thread(told: Any) -> None:
        if told.exc_value is not None and not isinstance(told.exc_value, SystemExit):
            name = told.thread.name if told.thread else "a thread"
            _log.warning("thread %s ended: %s; its stack: %s", name, described(told.exc_value), stack_file(told.exc_value))

    def in_destructor(told: Any) -> None:
        if told.exc_value is not None:
            _log.debug("ignored while an object was released: %s", described(told.exc_value))

    threading.excepthook, sys.unraisablehook = in_thread, in_destructor
