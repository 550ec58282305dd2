"""OpenSearch and Elasticsearch beside what every store must do: busy and small servers, own indexes, nested attributes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import urllib3

from jobs.commands.load import STORES, load_snapshot
from jobs.commands.stores import bulk, search_server
from jobs.commands.stores.bulk import Action, send
from jobs.commands.stores.search_fields import absent_fields, fields_of, vector_field, vector_texts
from jobs.commands.stores.search_server import SearchError, SearchServer
from jobs.commands.stores.store import Shape, State
from tests.jobs.commands.stores.conftest import ROWS, Nights
from tests.loaded_stores import differences, rows_of
from tests.search_gate import Gate, gate_before
from tests.workers.output_samples import unit_vectors
from workers.config import VectorType
from workers.errors import UsageError

pytestmark = pytest.mark.spread
ROOT = Path(__file__).parents[4]


@pytest.fixture
def gate(opensearch: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    monkeypatch.setattr(search_server, "LONGEST_WAIT", 0.01)
    with gate_before(opensearch) as gate:
        yield gate


@pytest.fixture(params=["opensearch", "elasticsearch"])
def place(request: pytest.FixtureRequest) -> tuple[str, str, str]:
    """A kind of store, its address, and a table of this test."""
    return request.param, request.getfixturevalue(request.param), f"t{os.urandom(6).hex()}"


def _asked(where: str, method: str, path: str, body: Any = None) -> Any:
    return urllib3.request(method, f"{where}/{path}", json=body).json()


def _table() -> str:
    return f"t{os.urandom(6).hex()}"


def test_a_busy_server_is_asked_again(nights: Nights, gate: Gate) -> None:
    """Whole requests refused, halves of them rejected, answers lost after the server did what was asked."""
    table = _table()
    gate.refuse, gate.reject, gate.lose = [429, 503, 502], 3, 2
    report = load_snapshot("opensearch", str(nights.output), gate.where, table)
    assert (report["rows_in_store"], gate.refuse, gate.reject, gate.lose) == (ROWS, [], 0, 0)
    assert differences(nights.first, rows_of["opensearch"](gate.server, table)) == []


def test_a_server_that_stays_busy_ends_the_load(gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    place, rows = ("opensearch", gate.where, _table()), _rows([[0.6, 0.8]] * 5)
    monkeypatch.setattr(search_server, "PATIENCE", 0.1)
    gate.reject = 1 << 30
    with pytest.raises(SearchError, match=r"^429 [1-5] rows were rejected again and again, e\.g\. id '0'$"):
        _loaded(place, "r1", rows)
    gate.reject = 0
    assert len(_loaded(place, "r1", rows)) == 5


def test_requests_are_bounded_by_bytes(gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the loader's limit; and by the server's, once it has refused one."""
    place, vectors = ("opensearch", gate.where, _table()), unit_vectors(200, 2)
    monkeypatch.setattr(bulk, "BYTES", 8_000)
    gate.most_bytes = 3_000
    found = _loaded(place, "r1", _rows(vectors), most=200)
    assert {id_: np.float32(row["embedding"]).tobytes() for id_, row in found.items()} == {
        str(at): vector.tobytes() for at, vector in enumerate(vectors)
    }
    sizes = [len(body) for body in gate.bodies]
    assert max(sizes) > 7_000
    assert max(sizes[5:]) <= 3_000, "what was refused for its size is not tried again with each request"
    gate.most_bytes = 100
    with pytest.raises(
        SearchError, match=r"^413 id '0' has \d+ bytes, and the server takes fewer \(http.max_content_length\)$"
    ):
        _loaded(place, "r2", _rows(vectors))


@pytest.mark.slow
def test_killed_half_way(nights: Nights, gate: Gate) -> None:
    """SIGKILL while the answer to a bulk request is under way: the server has done it, and the loader is gone."""
    table = _table()
    command = [sys.executable, "-m", "jobs.cli", "load", "opensearch", str(nights.output), gate.where, "--table", table]
    loader = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE)
    gate.then = loader.kill
    assert (loader.communicate()[1], loader.returncode) == (b"", -signal.SIGKILL)
    assert _asked(gate.server, "GET", f"{table}/_mapping")[table]["mappings"]["_meta"]["reembed"]["run_id"] == ""
    load_snapshot("opensearch", str(nights.output), gate.where, table)
    assert differences(nights.first, rows_of["opensearch"](gate.server, table)) == []


def test_an_index_that_no_loader_made(nights: Nights, place: tuple[str, str, str]) -> None:
    """With documents it is refused. Without any it is filled, and keeps what its maker chose."""
    kind, where, table = place
    own: dict[str, Any] = {"dense_vector": {"dims": 16, "index": True, "similarity": "cosine"}}
    if kind == "opensearch":
        own = {"knn_vector": {"dimension": 16, "method": {"name": "hnsw", "engine": "lucene", "space_type": "l2"}}}
    name, more = own.popitem()
    mappings = {"_meta": {"owner": "somebody"}, "properties": {"embedding": {"type": name, **more}, "id": {"type": "text"}}}
    settings = {"number_of_replicas": 0} | ({"knn": True} if kind == "opensearch" else {})
    _asked(where, "PUT", table, {"settings": {"index": settings}, "mappings": mappings})
    load_snapshot(kind, str(nights.output), where, table)
    found = _asked(where, "GET", f"{table}/_mapping")[table]["mappings"]
    assert found["_meta"]["owner"] == "somebody"
    assert found["properties"]["id"] == {"type": "text"}
    assert found["properties"]["attributes"]["properties"]["lang"]["type"] == "keyword"
    other = _table()
    _asked(where, "POST", f"{other}/_doc?refresh=true", {"a": 1})
    with pytest.raises(UsageError, match=f"there is a {other} that `reembed load` did not make"):
        load_snapshot(kind, str(nights.output), where, other)


def _rows(vectors: Any, **columns: Any) -> pa.Table:
    """By hand: ids `0`, `1`, …, and kept columns."""
    count = len(vectors)
    cells: dict[str, Any] = {
        "id": pa.array(map(str, range(count))),
        "text_hash": pa.array([bytes(16)] * count, pa.binary(16)),
        "embedding": pa.FixedSizeListArray.from_arrays(pa.array(np.ravel(vectors).astype("float32")), len(vectors[0])),
    }
    return pa.table(cells | columns)


def _loaded(
    place: tuple[str, str, str], run_id: str, rows: pa.Table, *, patched: bool = False, most: int = 10
) -> dict[str, Any]:
    """Loads one set by hand. Returns id -> source."""
    kind, where, table = place
    shape = Shape(2, VectorType.FLOAT32, True, rows.schema)
    with closing(STORES[kind](where, table)) as store:
        store.check(shape)
        store.begin(run_id, shape)
        (store.patch if patched else store.upsert)(rows.drop_columns(["embedding"]) if patched else rows)
        store.count()
        store.commit(run_id)
        assert store.state() == State(run_id)
    return {
        hit["_source"]["id"]: hit["_source"] for hit in _asked(where, "GET", f"{table}/_search?size={most}")["hits"]["hits"]
    }


def test_an_index_that_is_lost_meanwhile(place: tuple[str, str, str]) -> None:
    """The first document makes a deleted index anew, with fields as guessed: it does not become the snapshot."""
    kind, where, table = place
    rows = _rows([[0.6, 0.8]])
    shape = Shape(2, VectorType.FLOAT32, True, rows.schema)
    with closing(STORES[kind](where, table)) as store:
        store.begin("r1", shape)
        _asked(where, "DELETE", table)
        store.upsert(rows)
        assert store.count() == 1
        with pytest.raises(SearchError, match="the index was made anew while it was loaded"):
            store.commit("r1")
        with pytest.raises(UsageError, match="did not make"):
            store.state()


MAPS = pa.map_(pa.string(), pa.int64())


def test_patched_attributes_leave_nothing_behind(place: tuple[str, str, str]) -> None:
    """A partial document is merged: keys of a map, and a column that is kept no more, must go; vectors stay."""
    vectors = [[0.6, 0.8], [1.0, 0.0]]
    first = _rows(vectors, old=["x", "y"], facts=pa.array([[("a", 1), ("b", 2)], None], MAPS))
    _loaded(place, "r1", first)
    new = _rows(vectors, facts=pa.array([[("c", 3)], [("d", 4)]], MAPS), size=pa.array([1.5, float("nan")]))
    found = _loaded(place, "r2", new, patched=True)
    cells = {id_: (row["attributes"], row["embedding"]) for id_, row in found.items()}
    assert cells == {
        "0": ({"facts": [["c", 3]], "size": 1.5}, vectors[0]),
        "1": ({"facts": [["d", 4]], "size": "nan"}, vectors[1]),
    }
    mapping = _asked(place[1], "GET", f"{place[2]}/_mapping")[place[2]]["mappings"]
    assert mapping["properties"]["attributes"]["properties"]["size"]["type"] == "double"


def test_half_rejected_patches_are_sent_again_whole(gate: Gate) -> None:
    """Clearing and setting are two operations: the first, sent again alone, would undo the second."""
    kind = pa.struct([("a", pa.int64()), ("b", pa.int64())])
    place = ("opensearch", gate.where, _table())
    _loaded(place, "r1", _rows([[0.6, 0.8]] * 3, facts=pa.array([{"a": 1, "b": 2}] * 3, kind)))
    gate.reject = 2
    small = pa.struct([("b", pa.int64())])
    found = _loaded(place, "r2", _rows([[0.6, 0.8]] * 3, facts=pa.array([{"b": 3}] * 3, small)), patched=True)
    assert [row["attributes"] for row in found.values()] == [{"facts": {"b": 3}}] * 3


def test_refused_rows_are_named(place: tuple[str, str, str]) -> None:
    _, where, table = place
    _loaded(place, "r1", _rows([[0.6, 0.8]]))
    lines = b'{"index":{"_id":"a"}}\n{"id":"a","embedding":[1,0,0]}\n'
    with closing(SearchServer(where, {})) as server:
        with pytest.raises(
            SearchError, match=r"^1 of 2 rows were refused, e\.g\. id 'a': 400 \w+_parsing_exception: .*dimension"
        ):
            send(server, table, [Action("id 'b'", b'{"delete":{"_id":"b"}}\n', absent=True), Action("id 'a'", lines)])
        with pytest.raises(SearchError, match=r"1 of 1 rows were refused, e\.g\. id 'c': 404 document_missing_exception"):
            send(server, table, [Action("id 'c'", b'{"update":{"_id":"c"}}\n{"doc":{"id":"c"}}\n')])


def test_addresses_and_servers(opensearch: str, elasticsearch: str, gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    for kind, where, told in (
        ("opensearch", elasticsearch, "the server at .* is elasticsearch"),
        ("elasticsearch", opensearch, "the server at .* is opensearch"),
        ("opensearch", "localhost:9200", r"WHERE must be http\(s\)://host:port"),
        ("elasticsearch", "http://me:pw@host:1", "ELASTIC_API_KEY or ELASTIC_USERNAME and ELASTIC_PASSWORD by environment"),
        ("opensearch", "http://127.0.0.1:9", "http://127.0.0.1:9 does not answer"),
    ):
        with pytest.raises(UsageError, match=told):
            STORES[kind](where, "t")
    monkeypatch.setenv("OPENSEARCH_USERNAME", "me")
    monkeypatch.setenv("OPENSEARCH_PASSWORD", "ü")
    STORES["opensearch"](gate.where, "t").close()
    assert gate.headers["Authorization"] == "Basic bWU6w7w="
    monkeypatch.setenv("OPENSEARCH_API_KEY", "k")
    STORES["opensearch"](gate.where, "t").close()
    assert gate.headers["Authorization"] == "ApiKey k"


def test_too_many_components_and_inner_products(place: tuple[str, str, str]) -> None:
    kind, where, table = place
    _loaded(place, "r1", _rows([[0.6, 0.8]]))
    rows = _rows([[0.6, 0.8]]).schema
    with closing(STORES[kind](where, table)) as store:
        with pytest.raises(UsageError, match=r"takes [\d,]+ \(model.truncate_dim\)"):
            store.check(Shape(20_000, VectorType.FLOAT32, True, rows))
        with pytest.raises(UsageError, match="compares by inner product"):
            store.check(Shape(2, VectorType.FLOAT32, False, rows))


def test_vectors_as_text_keep_their_bits() -> None:
    """Read as 64-bit numbers and rounded, as parsers of JSON do; and read as 32-bit numbers at once."""
    bits = np.random.default_rng(7).integers(0, 1 << 32, 40_000, np.uint32)
    edges = [0.0, -0.0, 1.0, -1.0, 1e-45, 1.1754944e-38, 3.4028235e38, 0.1, 1 / 3, 16_777_216.0]
    numbers = np.concatenate([np.array(edges, np.float32), bits.view(np.float32)])
    numbers = numbers[np.isfinite(numbers)]
    numbers = numbers[: len(numbers) // 2 * 2]
    texts = ",".join(vector_texts(_rows(numbers.reshape(-1, 2)), 2)).split(",")
    found = np.array(texts, np.float64).astype(np.float32)
    assert (found.view(np.uint32) == numbers.view(np.uint32)).all()
    assert (np.array(texts, np.float32).view(np.uint32) == numbers.view(np.uint32)).all()
    assert texts[:3] == ["0", "-0.0", "1"]
    assert max(map(len, texts)) <= 16


def test_fields_follow_the_types_of_the_columns() -> None:
    columns = {
        "flag": pa.bool_(), "n": pa.int8(), "big": pa.uint64(), "x": pa.float32(), "day": pa.date32(), "text": pa.string(),
        "raw": pa.binary(), "money": pa.decimal128(9, 2), "tags": pa.list_(pa.int16()), "facts": MAPS,
        "code": pa.dictionary(pa.int8(), pa.string()), "places": pa.list_(pa.struct([("a", pa.int8())])),
    }  # fmt: skip
    schema = pa.schema(
        [("id", pa.int64()), ("text_hash", pa.binary(16)), ("embedding", pa.list_(pa.float32(), 2)), *columns.items()]
    )
    shape = Shape(2, VectorType.FLOAT32, True, schema)
    wanted = fields_of(shape, vector_field("opensearch", shape))
    kinds = {name: field["type"] for name, field in wanted["attributes"]["properties"].items()}
    assert kinds == {
        "flag": "boolean", "n": "long", "big": "unsigned_long", "x": "double", "day": "date", "text": "keyword",
        "raw": "keyword", "money": "keyword", "tags": "long", "facts": "object", "code": "keyword", "places": "object",
    }  # fmt: skip
    assert wanted["id"] == {"type": "long"}
    assert absent_fields(wanted, wanted) == {}
    without = wanted | {"attributes": {"properties": {}}}
    assert absent_fields(wanted, without) == {"attributes": {"properties": wanted["attributes"]["properties"]}}
