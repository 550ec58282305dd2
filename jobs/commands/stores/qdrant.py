"""Qdrant: one collection, a point a row, brought from snapshot to snapshot by repeating what was not finished.

    point        id: a UUID of the key's digest; payload: id, chunk (not of whole documents), text_hash (hexadecimal) and the
                 other columns; vector: the embedding, float32 or float16
    reembed_loads    a collection without vectors: which snapshot each collection holds, and which one is being loaded

Qdrant has no transactions: between `begin` and `commit` readers find rows of both snapshots, and the state says so.
Dot product is the distance of vectors that the model has normalised, so that Qdrant keeps their bits; it normalises those of
a collection of cosine distance itself.
"""

from __future__ import annotations

import os
import uuid
from typing import Any

import pyarrow as pa

from jobs.commands.stores.store import (
    LOADS,
    WHOLE,
    Shape,
    State,
    attributes_of,
    floats_only,
    gone,
    key_digest,
    keys_of,
    library,
    not_made,
    slices,
    unanswered,
    vectors_of,
)
from workers.config import VectorType
from workers.errors import UsageError
from workers.table.schema import CHUNK, ID, TEXT_HASH

BATCH = 500  # points of a request: with 1,024 components some 10 MB of JSON, of the 32 MB that a server takes
SECONDS = 120  # of a request
NAME = "qdrant"


class Qdrant:
    """A collection. `where`: http(s)://host:port, with QDRANT_API_KEY in the environment; else a folder (local mode)."""

    def __init__(self, where: str, table: str) -> None:
        """Raises: UsageError: the package is missing, or the server does not answer."""
        client = library("qdrant_client", NAME)
        self._models = library("qdrant_client.models", NAME)
        failures = library("qdrant_client.http.exceptions", NAME)
        self.errors: tuple[type[Exception], ...] = (failures.ApiException, OSError, ValueError, RuntimeError)
        self._table, self._shape = table, Shape(0, VectorType.FLOAT32, True, pa.schema([]))
        try:
            if where.startswith(("http://", "https://")):
                key = os.environ.get("QDRANT_API_KEY")
                self._client = client.QdrantClient(url=where, api_key=key, timeout=SECONDS)
            else:
                self._client = client.QdrantClient(path=where)
            self._client.get_collections()
        except self.errors as error:
            raise unanswered(NAME, where, error) from None

    def state(self) -> State:
        there = self._client.collection_exists(self._table)
        found = self._client.retrieve(LOADS, [_uuid(self._table)]) if self._client.collection_exists(LOADS) else []
        if not found:
            if there:
                raise not_made(NAME, self._table)
            return State()
        payload = found[0].payload or {}
        if payload.get("run_id") and not there:
            raise gone(NAME, self._table, payload["run_id"])
        return State(payload.get("run_id"), payload.get("loading"))

    def check(self, shape: Shape) -> None:
        floats_only(shape, NAME)
        if not self._client.collection_exists(self._table):
            return
        wanted, found = self._params(shape), self._client.get_collection(self._table).config.params.vectors
        told = [(each.size, each.distance, each.datatype or self._models.Datatype.FLOAT32) for each in (found, wanted)]
        if told[0] != told[1]:
            there, new = (f"{size} {getattr(kind, 'value', kind)} {getattr(by, 'value', by)}" for size, by, kind in told)
            raise UsageError(
                f"load {NAME}: collection {self._table} has vectors of {there}, the snapshot of {new}; load it into "
                "another --table"
            )

    def begin(self, run_id: str, shape: Shape) -> None:
        self._shape = shape
        if not self._client.collection_exists(LOADS):
            self._client.create_collection(LOADS, vectors_config={})
        self._tell(self.state().run_id if self._client.collection_exists(self._table) else None, run_id)
        if not self._client.collection_exists(self._table):
            self._client.create_collection(self._table, vectors_config=self._params(shape))

    def delete(self, rows: pa.Table) -> None:
        for piece in slices(rows, BATCH):
            points = self._models.PointIdsList(points=[_uuid(*key) for key in keys_of(piece)])
            self._client.delete(self._table, points_selector=points, wait=True)

    def upsert(self, rows: pa.Table) -> None:
        for piece in slices(rows, BATCH):
            vectors = vectors_of(piece, self._shape.dim).tolist()
            ids = [_uuid(*key) for key in keys_of(piece)]
            points = self._models.Batch(ids=ids, vectors=vectors, payloads=self._payloads(piece))
            self._client.upsert(self._table, points=points, wait=True)

    def patch(self, rows: pa.Table) -> None:
        models = self._models
        for piece in slices(rows, BATCH):
            cells = zip(keys_of(piece), self._payloads(piece), strict=True)
            operations = [
                models.OverwritePayloadOperation(overwrite_payload=models.SetPayload(payload=payload, points=[_uuid(*key)]))
                for key, payload in cells
            ]
            self._client.batch_update_points(self._table, update_operations=operations, wait=True)

    def count(self) -> int:
        return int(self._client.count(self._table, exact=True).count)

    def commit(self, run_id: str) -> None:
        self._tell(run_id, None)

    def close(self) -> None:
        self._client.close()

    def _tell(self, run_id: str | None, loading: str | None) -> None:
        payload = {"name": self._table, "run_id": run_id, "loading": loading}
        point = self._models.PointStruct(id=_uuid(self._table), vector={}, payload=payload)
        self._client.upsert(LOADS, points=[point], wait=True)

    def _params(self, shape: Shape) -> Any:
        models = self._models
        kind = models.Datatype.FLOAT16 if shape.vector is VectorType.FLOAT16 else models.Datatype.FLOAT32
        distance = models.Distance.DOT if shape.normalized else models.Distance.COSINE
        return models.VectorParams(size=shape.dim, distance=distance, datatype=kind)

    def _payloads(self, rows: pa.Table) -> list[dict[str, Any]]:
        cells = zip(keys_of(rows), rows[TEXT_HASH].to_pylist(), attributes_of(rows, self._shape), strict=True)
        return [
            attributes | {ID: id_, TEXT_HASH: text_hash.hex()} | ({} if chunk == WHOLE else {CHUNK: chunk})
            for (id_, chunk), text_hash, attributes in cells
        ]


def _uuid(*key: Any) -> str:
    """A point's id must be a number or a UUID."""
    return str(uuid.UUID(bytes=key_digest(*key)))
