"""Local files, written and copied atomically and durably.

Each goes to a temporary file beside the target, is flushed to the disk, and gets its name by a hard link (which fails where
the name is taken) or by a rename (which replaces). Where hard links are unsupported, files are copied and renamed.
"""

from __future__ import annotations

import errno
import os
import shutil
import uuid
from pathlib import Path

_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)


def write_local(target: Path, data: bytes, *, create: bool) -> bool:
    """Temporary file beside the target, fsync, then link (fails if there) or rename (replaces)."""
    temporary = _temporary(target)
    try:
        with temporary.open("xb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        if create and not _link(temporary, target):
            return False
        if not create:
            temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
    _keep_name(target)
    return True


def copy_local(source: Path, target: Path) -> None:
    """Link, or copy where links are not to be had, under a temporary name; then rename."""
    temporary = _temporary(target)
    try:
        try:
            temporary.hardlink_to(source)
        except OSError as error:
            if error.errno not in (*_NO_LINKS, errno.EXDEV):
                raise
            with source.open("rb") as original, temporary.open("xb") as stream:
                shutil.copyfileobj(original, stream)
                stream.flush()
                os.fsync(stream.fileno())
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)  # renaming a link onto its own file leaves it
    _keep_name(target)


def _temporary(target: Path) -> Path:
    """A name beside the target, whose folder is made if need be."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise NotADirectoryError(errno.ENOTDIR, "a file stands where a folder is needed", str(target.parent)) from None
    return target.with_name(f".{target.name[:80]}.{uuid.uuid4().hex}.tmp")


def _keep_name(target: Path) -> None:
    """The name must survive a power cut as well, or a receipt outlives its part."""
    folder = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _link(temporary: Path, target: Path) -> bool:
    try:
        target.hardlink_to(temporary)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        if target.exists():  # a file system without hard links: not atomic, which the race at start finds out
            return False
        temporary.replace(target)
    return True
