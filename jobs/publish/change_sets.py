"""Change sets: what a loader must delete, upsert and patch to bring its store from one snapshot to another.

    FOLDER/deletes-<n>.parquet, upserts-<n>.parquet, patches-<n>.parquet    the rows (workers/snapshot/changes/write.py)
    FOLDER/changes.json                                                    the counts and the files; put last

    compare_runs     two runs -> ChangeSet, counted; with a folder also written
    stored_changes   the set that was written with the publication of a run
    write_night      the same, written: called before CURRENT.json is replaced (output.changes)

A set is a function of the two snapshots: whoever was killed while it was written writes the same files again. changes.json
holds a digest of both snapshots' receipts, so a set of parts that were made anew since is not taken for this one.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from jobs.state.current import read_current
from jobs.state.stored_run import StoredRun
from workers.errors import ObjectError, RunAborted, UsageError
from workers.host.spill_file import local_disk, own_spill_folder
from workers.records.shard import OutputFile
from workers.snapshot.changes.compare import Comparison, Counts
from workers.snapshot.changes.reuse import Remade
from workers.snapshot.changes.sides import sides_of, why_not
from workers.snapshot.changes.write import write_changes
from workers.storage.store import Store
from workers.table.part_file import PartName
from workers.table.paths import file_name
from workers.table.schema import OutputSchema

DOCUMENT = "changes.json"
COUNTS = ("added", "changed", "patched", "deleted")
log = logging.getLogger("reembed")


class Folder(NamedTuple):
    """Where files are written."""

    store: Store
    path: str  # relative to the store's root

    @property
    def document(self) -> str:
        return f"{self.path}/{DOCUMENT}"


@dataclass(frozen=True, slots=True)
class ChangeSet:
    """`files`: with their paths below the folder's store; none where the set was only counted."""

    old: str | None
    new: str
    counts: Counts
    rows: int  # of the new snapshot: what the store holds afterwards, if no key occurs twice
    digest: str
    folder: Folder | None = None
    files: tuple[OutputFile, ...] = ()

    def report(self) -> dict[str, Any]:
        """As --json prints it."""
        folder = self.folder
        return {
            "from": self.old,
            "to": self.new,
            **{name: getattr(self.counts, name) for name in COUNTS},
            "rows": self.rows,
            "shared_keys": self.counts.shared_keys,
            "files": [folder.store.uri_of(file.path) for file in self.files] if folder is not None else [],
        }

    def document(self) -> bytes:
        files = [
            {"name": file_name(file.path), "rows": file.rows, "bytes": file.bytes, "sha256": file.sha256}
            for file in self.files
        ]
        return json.dumps(self.report() | {"files": files, "digest": self.digest}, indent=1).encode()

    @classmethod
    def from_document(cls, data: bytes, folder: Folder) -> ChangeSet:
        """Raises: ValueError, KeyError, TypeError for anything else."""
        raw = json.loads(data)
        files = [
            OutputFile(f"{folder.path}/{file_name(item['name'])}", item["rows"], item["bytes"], item["sha256"], "")
            for item in raw["files"]
        ]
        counts = Counts(*(int(raw[name]) for name in (*COUNTS, "shared_keys")))
        return cls(raw["from"], raw["to"], counts, raw["rows"], raw["digest"], folder, tuple(files))


def compare_runs(
    old: StoredRun | None,
    new: StoredRun,
    folder: Folder | None = None,
    check: Callable[[], None] = lambda: None,
    *,
    whole: bool = False,
) -> ChangeSet:
    """What leads from `old` (None: from nothing) to `new`, both of one output.

    Args:
        folder: where the files are written; a set that is there already, whole, is not made again. None: rows are counted.
        check: called now and then; may raise.
        whole: parts that both have are read as well (sides.py).
    Raises:
        UsageError: the snapshots cannot be compared. ObjectError: a part is gone or damaged. RunAborted: a receipt is.
        TransientError: the store, or the local disk is full.
    """
    digest = digest_of(old, new) + ("-whole" if whole else "")
    if folder is not None and (found := _whole(folder, digest)) is not None:
        return found
    if reason := why_not(None, new.schema):
        raise UsageError(f"snapshot {new.run_id} has no change sets: {reason}; rename it in the source, or do not keep it")
    if old is not None and (reason := why_not(old.schema, new.schema)):
        raise UsageError(
            f"snapshot {new.run_id} cannot be compared with {old.run_id}: {reason}; load it whole (--from none)"
        )
    same = old is not None and old.run_id == new.run_id
    before, after = sides_of(None if old is None else _facts(old), _facts(new), whole)
    spill = own_spill_folder()
    with local_disk(spill):
        work = Path(tempfile.mkdtemp(prefix="changes-", dir=spill))
    try:
        if same:
            return ChangeSet(new.run_id, new.run_id, Counts(0, 0, 0, 0, 0), after.rows, digest)
        comparison = Comparison(new.store, before, after, work, check, remade_on(old, new))
        made = ChangeSet(before.run_id if before else None, new.run_id, comparison.counts, after.rows, digest)
        if folder is None:
            return made
        files = write_changes(comparison, new.store, folder.store, folder.path, work, check)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return _commit(made, folder, files, check)


def _commit(made: ChangeSet, folder: Folder, files: list[OutputFile], check: Callable[[], None]) -> ChangeSet:
    """Removes what an earlier attempt over other parts left, and puts the document."""
    written = ChangeSet(made.old, made.new, made.counts, made.rows, made.digest, folder, tuple(files))
    left = folder.store.list(folder.path).keys() - {file.path for file in files} - {folder.document}
    check()
    for path in sorted(left):
        if path.startswith(f"{folder.path}/") and path.endswith(".parquet"):
            folder.store.delete(path)
    folder.store.put(folder.document, written.document())
    return written


def digest_of(old: StoredRun | None, new: StoredRun) -> str:
    """SHA-256 (hex) of the parts of both, as their receipts describe them."""
    sums = hashlib.sha256()
    for run in (old, new):
        sums.update(f"{run.run_id if run is not None else None}\n".encode())
        for file in run.files if run is not None else ():
            sums.update(f"{file.path} {file.sha256} {file.rows}\n".encode("utf-8", "surrogatepass"))
    return sums.hexdigest()


def remade_on(old: StoredRun | None, new: StoredRun) -> list[Remade]:
    """Shards of `new` that took vectors from one shard of `old`, if `new` was made on it."""
    if old is None or new.job is not None or new.record.base != old.run_id:
        return []
    found = []
    for shard in new.shards:
        receipt = new.receipts.get(shard.number)
        if not shard.earlier or receipt is None or receipt.carried_from is not None or not receipt.files:
            continue
        numbers = {name.shard if (name := PartName.parse(path)) is not None else -1 for path in shard.earlier}
        earlier = old.receipts.get(numbers.pop()) if len(numbers) == 1 else None
        if earlier is not None and {file.path for file in earlier.files} == set(shard.earlier):
            parts = frozenset(file.path for file in receipt.files)
            found.append(Remade(parts, frozenset(shard.earlier), receipt.reused_rows))
    return found


def _facts(run: StoredRun) -> tuple[str, OutputSchema, Any]:
    return run.run_id, run.schema, run.files


def _whole(folder: Folder, digest: str) -> ChangeSet | None:
    """The set that is there, if it is this one and all its files are."""
    found = _read(folder)
    if found is None or found.digest != digest:
        return None
    there = folder.store.list(folder.path)
    return found if all(there.get(file.path) == file.bytes for file in found.files) else None


def _read(folder: Folder) -> ChangeSet | None:
    try:
        return ChangeSet.from_document(folder.store.read(folder.document), folder)
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError):
        raise RunAborted(f"{folder.store.uri_of(folder.document)}: no list of changes; delete it and run again") from None


def night_folder(run: StoredRun) -> Folder:
    return Folder(run.store, run.paths.changes)


def stored_changes(old: StoredRun | None, new: StoredRun) -> ChangeSet | None:
    """The set from `old` that was written with the publication of `new`; None: there is none. Raises: RunAborted."""
    found = _read(night_folder(new))
    if found is None or old is None or found.old != old.run_id:
        return None
    return _whole(night_folder(new), digest_of(old, new))


def write_night(new: StoredRun, check: Callable[[], None]) -> Mapping[str, Any] | None:
    """The change set from the snapshot that readers have to `new`, about to be published.

    An earlier snapshot that cannot be compared or read is told, and does not stop the publication.

    Returns:
        The report; None: there is no earlier snapshot, or it cannot be compared.
    Raises:
        RunAborted: `check` says so. UsageError, TransientError: the store, or the local disk is full.
    """
    current = read_current(new.store)
    if current is None or current.run_id == new.run_id:
        return None
    old = StoredRun.open(new.store, current.run_id)
    if old is None:
        log.warning("output.changes: nothing is written: %s", f"the folder of run {current.run_id} is gone")
        return None
    if (reason := why_not(old.schema, new.schema)) is not None:
        log.warning("output.changes: nothing is written: %s", reason)
        return None
    try:
        return compare_runs(old, new, night_folder(new), check).report()
    except ObjectError as error:
        log.warning("output.changes: nothing is written: %s", error)
        return None
