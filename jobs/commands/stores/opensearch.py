"""OpenSearch, Elasticsearch: an index, a document a row, brought from snapshot to snapshot by repeating what was left.

    document     _id: 32 hexadecimal digits, the digest of id and chunk; id, chunk (not of whole documents), text_hash
                 (hexadecimal), attributes (the other columns), embedding (float32; float16 is widened, which loses nothing)
    _meta        of the index's mapping, `reembed`: which snapshot the index holds, and which one is being loaded

Neither server has transactions: between `begin` and `commit` readers find rows of both snapshots, and the state says so.
A state that lies in the index itself goes where the index goes: into its backups, and away with it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from jobs.commands.stores.bulk import Action, send
from jobs.commands.stores.search_fields import (
    ATTRIBUTES,
    INNER_PRODUCT,
    absent_fields,
    fields_of,
    merges,
    vector_field,
    vector_texts,
    vector_told,
)
from jobs.commands.stores.search_server import SearchError, SearchServer, address, credentials, variables
from jobs.commands.stores.store import (
    WHOLE,
    Shape,
    State,
    attributes_of,
    floats_only,
    key_digest,
    keys_of,
    not_made,
    slices,
    unanswered,
)
from workers.config import VectorType
from workers.errors import UsageError
from workers.table.schema import CHUNK, EMBEDDING, ID, TEXT_HASH

BATCH = 1_000  # rows whose documents are in memory: with 1,024 components some 12 MB
OURS = "reembed"  # the key of _meta


class OpenSearch:
    """An index. `where`: http(s)://host:port, with credentials in the environment."""

    name = "opensearch"
    most_components = 16_000

    def __init__(self, where: str, table: str) -> None:
        """Raises: UsageError: there is no such server."""
        self.errors: tuple[type[Exception], ...] = (SearchError,)
        self._index, self._shape, self._merges = table, Shape(0, VectorType.FLOAT32, True, pa.schema([])), False
        self._server = SearchServer(address(self.name, where), credentials(self.name))
        try:
            found = _kind(self._server.ask("GET", "", patient=False))
        except SearchError as error:
            if error.status in (401, 403):
                given = " or ".join(variables(self.name))
                raise UsageError(
                    f"load {self.name}: {error}; give {given} by environment, and it may need more rights"
                ) from None
            raise unanswered(self.name, where, error) from None
        if found != self.name:
            raise UsageError(f"load {self.name}: the server at {where} is {found}; name the store that it is")

    def state(self) -> State:
        mapping = self._mapping()
        if mapping is None:
            return State()
        known = _known(mapping)
        if known is None and self.count():
            raise not_made(self.name, self._index)
        return known or State()  # an empty index may be made with settings of somebody's own

    def check(self, shape: Shape) -> None:
        floats_only(shape, self.name)
        if shape.dim > self.most_components:
            most = f"{self.name} takes {self.most_components:,} (model.truncate_dim)"
            raise UsageError(f"load {self.name}: {shape.dim:,} components; {most}")
        found = (self._mapping() or {}).get("properties", {})
        if not found:
            return
        wanted = fields_of(shape, vector_field(self.name, shape))
        there, new = (_told(fields) for fields in (wanted | found, wanted))
        if there != new:
            raise UsageError(
                f"load {self.name}: index {self._index} has {there}, the snapshot {new}; load it into another --table"
            )
        if not shape.normalized and vector_told(found.get(EMBEDDING, {}))[2] in INNER_PRODUCT:
            raise UsageError(
                f"load {self.name}: index {self._index} compares by inner product, and the model does not normalise its "
                "vectors; load them into another --table"
            )

    def begin(self, run_id: str, shape: Shape) -> None:
        self._shape = shape
        fields = fields_of(shape, vector_field(self.name, shape))
        if self._mapping() is None:
            self._create(fields, run_id)
        state, mapping = self.state(), self._mapping() or {}
        found = mapping.get("properties", {})
        self._merges = merges(shape, found)
        self._tell(State(state.run_id, run_id), absent_fields(fields, found))

    def delete(self, rows: pa.Table) -> None:
        keys = keys_of(rows)
        send(self._server, self._index, (Action(_row(key), _line("delete", key), absent=True) for key in keys))

    def upsert(self, rows: pa.Table) -> None:
        send(self._server, self._index, self._documents(rows))

    def patch(self, rows: pa.Table) -> None:
        send(self._server, self._index, self._patches(rows))

    def count(self) -> int:
        """Raises: SearchError: a shard did not answer."""
        self._whole("POST", f"{self._index}/_refresh")
        return int(self._whole("GET", f"{self._index}/_count")["count"])

    def commit(self, run_id: str) -> None:
        known = _known(self._mapping() or {})
        if known is None:  # a deleted index is made anew by the first document that is put, with fields as guessed
            raise SearchError(0, "the index was made anew while it was loaded; drop it")
        if known.loading != run_id:
            raise SearchError(0, f"another loader has changed the index: it says that {known.loading} is being loaded")
        self._tell(State(run_id), {})

    def close(self) -> None:
        self._server.close()

    def _mapping(self) -> dict[str, Any] | None:
        """None: there is no such index. Raises: UsageError: an alias of several."""
        try:
            found = self._server.ask("GET", f"{self._index}/_mapping")
        except SearchError as error:
            if error.status == 404:
                return None
            raise
        if len(found) != 1:
            raise UsageError(f"load {self.name}: {self._index} stands for {len(found)} indexes; choose another --table")
        mapping: dict[str, Any] = next(iter(found.values())).get("mappings", {})
        return mapping

    def _create(self, fields: dict[str, Any], run_id: str) -> None:
        mappings = {"dynamic": False, "_meta": {OURS: _meta(State(None, run_id))}, "properties": fields}
        settings = {"index": {"knn": True}} if self.name == "opensearch" else {}
        try:
            self._acknowledged(self._index, {"settings": settings, "mappings": mappings})
        except SearchError as error:
            if error.kind != "resource_already_exists_exception":  # a try whose answer was lost has made it
                raise

    def _tell(self, state: State, fields: dict[str, Any]) -> None:
        """`fields`: of columns that are new. What others keep in `_meta` stays."""
        meta = (self._mapping() or {}).get("_meta", {}) | {OURS: _meta(state)}
        self._acknowledged(f"{self._index}/_mapping", {"_meta": meta} | ({"properties": fields} if fields else {}))

    def _acknowledged(self, path: str, body: dict[str, Any]) -> None:
        """Raises: SearchError: some nodes have not taken the change."""
        if not self._server.ask("PUT", path, body).get("acknowledged"):
            raise SearchError(0, f"PUT {path} was not acknowledged by all nodes in time")

    def _whole(self, method: str, path: str) -> dict[str, Any]:
        answer = self._server.ask(method, path)
        if answer.get("_shards", {}).get("failed"):
            raise SearchError(0, f"{method} {path}: {answer['_shards']['failed']} shards did not answer")
        return answer

    def _documents(self, rows: pa.Table) -> Iterator[Action]:
        for piece in slices(rows, BATCH):
            cells = zip(keys_of(piece), self._without_vectors(piece), vector_texts(piece, self._shape.dim), strict=True)
            for key, document, vector in cells:
                body = f'{_json(document)[:-1]},"{EMBEDDING}":[{vector}]}}\n'
                yield Action(_row(key), _line("index", key) + body.encode())

    def _patches(self, rows: pa.Table) -> Iterator[Action]:
        for piece in slices(rows, BATCH):
            for key, document in zip(keys_of(piece), self._without_vectors(piece), strict=True):
                # a partial document is merged into the old one: nested attributes are replaced by clearing all before
                steps = [{ATTRIBUTES: None}, document] if self._merges else [document]
                lines = b"".join(_line("update", key) + f"{_json({'doc': step})}\n".encode() for step in steps)
                yield Action(_row(key), lines, items=len(steps))

    def _without_vectors(self, rows: pa.Table) -> list[dict[str, Any]]:
        cells = zip(keys_of(rows), rows[TEXT_HASH].to_pylist(), attributes_of(rows, self._shape), strict=True)
        return [
            {ID: id_, **({} if chunk == WHOLE else {CHUNK: chunk}), TEXT_HASH: text_hash.hex(), ATTRIBUTES: attributes}
            for (id_, chunk), text_hash, attributes in cells
        ]


class Elasticsearch(OpenSearch):
    """Its requests are the same; the field of the vectors is another."""

    name = "elasticsearch"
    most_components = 4_096


def _kind(told: dict[str, Any]) -> str:
    """Which server calls itself so. OpenSearch may be set to tell a version of Elasticsearch, but not its tagline."""
    version, tagline = told.get("version"), str(told.get("tagline"))
    if not isinstance(version, dict):
        raise SearchError(0, "it is no OpenSearch and no Elasticsearch")
    return "opensearch" if version.get("distribution") == "opensearch" or "OpenSearch" in tagline else "elasticsearch"


def _told(fields: dict[str, Any]) -> str:
    kind, dim, _ = vector_told(fields.get(EMBEDDING, {}))
    ids = fields.get(ID, {}).get("type")
    return f"{kind} of {dim} components and ids that are {'numbers' if ids == 'long' else 'text'}"


def _known(mapping: dict[str, Any]) -> State | None:
    """None: no loader has written to the mapping."""
    found = mapping.get("_meta", {}).get(OURS)
    return None if found is None else State(found.get("run_id") or None, found.get("loading") or None)


def _meta(state: State) -> dict[str, str]:
    """Text in place of None: a server that merges `_meta` might keep what is null."""
    return {"run_id": state.run_id or "", "loading": state.loading or ""}


def _line(operation: str, key: tuple[Any, int]) -> bytes:
    return f'{{"{operation}":{{"_id":"{key_digest(*key).hex()}"}}}}\n'.encode()


def _row(key: tuple[Any, int]) -> str:
    return f"id {key[0]!r}" + ("" if key[1] == WHOLE else f" chunk {key[1]}")


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
