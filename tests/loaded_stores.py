"""Two nights of a corpus as snapshots, and what stores hold of them, read by the stores' own clients.

two_nights       rows by hand: the second night changes, patches, deletes and adds some
publish_night    a night as the published snapshot of an output
rows_of          store kind -> a function that reads a table: id, or id#chunk -> Row
differences      keys whose rows are not the night's; a row is compared by vector (bits), text hash and kept columns
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tests.vector_snapshots import publish_vectors
from tests.workers.output_samples import unit_vectors
from workers.records.documents import text_hash

BEGINNING = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Row:
    """`vector`: the bytes of its float32 numbers. `cells`: the kept columns, as JSON has them."""

    vector: bytes
    text_hash: str
    cells: Mapping[str, Any]


@dataclass(frozen=True)
class Night:
    """Row by row."""

    ids: tuple[str, ...]
    texts: tuple[str, ...]
    vectors: NDArray[np.float32]
    langs: tuple[str | None, ...]

    @property
    def at(self) -> list[datetime]:
        return [BEGINNING + timedelta(seconds=len(text)) for text in self.texts]

    @property
    def tags(self) -> list[list[str]]:
        return [[text[:1], 'quoted "ü"'] for text in self.texts]

    def rows(self) -> dict[str, Row]:
        return {
            id_: Row(vector.tobytes(), text_hash(text).hex(), {"lang": lang, "at": at.isoformat(), "tags": tags})
            for id_, text, vector, lang, at, tags in zip(
                self.ids, self.texts, self.vectors, self.langs, self.at, self.tags, strict=True
            )
        }


def two_nights(rows: int, dim: int = 16) -> tuple[Night, Night]:
    """A hundredth changed, a two-hundredth patched, a three-hundredth deleted, another added; one each at least."""
    ids = tuple(str(number) for number in range(rows))
    langs: tuple[str | None, ...] = tuple(("de", "fr", None)[number % 3] for number in range(rows))
    first = Night(ids, ids, unit_vectors(rows, dim), langs)
    changed, patched, gone = max(1, rows // 100), max(1, rows // 200), max(1, rows // 300)
    fresh = unit_vectors(changed + gone, dim, seed=1)
    vectors = np.concatenate([fresh[:changed], first.vectors[changed : rows - gone], fresh[changed:]])
    added = tuple(f"added-{number}" for number in range(gone))
    kept = ids[: rows - gone]
    texts = (*(f"new {id_}" for id_ in kept[:changed]), *kept[changed:], *added)
    langs = (*langs[:changed], *(["it"] * patched), *langs[changed + patched : rows - gone], *(["es"] * gone))
    return first, Night((*kept, *added), texts, vectors, langs)


def counts_of(rows: int) -> dict[str, int]:
    """Of the change set from the first night to the second."""
    share = {"changed": rows // 100, "patched": rows // 200, "deleted": rows // 300, "added": rows // 300}
    return {name: max(1, count) for name, count in share.items()}


def publish_night(output: Path, night: Night, **more: Any) -> str:
    """Returns the run id."""
    keep = {
        "lang": pa.array(night.langs, pa.string()),
        "at": pa.array(night.at, pa.timestamp("us", "UTC")),
        "tags": pa.array(night.tags, pa.list_(pa.string())),
    }
    return publish_vectors(output, night.vectors, ids=night.ids, texts=night.texts, keep=keep, **more)


def differences(night: Night, found: Mapping[str, Row]) -> list[str]:
    wanted = night.rows()
    return sorted(key for key in wanted.keys() | found.keys() if wanted.get(key) != found.get(key))


def _pgvector(where: str, table: str) -> dict[str, Row]:
    import psycopg

    with psycopg.connect(where) as connection:
        found = connection.execute(
            f"SELECT id, chunk, embedding::text, encode(text_hash, 'hex'), attributes FROM {table}"
        ).fetchall()
    return {_key(id_, chunk): _row(json.loads(vector), text_hash, cells) for id_, chunk, vector, text_hash, cells in found}


def _lancedb(where: str, table: str) -> dict[str, Row]:
    import lance

    found = lance.dataset(f"{where}/{table}.lance", version="reembed").to_table().to_pylist()
    return {
        _key(row["id"], row["chunk"]): _row(row["embedding"], row["text_hash"].hex(), row | {"at": row["at"].isoformat()})
        for row in found
    }


def _qdrant(where: str, table: str) -> dict[str, Row]:
    from qdrant_client import QdrantClient

    client = QdrantClient(path=where)
    found, _ = client.scroll(table, limit=1_000_000, with_vectors=True)
    client.close()
    payloads = [(point.payload, point.vector) for point in found]
    return {_key(cells["id"], cells.get("chunk", -1)): _row(vector, cells["text_hash"], cells) for cells, vector in payloads}


def _milvus(where: str, table: str) -> dict[str, Row]:
    from pymilvus import MilvusClient

    client = MilvusClient(where)
    client.load_collection(table)
    fields = ["id", "chunk", "text_hash", "embedding", "attributes"]
    found = client.query(table, filter="chunk >= -1", output_fields=fields, limit=16_000)
    client.close()
    return {_key(row["id"], row["chunk"]): _row(row["embedding"], row["text_hash"], row["attributes"]) for row in found}


def _opensearch(where: str, table: str) -> dict[str, Row]:
    from opensearchpy import OpenSearch

    with OpenSearch(hosts=[where], timeout=60) as client:
        client.indices.refresh(index=table)
        view = client.create_pit(index=table, params={"keep_alive": "1m"})["pit_id"]
        found = _pages(lambda more: client.search(body=_PAGE | {"pit": {"id": view, "keep_alive": "1m"}} | more))
        client.delete_pit(body={"pit_id": [view]})
    return _documents(found)


def _elasticsearch(where: str, table: str) -> dict[str, Row]:
    from elasticsearch import Elasticsearch

    with Elasticsearch(where, request_timeout=60) as client:
        client.indices.refresh(index=table)
        view = client.open_point_in_time(index=table, keep_alive="1m")["id"]
        found = _pages(lambda more: client.search(pit={"id": view, "keep_alive": "1m"}, **_PAGE, **more).body)
        client.close_point_in_time(id=view)
    return _documents(found)


_PAGE: dict[str, Any] = {
    "size": 1_000,
    "sort": [{"text_hash": "asc"}, {"id": "asc"}, {"chunk": {"order": "asc", "missing": -1}}],
}


def _pages(search: Callable[[dict[str, Any]], Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    after: dict[str, Any] = {}
    while hits := search(after)["hits"]["hits"]:
        found += [hit["_source"] for hit in hits]
        after = {"search_after": hits[-1]["sort"]}
    return found


def _documents(found: list[dict[str, Any]]) -> dict[str, Row]:
    return {
        _key(cells["id"], cells.get("chunk", -1)): _row(cells["embedding"], cells["text_hash"], cells["attributes"])
        for cells in found
    }


def _key(id_: Any, chunk: int) -> str:
    return str(id_) if chunk == -1 else f"{id_}#{chunk}"


def _row(vector: Any, text_hash: str, cells: Mapping[str, Any]) -> Row:
    assert (cells["num_tokens"], cells["truncated"]) == (1, False)
    kept = {name: cells[name] for name in ("lang", "at", "tags")}
    return Row(np.asarray(vector, np.float32).tobytes(), text_hash, kept)


rows_of: dict[str, Callable[[str, str], dict[str, Row]]] = {
    "pgvector": _pgvector,
    "lancedb": _lancedb,
    "qdrant": _qdrant,
    "milvus": _milvus,
    "opensearch": _opensearch,
    "elasticsearch": _elasticsearch,
}
