"""`reembed search`: nearest neighbours of a query, which is embedded with the snapshot's own model.

Every vector is compared, unless an index is named (--index, or search.index of the configuration): then its files are asked,
and what they do not stand for is compared.
"""

from __future__ import annotations

from typing import Any

from jobs.publish.open_snapshot import load_embedder, open_published, open_store
from jobs.state.current import read_current
from jobs.state.stored_run import StoredRun
from workers.config import LongText, StorageOptions
from workers.errors import UsageError
from workers.snapshot.search import nearest
from workers.snapshot.where import Where
from workers.storage.uris import redact
from workers.table.paths import RunPaths
from workers.table.vectors import Floats
from workers.vectors.index.catalog import CATALOG
from workers.vectors.index.search import IndexedSearch, IndexFiles


def search_snapshot(target: str, text: str, k: int, *, index: str | None = None, where: str | None = None) -> dict[str, Any]:
    """The k nearest rows of the published snapshot, best first.

    Args:
        index: output of `reembed index`. where: a condition on columns of the snapshot (workers/snapshot/where.py).

    Raises:
        UsageError: nothing published, an empty query, an unreadable condition, no index there, or the available model is
            not the snapshot's.
    """
    if not text.strip():
        raise UsageError("search: the text is empty")
    published = open_published(target)
    condition = None if where is None else Where.parse(where, published.schema.rows)
    files = _index_files(published, index)
    embedder = load_embedder(published, query=True, long_text=LongText.TRUNCATE)
    hits = find(published, files, embedder.embed([text])[0], k, condition)
    found = {"query": text, "run_id": published.run_id, "model": published.stamp.model}
    return found | ({"where": where} if where is not None else {}) | {"hits": hits}


def find(
    published: StoredRun, files: IndexFiles | None, vectors: Floats, k: int, where: Where | None
) -> list[dict[str, Any]]:
    """The hits for a query that is embedded already. `files`: None: every vector is compared."""
    store, schema = published.store, published.schema
    if files is None:
        return nearest(store, sorted(file.path for file in published.files), schema, vectors, k, where)
    rows = {file.path: file.rows for file in published.files}
    return IndexedSearch(store, schema, rows, files).nearest(vectors, k, where)


def _index_files(published: StoredRun, index: str | None) -> IndexFiles | None:
    """Raises: UsageError: nothing is published there, or it is no index."""
    options: StorageOptions = {}
    setting = "--index"
    if published.today is not None:
        options = published.today.search.storage_options or published.today.output.storage_options
        setting, index = ("search.index", published.today.search.index) if index is None else (setting, index)
    if index is None:
        return None
    store, _ = open_store(index, options)
    current = read_current(store)
    if current is None:
        raise UsageError(f"{setting}={redact(index)}: nothing is published there; run `reembed index` first, or correct it")
    parts = {file.sha256: file.path for file in published.files}
    return IndexFiles.read(store, current.data_path, RunPaths(current.run_id).table(CATALOG), parts)


def search_text(report: dict[str, Any]) -> str:
    """Score, id, and the start of every kept column."""
    lines = []
    for hit in report["hits"]:
        rest = {key: value for key, value in hit.items() if key not in ("score", "id", "num_tokens", "truncated")}
        shown = "  ".join(f"{key}={_short(value)}" for key, value in rest.items())
        lines.append(f"{hit['score']:.4f}  {hit['id']}  {shown}")
    return "\n".join(lines) or "no rows"


def _short(value: object) -> str:
    text = " ".join(str(value).split())
    return text if len(text) <= 100 else text[:97] + "..."
