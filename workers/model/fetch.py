"""Downloads a model to a local folder: from the hub, or from object storage.

    fetch_hub      into huggingface_hub's cache, which is used as it is if the hub cannot be reached (HF_HUB_OFFLINE=1)
    fetch_store    list -> digest of the listing -> under a lock for the node: download, verify, rename

A folder in the cache gets its final name only after every file has been downloaded and the store's listing is still the
same, so an interrupted download never looks complete. Pickled weights are never downloaded. Does not interpret the files.
"""

from __future__ import annotations

import contextlib
import fnmatch
import hashlib
import json
import os
import shutil
import uuid
from pathlib import Path, PurePosixPath
from typing import Any

import filelock

from workers.errors import ObjectError, TransientError, UsageError
from workers.storage.client import filesystem
from workers.storage.objects import ObjectInfo, list_objects, open_object
from workers.storage.uris import public_line, redact

WANTED = ("*.json", "*.txt", "*.model", "*.safetensors")  # configuration, vocabularies, weights; never *.bin *.pt *.py
CACHE_VARIABLE = "REEMBED_CACHE"
COPY_BYTES = 8 << 20
LOCK_SECONDS = 3600.0  # a node's replicas start together, and wait for one download of a large model


def fetch_hub(name: str, revision: str | None) -> tuple[Path, str]:
    """Download a hub model. Returns its folder, and the commit of `revision` (a branch, tag or commit).

    Raises:
        UsageError: unknown name or revision, no access, or the hub cannot be reached and the cache does not have it.
    """
    from huggingface_hub import errors, snapshot_download

    shown = f"model.name={name}" + (f" model.revision={revision}" if revision else "")
    try:
        folder = Path(snapshot_download(name, revision=revision, allow_patterns=list(WANTED)))
    except errors.HFValidationError:
        raise UsageError(f"{shown}: neither a folder here nor a valid hub name; write organisation/name or a path") from None
    except errors.GatedRepoError:
        raise UsageError(f"{shown}: the model is gated; accept its terms on the hub and set HF_TOKEN") from None
    except errors.RevisionNotFoundError:
        raise UsageError(f"{shown}: the hub has no such revision; correct model.revision") from None
    except errors.RepositoryNotFoundError:
        raise UsageError(
            f"{shown}: neither a folder here nor a model on the hub; correct it, or set HF_TOKEN if private"
        ) from None
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled):
        raise UsageError(
            f"{shown}: not in the hub cache, and the hub is out of reach (offline?); "
            "download it once with `hf download`, or give a local folder or object-store URI"
        ) from None
    except (errors.HfHubHTTPError, OSError, ValueError) as error:
        reason = public_line(error) or type(error).__name__
        raise UsageError(f"{shown}: the hub could not deliver it ({reason}); try again, or give a local folder") from None
    return folder, folder.name


def fetch_store(uri: str, options: dict[str, Any]) -> Path:
    """Download a model folder from object storage. The local copy is shared by all processes of this node.

    Raises:
        UsageError: no model there, or access denied. TransientError: the store failed, or the model changed meanwhile.
    """
    listing = _list_model(uri, options)
    wanted = {name: item for name, item in listing.items() if any(fnmatch.fnmatch(name, pattern) for pattern in WANTED)}
    if not wanted:
        raise UsageError(
            f"model.name={redact(uri)}: no model files there ({', '.join(list(listing)[:5])}); name the model's folder"
        )
    key = json.dumps([uri.rstrip("/"), [(name, item.size, item.etag) for name, item in sorted(wanted.items())]])
    target = cache_folder() / "models" / hashlib.sha256(key.encode()).hexdigest()[:32]
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(f"{target}.lock", timeout=LOCK_SECONDS):
            if not _intact(target, wanted):
                _download(uri, options, wanted, target)
    except filelock.Timeout:
        raise TransientError(f"{target}.lock: held for {LOCK_SECONDS:.0f} s by another download of {redact(uri)}") from None
    except ObjectError as error:
        raise TransientError(f"model.name={redact(uri)}: changed while it was fetched ({error}); run again") from error
    return target


def cache_folder() -> Path:
    """The cache of this node: $REEMBED_CACHE, else reembed in $XDG_CACHE_HOME or ~/.cache.

    Raises:
        UsageError: it is relative, so that each working folder would get one of its own.
    """
    shown = os.environ.get(CACHE_VARIABLE) or f"{os.environ.get('XDG_CACHE_HOME') or '~/.cache'}/reembed"
    with contextlib.suppress(RuntimeError):  # no home is known: `~` stays, which is relative
        folder = Path(shown).expanduser()
        if folder.is_absolute():
            return folder
    raise UsageError(
        f"{CACHE_VARIABLE}: the cache would lie in {shown!a}, a relative folder (HOME={os.environ.get('HOME')!a}); "
        f"set {CACHE_VARIABLE} to an absolute path"
    )


def _list_model(uri: str, options: dict[str, Any]) -> dict[str, ObjectInfo]:
    """Path relative to the model's folder -> object."""
    folder = uri.rstrip("/") + "/"
    try:
        objects = list_objects(folder, options)
    except FileNotFoundError:
        raise UsageError(f"model.name={redact(uri)}: no objects there; name the folder that holds config.json") from None
    except UsageError as error:
        raise UsageError(f"model.name={error} (setting model.storage_options)") from None
    fs, root = filesystem(folder, options)
    prefix = fs.unstrip_protocol(root).rstrip("/") + "/"
    listing = {item.uri.removeprefix(prefix): item for item in objects}
    for name in listing:
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            raise UsageError(f"model.name={redact(uri)}: the object name {name!r} leaves the folder; rename it")
    return listing


def _intact(target: Path, wanted: dict[str, ObjectInfo]) -> bool:
    return all((target / name).is_file() and (target / name).stat().st_size == item.size for name, item in wanted.items())


def _download(uri: str, options: dict[str, Any], wanted: dict[str, ObjectInfo], target: Path) -> None:
    for stale in target.parent.glob(f"{target.name}.*.part"):  # left by a process that was killed: this one holds the lock
        shutil.rmtree(stale, ignore_errors=True)
    part = target.with_name(f"{target.name}.{uuid.uuid4().hex}.part")
    try:
        for name, item in wanted.items():
            path = part / name
            path.parent.mkdir(parents=True, exist_ok=True)
            with open_object(item.uri, item.size, item.etag, options) as source, path.open("xb") as sink:
                shutil.copyfileobj(source, sink, COPY_BYTES)
                sink.flush()
                os.fsync(sink.fileno())
        now = _list_model(uri, options)
        if not _intact(part, wanted) or any(now.get(name) != item for name, item in wanted.items()):
            raise TransientError(f"model.name={redact(uri)}: changed while it was fetched; run again")
        if target.exists():  # a damaged copy; rename() needs the name to be free
            shutil.rmtree(target)
        part.rename(target)
    except OSError as error:
        raise TransientError(f"model.name={redact(uri)}: download to {target.parent} failed: {error}") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
