"""The files of a local folder: links to folders are followed, each folder is entered once.

    find_files   every file below a folder, or every one that a glob matches

A link to a folder is an ordinary way to put a part of a corpus on another disk, so what lies behind it is read. A folder
that is reached a second time (a link to a folder above it, or two names for one folder) is not entered again: its files
would be rows twice, or for ever. Real folders are entered before linked ones, so that a file's name does not depend on who
links to it.
"""

from __future__ import annotations

import os
import re
from collections import deque
from dataclasses import dataclass, field

from fsspec.utils import glob_translate

_Folder = tuple[int, int, int]  # device, inode, which part of the pattern applies in it


@dataclass(slots=True)
class LocalFiles:
    """`hidden`: files that are passed over, and folders that are not entered. `repeated`: folders not entered again, each
    with the name under which it was."""

    files: list[str] = field(default_factory=list)
    hidden: list[str] = field(default_factory=list)
    repeated: list[tuple[str, str]] = field(default_factory=list)


def is_hidden(name: str) -> bool:
    """Whether Hadoop-style writers use such a name for markers. Key=value folders are never hidden."""
    return (name.startswith((".", "_")) and "=" not in name) or name.endswith("_$folder$")


def find_files(top: str, pattern: str | None = None) -> LocalFiles:
    """Files below `top` that are not hidden; with a pattern, an absolute glob below `top`, those that it matches.

    A link that leads nowhere is among them: whoever asks for its size gets the error.

    Raises:
        OSError: a folder cannot be read. ValueError: `**` is a part of a longer name in the pattern.
    """
    parts = pattern[len(top) :].strip("/").split("/") if pattern is not None else ["**"]
    levels = [re.compile(glob_translate(part)) for part in parts]
    wanted = re.compile(glob_translate(pattern)) if pattern is not None else None
    any_depth = parts.index("**") if "**" in parts else len(parts)  # from this level on every folder may match
    found, entered = LocalFiles(), dict[_Folder, str]()
    real, linked = deque([(top, 0)]), deque[tuple[str, int]]()
    while real or linked:
        folder, depth = real.popleft() if real else linked.popleft()
        status, level = os.stat(folder), min(depth, any_depth)  # noqa: PTH116 - fsspec's paths are text
        earlier = entered.setdefault((status.st_dev, status.st_ino, level), folder)
        if earlier != folder:
            found.repeated.append((folder, earlier))
            continue
        with os.scandir(folder) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                path = f"{folder.rstrip('/')}/{entry.name}"
                if is_hidden(entry.name):
                    found.hidden.append(path)
                elif not _is_folder(entry):
                    if wanted is None or wanted.match(path):
                        found.files.append(path)
                elif level == any_depth < len(parts) or (level + 1 < len(parts) and levels[level].match(entry.name)):
                    (linked if entry.is_symlink() else real).append((path, depth + 1))
    found.files.sort()
    return found


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself: whoever asks for its size gets the error
        return False
