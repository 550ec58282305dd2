"""Where the output lies: apart from the corpus, and not in a folder that is thrown away.

    require_apart      the corpus must not list files of the output, and must not lie in it
    require_lasting    in a Ray job, a relative folder is part of the job's working folder

Both are known before anything is listed or written. Paths are compared resolved: links, `..`, `~`, s3a:// and slashes at
their ends make no difference.
"""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Mapping
from typing import Any

from fsspec.implementations.local import LocalFileSystem

from jobs.driver.preflight import IN_A_JOB
from workers.config import CorpusConfig, OutputConfig
from workers.errors import UsageError
from workers.storage.uris import redact
from workers.table.paths import CURRENT, RunPaths, lock_claim

_RUN = RunPaths("20200101T000000Z-00000000")
_OURS = (
    CURRENT,
    lock_claim(1),
    _RUN.record,
    _RUN.manifest,
    _RUN.staged(0),
    _RUN.receipt(0),
    f"{_RUN.data}/part-0000000.parquet",
    f"{_RUN.data}/column=value/part-0000000.parquet",
)  # fmt: skip - a file of each kind and depth below an output
_LOCAL = ("", "file", "local")
_MAGIC = "*?["
_MEND = "give the output a folder of its own, outside the corpus"


def require_apart(corpus: CorpusConfig, output: OutputConfig) -> None:
    """Refuse an output whose files the next run would read as its corpus, and a corpus inside the output.

    Legal: `s3://b/corpus` with `s3://b/corpus-out`; an output in a hidden folder (its name begins with `.` or `_`) below the
    corpus, or where a glob of the corpus does not reach; another output's snapshot as the corpus.

    Raises: UsageError.
    """
    where = _place(output.uri, output.storage_options)
    for uri in corpus.uri:
        at = _place(uri, corpus.storage_options)
        if at[0] != where[0]:
            continue
        root = _root(at[1])
        if root == where[1] or root.startswith(_below(where[1])):
            raise UsageError(
                f"output.uri {redact(output.uri)}: the corpus ({redact(uri)}) lies in it, where snapshots are "
                f"written and deleted; {_MEND}"
            )
        if _lists(at[1], where[1]):
            raise UsageError(
                f"output.uri {redact(output.uri)}: lies in the corpus ({redact(uri)}), so the next run would read its "
                f"files; {_MEND}, or in a hidden one (its name begins with `_`)"
            )


def require_lasting(uri: str) -> None:
    """Refuse a relative folder in a Ray job: it is relative to a copy of the submitted folder, deleted by Ray.

    Raises: UsageError.
    """
    scheme, separator, rest = uri.partition("://")
    path = rest if separator else uri
    if os.environ.get(IN_A_JOB) and (not separator or scheme in _LOCAL) and not path.startswith(("/", "~")):
        raise UsageError(
            f"output.uri {uri}: a relative folder, and this is a Ray job: it would lie in the job's working folder, which "
            "Ray deletes; give an absolute path that all nodes have, or the URI of an object store"
        )


def _place(uri: str, options: Mapping[str, Any]) -> tuple[str, str]:
    """The store, and the path in it without a slash at its end. Local paths are resolved up to the first wildcard."""
    scheme, separator, rest = uri.rpartition("::")[2].rpartition("://")
    if not separator or scheme in _LOCAL:
        path = LocalFileSystem._strip_protocol(uri)
        fixed, wild = _split(path)
        return "file", f"{os.path.realpath(fixed or '/')}/{wild}".rstrip("/") if wild else os.path.realpath(path)
    scheme = "s3" if scheme == "s3a" else scheme
    client = options.get("client_kwargs")
    endpoint = options.get("endpoint_url") or (client.get("endpoint_url") if isinstance(client, Mapping) else None)
    return f"{scheme}://{endpoint or os.environ.get('AWS_ENDPOINT_URL', '')}", rest.strip("/")


def _split(path: str) -> tuple[str, str]:
    """The folders before the first wildcard, and the rest; ('path', '') without one."""
    magic = next((at for at, char in enumerate(path) if char in _MAGIC), None)
    if magic is None:
        return path, ""
    slash = path.rfind("/", 0, magic)
    return path[: max(slash, 0)], path[slash + 1 :]


def _root(path: str) -> str:
    return _split(path)[0]


def _below(folder: str) -> str:
    """What paths below a folder begin with."""
    return f"{folder.rstrip('/')}/" if folder else ""


def _lists(corpus: str, output: str) -> bool:
    """Whether the corpus, a prefix or a glob, would list a file of the output."""
    fixed, wild = _split(corpus)
    if not output.startswith(_below(fixed)):
        return False
    rest = output[len(_below(fixed)) :]
    for ours in _OURS:
        path = f"{rest}/{ours}"
        patterns = (wild, f"{wild}/**") if wild else ("**",)  # a glob of folders alone means what is in them
        if not _hidden(path) and any(_matches(path.split("/"), pattern.split("/")) for pattern in patterns):
            return True
    return False


def _hidden(path: str) -> bool:
    """As listings of a corpus leave out names (workers/storage/objects.py)."""
    return any(part.startswith((".", "_")) and "=" not in part for part in path.split("/"))


def _matches(path: list[str], pattern: list[str]) -> bool:
    """As fsspec's glob: `**` stands for any number of folders, other wildcards do not cross a slash."""
    if not pattern:
        return not path
    if "**" in pattern[0]:
        return any(_matches(path[at:], pattern[1:]) for at in range(len(path) + 1)) or len(pattern) == 1
    return bool(path) and fnmatch.fnmatchcase(path[0], pattern[0]) and _matches(path[1:], pattern[1:])
