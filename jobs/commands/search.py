"""`reembed search`: nearest neighbours of a query, which is embedded with the snapshot's own model.

Every vector is compared, unless an index is named (--index, or search.index of the configuration): then its files are asked,
and what they do not stand for is compared. Or a small column of vectors finds candidates (--first), and the main one
scores them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from threadpoolctl import threadpool_limits

from jobs.publish.open_snapshot import load_embedder, open_published, open_store
from jobs.state.current import read_current
from jobs.state.stored_run import StoredRun
from workers.config import LongText, StorageOptions
from workers.errors import UsageError
from workers.snapshot.rescoring import OVERSAMPLE, rescored
from workers.snapshot.search import nearest
from workers.snapshot.where import Where
from workers.storage.uris import redact
from workers.table.paths import RunPaths
from workers.table.representations import derived
from workers.table.schema import EMBEDDING
from workers.table.vectors import Floats
from workers.vectors.index.catalog import CATALOG
from workers.vectors.index.search import IndexedSearch, IndexFiles


@dataclass(frozen=True, slots=True)
class Columns:
    """Which columns of vectors a search reads. `oversample`: candidates of `first` for each hit wanted; None: OVERSAMPLE."""

    scores: str = EMBEDDING
    first: str | None = None
    oversample: int | None = None

    @property
    def candidates(self) -> int:
        """Of `first`, for each hit wanted."""
        return self.oversample or OVERSAMPLE


def search_snapshot(
    target: str, text: str, k: int, *, index: str | None = None, where: str | None = None, columns: Columns | None = None
) -> dict[str, Any]:
    """The k nearest rows of the published snapshot, best first.

    Args:
        index: output of `reembed index`. where: a condition on columns of the snapshot (workers/snapshot/where.py).
        columns: None: the main column of every row is compared.

    Raises:
        UsageError: nothing published, an empty query, an unreadable condition, no index there, no such column of vectors, or
            the available model is not the snapshot's.
    """
    if not text.strip():
        raise UsageError("search: the text is empty")
    published = open_published(target)
    columns = _known(columns or Columns(), published, index)
    condition = None if where is None else Where.parse(where, published.schema.plain)
    dense = not published.schema.sparse
    files = _index_files(published, index, columns) if dense and columns.first is None else None
    embedder = load_embedder(published, query=True, single=True, long_text=LongText.TRUNCATE)
    vectors = embedder.embed([text])[0]
    with threadpool_limits(1, "blas"):  # parts are dealt among threads already, and BLAS' own would wait for each other
        hits = find(published, files, vectors, k, condition, columns)
    found: dict[str, Any] = {"query": text, "run_id": published.run_id, "model": published.stamp.model}
    found |= {"column": columns.scores} if columns.scores not in (EMBEDDING, published.schema.column) else {}
    found |= {"first": columns.first, "oversample": columns.candidates} if columns.first is not None else {}
    return found | ({"where": where} if where is not None else {}) | {"hits": hits}


def find(
    published: StoredRun,
    files: IndexFiles | None,
    vectors: Floats,
    k: int,
    where: Where | None,
    columns: Columns | None = None,
) -> list[dict[str, Any]]:
    """The hits for a query of all the model's components. `files`: None: every vector is compared."""
    store, stamp, columns = published.store, published.stamp, columns or Columns()
    schema = published.schema.view(columns.scores)
    forms = {form.column: derived(vectors, form, normalize=stamp.normalize) for form in stamp.formats}
    query = forms[columns.scores]
    paths = sorted(file.path for file in published.files)
    if columns.first is not None:
        first = published.schema.view(columns.first)
        return rescored(store, paths, schema, first, query, forms[columns.first], k, columns.candidates, where)
    if files is None:
        return nearest(store, paths, schema, query, k, where)
    rows = {file.path: file.rows for file in published.files}
    return IndexedSearch(store, schema, rows, files).nearest(query, k, where)


def _known(columns: Columns, published: StoredRun, index: str | None) -> Columns:
    """Raises: UsageError: a column that is not there, or two ways to find candidates."""
    if published.schema.sparse:
        return _of_sparse(columns, published, index)
    there = published.schema.vectors
    for option, name in (("--column", columns.scores), ("--first", columns.first)):
        if name is not None and name not in there:
            raise UsageError(f"{option} {name}: the snapshot's columns of vectors are {', '.join(there)}")
    if columns.first is None and columns.oversample is not None:
        raise UsageError(f"--oversample {columns.oversample}: counts candidates of --first, which is not given")
    if columns.first == columns.scores:
        raise UsageError(f"--first {columns.first}: is the column that scores; name a smaller one, or leave --first out")
    if columns.first is not None and index is not None:
        raise UsageError("--first and --index: both find candidates; give one of them")
    return columns


def _of_sparse(columns: Columns, published: StoredRun, index: str | None) -> Columns:
    """Raises: UsageError: an option for dense vectors."""
    given = {
        "--column": columns.scores != EMBEDDING,
        "--first": columns.first,
        "--oversample": columns.oversample,
        "--index": index,
    }
    for option, value in given.items():
        if value:
            raise UsageError(f"{option}: is for dense vectors, and the snapshot holds sparse ones; remove it")
    if published.today is not None and published.today.search.index is not None:
        raise UsageError("search.index: is for dense vectors, and the snapshot holds sparse ones; remove it")
    return replace(columns, scores=published.schema.column)


def _index_files(published: StoredRun, index: str | None, columns: Columns) -> IndexFiles | None:
    """Raises: UsageError: nothing is published there, it is no index, or one of another column."""
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
    made = StoredRun.open(store, current.run_id)
    of = (made.record.column if made is not None else None) or EMBEDDING
    if of != columns.scores:
        raise UsageError(
            f"{setting}={redact(index)}: was built of the column {of}, and {columns.scores} is searched; give "
            f"--column {of}, or another index"
        )
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
