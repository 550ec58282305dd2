"""Which objects a URI names on one filesystem: path -> details, as fsspec gives them.

    find_entries    the object of that name, all below a prefix, or what matches a glob
    name_of         path -> the full URI by which an object can be opened alone
    tables_of       folders among them, or above them, that are tables

Knows nothing of formats, and opens nothing.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, NoReturn

from workers.errors import UsageError
from workers.storage.client import filesystem, no_object
from workers.storage.local_listing import LocalFiles, find_files, is_hidden
from workers.storage.table_folders import ICEBERG_FOLDER, folders_above, is_iceberg, table_markers, tables_in
from workers.storage.uris import hide_users, is_utf8, redact

_INFO_THREADS = 16  # requests in flight for objects whose listing tells no size
_Details = dict[str, Any]


@dataclass(slots=True)
class Found:
    """Path -> details, of files and of folders. Names are hidden only below `root`. `hidden`: names passed over beside them.
    `repeated`: folders not entered again, each with the name under which they were."""

    root: str
    entries: dict[str, _Details] = field(default_factory=dict)
    hidden: list[str] = field(default_factory=list)
    repeated: list[tuple[str, str]] = field(default_factory=list)

    def add(self, other: Found) -> None:
        self.entries |= other.entries
        self.hidden += other.hidden
        self.repeated += other.repeated

    @property
    def files(self) -> list[_Details]:
        """Those that are not hidden, by name. A name that ends with `/` is an empty object by which a console represents a
        folder."""
        return [
            details
            for name, details in sorted(self.entries.items())
            if details.get("type", "file") == "file" and not name.endswith("/") and not self._hides(name)
        ]

    @property
    def passed_over(self) -> list[str]:
        """Names that are hidden."""
        return sorted({*self.hidden, *filter(self._hides, self.entries)})

    def _hides(self, name: str) -> bool:
        return any(is_hidden(part) for part in name.removeprefix(self.root).split("/") if part)


def find_entries(fs: Any, path: str, *, prefix: bool) -> Found:
    """What a path names on its filesystem. `prefix`: it was written with a `/` at its end.

    A name that exists as it is written is among them, although it holds `*`, `?` or `[`. A glob that matches folders alone,
    or that is a prefix, means what is in them.

    Raises: UsageError; and what the filesystem raises.
    """
    fs.invalidate_cache()
    marks = "*[" if _is_web(fs) else "*?["  # `?` begins the query of a web address
    magic = next((at for at, char in enumerate(path) if char in marks), None)
    if magic is None:
        return _find_literally(fs, path, prefix=prefix)
    found = Found(path[: path.rfind("/", 0, magic) + 1])
    below = path.rstrip("/") + "/**"
    for pattern in (below,) if prefix else (path, below):
        found.add(_find_matches(fs, found.root, pattern))
        if found.files:
            break
    if not found.files or "[" in path:  # what matches `*` and `?` matches itself as well
        try:
            literal = _find_literally(fs, path, prefix=prefix)
        except FileNotFoundError:
            literal = Found(path)
        if literal.files and not found.files:
            return literal
        found.add(literal)
    return found


def _find_matches(fs: Any, root: str, pattern: str) -> Found:
    if any("**" in part != "**" for part in pattern.split("/")):  # no pattern, and perhaps the name of an object
        return Found(root)
    if not _is_local(fs):
        return Found(root, _complete(fs, fs.glob(pattern, detail=True)))
    top = root.rstrip("/") or "/"
    return _of_local(fs, find_files(top, pattern), root) if os.path.isdir(top) else Found(root)  # noqa: PTH112 - as below


def _find_literally(fs: Any, path: str, *, prefix: bool) -> Found:
    top = path.rstrip("/")
    if _is_local(fs):
        if os.path.isdir(path):  # noqa: PTH112 - fsspec's paths are text
            return _of_local(fs, find_files(path), top)
        return _of_local(fs, LocalFiles([path]), top)
    if _is_web(fs) and not prefix:
        return Found(top, {path: fs.info(path)})
    try:
        return Found(top, _complete(fs, fs.find(path, detail=True)))
    except FileNotFoundError as error:
        if not no_object(error):
            raise
        return Found(top)


def _of_local(fs: Any, files: LocalFiles, root: str) -> Found:
    """Raises: UsageError: a link leads nowhere. OSError."""
    entries: dict[str, _Details] = {}
    for name in files.files:
        try:
            entries[name] = fs.info(name)
        except OSError:
            if os.path.islink(name):  # noqa: PTH114 - as above
                raise UsageError(f"{name}: a link that leads nowhere; remove it, or restore what it leads to") from None
            if os.path.lexists(name):  # else it is gone since it was listed
                raise
    return Found(root, entries, files.hidden, files.repeated)


def _complete(fs: Any, entries: Mapping[str, _Details]) -> dict[str, _Details]:
    """Sizes asked for, object by object, where a listing has none (web servers)."""
    files = [name for name, details in entries.items() if details.get("type", "file") == "file"]
    unknown = [name for name in files if entries[name].get("size") is None]
    if not unknown:
        return dict(entries)
    with ThreadPoolExecutor(_INFO_THREADS) as pool:
        return dict(entries) | dict(zip(unknown, pool.map(fs.info, unknown), strict=True))


def refuse_nothing(fs: Any, found: Found, path: str, uri: str) -> NoReturn:
    """Say what is there where no object was found.

    Raises: UsageError: hidden names, or names that begin so. FileNotFoundError: nothing.
    """
    shown, hidden = redact(uri), found.passed_over
    glob = any(mark in path for mark in "*?[")
    if hidden and not glob:
        raise UsageError(
            f"{shown}: nothing there but names that are passed over as markers ({hidden[0].removeprefix(found.root)}, "
            f"{len(hidden)} in all); rename them, or name one by itself"
        )
    if (
        not glob
        and not uri.endswith("/")
        and not _is_web(fs)
        and (count := len(find_entries(fs, f"{path}*", prefix=False).files))
    ):
        raise UsageError(f"{shown}: no object or folder of that name, but {count} whose names begin so; write {shown}*")
    raise FileNotFoundError(f"{shown}: no objects there")


def refuse_odd_names(names: Sequence[str]) -> None:
    """Raises: UsageError: names that no URI, manifest or quarantine file can hold."""
    odd = [name for name in names if not is_utf8(name)]
    if odd:
        shown = odd[0].encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
        more = f" (and {len(odd) - 1} more)" if len(odd) > 1 else ""
        raise UsageError(
            f"{shown}{more}: the file name is not UTF-8; rename it, e.g. by `convmv -f latin1 -t utf8 --notest`"
        )


def name_of(fs: Any, path: str, uri: str, options: Mapping[str, Any], retry_seconds: float) -> Callable[[str], str]:
    """path -> URI, for the objects of this filesystem. `uri`: as configured; `path`: of one of the objects.

    Raises: UsageError: objects of this scheme (in an archive, behind a chain) have no URI of their own.
    """
    scheme, _, rest = uri.partition("://")
    host = f"{scheme}://{rest.partition('/')[0]}/"
    own: Callable[[str], str] = fs.unstrip_protocol

    def with_host(name: str) -> str:  # some schemes forget it
        return host + name.lstrip("/")

    for naming in (own, with_host):
        with contextlib.suppress(UsageError):
            again, found = filesystem(naming(path), options, retry_seconds)
            if again == fs and found.lstrip("/") == path.lstrip("/"):
                return naming
    raise UsageError(
        f"{hide_users(uri)}: its objects cannot be opened one by one by a URI of their own; unpack the archive, or copy "
        "them to a folder or an object store"
    )


def tables_of(fs: Any, found: Found) -> dict[str, str]:
    """Path of a folder that is a table, and of which objects were found -> Delta, Hudi, Iceberg or Lance.

    Where the listing is a part of a folder (a glob, a partition, a data folder) the folder's own records are looked for.
    """
    root = found.root.rstrip("/")
    folders = [*([root] if found.root.endswith("/") else []), *folders_above(root)] if root and not _is_web(fs) else []
    names = [*found.entries, *found.hidden]
    for folder in folders:
        with contextlib.suppress(PermissionError):  # who may not look there is not told of what is there
            names += [f"{folder}/{marker}" for marker in table_markers() if fs.isdir(f"{folder}/{marker}")]
            names += [name for name in fs.find(f"{folder}/{ICEBERG_FOLDER}", maxdepth=1) if is_iceberg(name)][:1]
    return tables_in(names)


def _is_local(fs: Any) -> bool:
    return "file" in fs.protocol


def _is_web(fs: Any) -> bool:
    return "http" in fs.protocol
