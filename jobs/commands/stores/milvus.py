"""Milvus: one collection, an entity a row, brought from snapshot to snapshot by repeating what was not finished.

    entity           key (32 hexadecimal digits: the digest of id and chunk), id, chunk (-1 for a whole document), text_hash,
                     attributes (JSON: the other columns), embedding (float32; float16 is widened, which loses nothing)
    reembed_loads    a collection: which snapshot each collection holds, and which one is being loaded

Milvus has no transactions: between `begin` and `commit` readers find rows of both snapshots, and the state says so. A patch
reads the vector that is there and puts the whole entity, because not every server merges.
"""

from __future__ import annotations

import os
from typing import Any

import pyarrow as pa

from jobs.commands.stores.store import (
    KEY_BYTES,
    LOADS,
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
from workers.table.schema import TEXT_HASH

BATCH = 1_000  # entities of a request: with 1,024 components 4 MB, of the 64 MB that a server takes
LONGEST = 65_535  # bytes of a VARCHAR
DIGITS = 2 * KEY_BYTES
NAME = "milvus"


class Milvus:
    """A collection. `where`: http(s)://host:port, with MILVUS_TOKEN in the environment; else a file `*.db` (Milvus Lite)."""

    def __init__(self, where: str, table: str) -> None:
        """Raises: UsageError: the package is missing, or the server does not answer."""
        pymilvus = library("pymilvus", NAME)
        self._kinds = pymilvus.DataType
        self.errors: tuple[type[Exception], ...] = (pymilvus.MilvusException, OSError, ValueError, RuntimeError)
        self._table, self._shape = table, Shape(0, VectorType.FLOAT32, True, pa.schema([]))
        try:
            self._client = pymilvus.MilvusClient(uri=where, token=os.environ.get("MILVUS_TOKEN", ""))
            self._client.list_collections()
        except self.errors as error:
            raise unanswered(NAME, where, error) from None

    def state(self) -> State:
        there, known = (self._client.has_collection(name) for name in (self._table, LOADS))
        if known:
            self._ready(LOADS, "unused", "IP")
        found = self._client.get(LOADS, ids=[self._table], output_fields=["run_id", "loading"]) if known else []
        if not found:
            if there:
                raise not_made(NAME, self._table)
            return State()
        if found[0]["run_id"] and not there:
            raise gone(NAME, self._table, found[0]["run_id"])
        return State(found[0]["run_id"] or None, found[0]["loading"] or None)

    def check(self, shape: Shape) -> None:
        floats_only(shape, NAME)
        if not self._client.has_collection(self._table):
            return
        fields = {field["name"]: field for field in self._client.describe_collection(self._table)["fields"]}
        there = _told(int(fields["embedding"]["params"]["dim"]), fields["id"]["type"] == self._kinds.INT64)
        new = _told(shape.dim, shape.id_is_number)
        if there != new:
            raise UsageError(
                f"load {NAME}: collection {self._table} has {there}, the snapshot {new}; load it into another --table"
            )

    def begin(self, run_id: str, shape: Shape) -> None:
        self._shape = shape
        there = self._client.has_collection(self._table)
        if not self._client.has_collection(LOADS):
            self._create_loads()
            self._ready(LOADS, "unused", "IP")
        self._tell(self.state().run_id if there else None, run_id)
        if not there:
            self._create(shape)
        self._ready(self._table, "embedding", "IP" if shape.normalized else "COSINE")

    def delete(self, rows: pa.Table) -> None:
        for piece in slices(rows, BATCH):
            self._client.delete(self._table, ids=[key_digest(*key).hex() for key in keys_of(piece)])

    def upsert(self, rows: pa.Table) -> None:
        for piece in slices(rows, BATCH):
            vectors = vectors_of(piece, self._shape.dim).astype("float32").tolist()
            entities = zip(self._entities(piece), vectors, strict=True)
            self._client.upsert(self._table, data=[entity | {"embedding": vector} for entity, vector in entities])

    def patch(self, rows: pa.Table) -> None:
        for piece in slices(rows, BATCH):
            entities = self._entities(piece)
            ids = [entity["key"] for entity in entities]
            found = self._client.get(self._table, ids=ids, output_fields=["key", "embedding"])
            vectors = {row["key"]: row["embedding"] for row in found}
            if missing := [entity["id"] for entity in entities if entity["key"] not in vectors]:
                raise RuntimeError(f"{len(missing)} rows to be patched are not there, e.g. id {missing[0]!r}")
            data = [entity | {"embedding": vectors[entity["key"]]} for entity in entities]
            self._client.upsert(self._table, data=data)

    def count(self) -> int:
        self._client.load_collection(self._table)  # a server that began anew holds nothing in memory
        return int(self._client.query(self._table, filter="", output_fields=["count(*)"])[0]["count(*)"])

    def commit(self, run_id: str) -> None:
        self._tell(run_id, None)

    def close(self) -> None:
        self._client.close()

    def _tell(self, run_id: str | None, loading: str | None) -> None:
        told = {"name": self._table, "run_id": run_id or "", "loading": loading or "", "unused": [0.0, 1.0]}
        self._client.upsert(LOADS, data=[told])

    def _create_loads(self) -> None:
        schema = self._client.create_schema(auto_id=False, enable_dynamic_field=False)
        schema.add_field("name", self._kinds.VARCHAR, is_primary=True, max_length=64)
        schema.add_field("run_id", self._kinds.VARCHAR, max_length=64)
        schema.add_field("loading", self._kinds.VARCHAR, max_length=64)
        # no collection is without vectors
        schema.add_field("unused", self._kinds.FLOAT_VECTOR, dim=2)
        self._client.create_collection(LOADS, schema=schema, consistency_level="Strong")

    def _create(self, shape: Shape) -> None:
        schema = self._client.create_schema(auto_id=False, enable_dynamic_field=False)
        schema.add_field("key", self._kinds.VARCHAR, is_primary=True, max_length=DIGITS)
        if shape.id_is_number:
            schema.add_field("id", self._kinds.INT64)
        else:
            schema.add_field("id", self._kinds.VARCHAR, max_length=LONGEST)
        schema.add_field("chunk", self._kinds.INT64)
        schema.add_field("text_hash", self._kinds.VARCHAR, max_length=DIGITS)
        schema.add_field("attributes", self._kinds.JSON)
        schema.add_field("embedding", self._kinds.FLOAT_VECTOR, dim=shape.dim)
        self._client.create_collection(self._table, schema=schema, consistency_level="Strong")

    def _ready(self, name: str, vectors: str, metric: str) -> None:
        """Indexed and loaded, else nothing is read: a loader may have been killed in between, or a server begun anew."""
        if not self._client.list_indexes(name):
            index = self._client.prepare_index_params()
            index.add_index(vectors, index_type="AUTOINDEX", metric_type=metric)
            self._client.create_index(name, index)
        self._client.load_collection(name)

    def _entities(self, rows: pa.Table) -> list[dict[str, Any]]:
        """Without vectors."""
        cells = zip(keys_of(rows), rows[TEXT_HASH].to_pylist(), attributes_of(rows, self._shape), strict=True)
        return [
            {
                "key": key_digest(*key).hex(),
                "id": key[0],
                "chunk": key[1],
                "text_hash": text_hash.hex(),
                "attributes": attributes,
            }
            for key, text_hash, attributes in cells
        ]


def _told(dim: int, number: bool) -> str:
    return f"vectors of {dim} components and ids that are {'numbers' if number else 'text'}"
