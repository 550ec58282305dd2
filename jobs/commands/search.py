"""`reembed search`: exact nearest neighbours of a query, which is embedded with the snapshot's own model."""

from __future__ import annotations

from typing import Any

from jobs.publish.open_snapshot import load_embedder, open_published
from workers.config import LongText
from workers.errors import UsageError
from workers.snapshot.search import nearest


def search_snapshot(target: str, text: str, k: int) -> dict[str, Any]:
    """The k nearest rows of the published snapshot, best first.

    Raises:
        UsageError: nothing published, an empty query, or the available model is not the snapshot's.
    """
    if not text.strip():
        raise UsageError("search: the text is empty")
    published = open_published(target)
    stamp = published.stamp
    embedder = load_embedder(published, query=True, long_text=LongText.TRUNCATE)
    vectors = embedder.embed([text])[0]
    paths = sorted(file.path for file in published.files)
    hits = nearest(published.store, paths, published.schema, vectors, k)
    return {"query": text, "run_id": published.run_id, "model": stamp.model, "hits": hits}


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
