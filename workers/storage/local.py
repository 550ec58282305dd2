"""Local files, written and copied atomically and durably.

Each goes to a temporary file beside the target, is flushed to the disk, and gets its name by a hard link (which fails where
the name is taken) or by a rename (which replaces). Where hard links are unsupported, files are copied and renamed.
"""

from __future__ import annotations

import errno
import mmap
import os
import shutil
import uuid
from pathlib import Path

_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)


def write_local(target: Path, data: bytes | mmap.mmap, *, create: bool) -> bool:
    """Create (False if the name is taken) or replace a file."""
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
    _sync_folder(target)
    return True


def copy_local(source: Path, target: Path) -> None:
    """Make `target` another name of `source`, or a copy of it where hard links are unsupported."""
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
        temporary.unlink(
            missing_ok=True
        )  # if both names are links to one file, rename() does nothing and the temporary name stays
    _sync_folder(target)


def _temporary(target: Path) -> Path:
    """A temporary name in the folder of the target, which is created if necessary."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise NotADirectoryError(errno.ENOTDIR, "a file stands where a folder is needed", str(target.parent)) from None
    return target.with_name(f".{target.name[:80]}.{uuid.uuid4().hex}.tmp")


def _sync_folder(target: Path) -> None:
    """Flush the folder: the new name must survive a power failure too, or a receipt could outlive its part."""
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
        if target.exists():  # no hard links here: not atomic, which the probe at the start of a run detects (atomicity.py)
            return False
        temporary.replace(target)
    return True
