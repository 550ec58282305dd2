"""Opens the published snapshot of an output for reading: used by verify, search, files and status.

A target is a configuration file or the output's URI. Only locations, credentials and model.query_prompt are taken from a
configuration. The source and settings of the snapshot are read from the run itself, so a configuration edited since does not
change them.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from jobs.config import RunConfig, load_config
from jobs.state.current import Current, read_current
from jobs.state.stored_run import StoredRun
from workers.config import LongText, StorageOptions
from workers.errors import UsageError
from workers.storage.store import Store
from workers.storage.uris import redact
from workers.table.paths import RunPaths
from workers.table.representations import derived
from workers.table.schema import EMBEDDING, SnapshotStamp
from workers.table.vectors import Floats
from workers.vectors.arrays import load_arrays

if TYPE_CHECKING:
    from workers.replica.embedder import Embedder


def open_store(target: str, storage_options: StorageOptions | None = None) -> tuple[Store, RunConfig | None]:
    """The output that a target names, and the configuration if the target is one. Raises: UsageError."""
    if Path(target).suffix in (".yaml", ".yml") and "://" not in target:
        config = load_config(target)
        return Store(config.output.uri, config.output.storage_options), config
    return Store(target, storage_options or {}), None


def open_published(target: str, storage_options: StorageOptions | None = None) -> StoredRun:
    """The run of the published snapshot. Raises: as open_current()."""
    return open_current(target, storage_options)[1]


def open_current(target: str, storage_options: StorageOptions | None = None) -> tuple[Current, StoredRun]:
    """CURRENT.json and its run. `storage_options`: for a target that is a URI.

    Raises: UsageError: nothing is published there. RunAborted: its documents are damaged.
    """
    store, today = open_store(target, storage_options)
    current = read_current(store)
    if current is None:
        raise UsageError(f"{redact(store.uri)}: nothing is published there; run `reembed embed` first, or correct the uri")
    run = StoredRun.open(store, current.run_id, today)
    if run is None:
        raise UsageError(
            f"{store.uri_of(RunPaths(current.run_id).record)}: missing; the folder of a published run must stay"
        )
    return current, run


def load_embedder(
    run: StoredRun,
    *,
    query: bool = False,
    single: bool = False,
    long_text: LongText | None = None,
    column: str | None = None,
) -> Embedder:
    """The snapshot's model, loaded in this process.

    `query`, `single`: the texts are queries; one alone will be embedded (Embedder).
    `column`: of the snapshot; its components are returned, before they are stored as its type. None: all of the model, from
    which derived() makes those of any column; of a reduced snapshot those of its vectors.

    Raises: UsageError: it is not available, or its digest differs.
    """
    from workers.replica.embedder import Embedder  # reads the model's files, and may import torch

    projection: Callable[[Floats], Floats] | None = None
    if run.job != "reduce" and column is not None:
        projection = _components(run.stamp, column)
    elif run.job == "reduce":
        from workers.vectors.reduction.projection import Projection

        state = load_arrays(run.store, run.paths.state)
        if state is None:
            raise UsageError(f"{run.store.uri_of(run.paths.state)}: missing; run `reembed reduce` again")
        projection = _after(_components(run.source_stamp, run.record.column or EMBEDDING), Projection.of(state))
    return Embedder(run.config.model, run.stamp, query=query, single=single, long_text=long_text, projection=projection)


def _after(first: Callable[[Floats], Floats], then: Callable[[Floats], Floats]) -> Callable[[Floats], Floats]:
    return lambda vectors: then(first(vectors))


def _components(stamp: SnapshotStamp, column: str) -> Callable[[Floats], Floats]:
    """[N, M] of the model -> [N, D] of that column."""
    form = next(form for form in stamp.formats if form.column == column)
    return lambda vectors: derived(vectors, form, normalize=stamp.normalize)
