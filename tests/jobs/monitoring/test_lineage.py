"""OpenLineage events: names of data sets, events against the published schema, and endpoints that are dead, slow or refuse.

The schema is OpenLineage's own where OPENLINEAGE_SPEC names the folder `spec` of its repository, and always the part of it
that is written out here.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import jsonschema
import pytest
from referencing import Registry, Resource

from jobs.config import LineageConfig
from jobs.monitoring.lineage import Lineage, require_lineage
from jobs.monitoring.lineage_event import Column, RunFacts, dataset_name, run_uuid
from workers.errors import UsageError

pytest.importorskip("openlineage.client")

_FACET = {
    "type": "object",
    "required": ["_producer", "_schemaURL"],
    "properties": {"_producer": {"type": "string", "format": "uri"}, "_schemaURL": {"type": "string", "format": "uri"}},
}
_FACETS = {"type": "object", "patternProperties": {"": _FACET}}
_FIELD = {"type": "object", "required": ["name"], "properties": {"name": {"type": "string"}, "type": {"type": "string"}}}
_DATASET = {
    "type": "object",
    "required": ["namespace", "name"],
    "additionalProperties": False,
    "properties": {
        "namespace": {"type": "string"},
        "name": {"type": "string"},
        "facets": {
            **_FACETS,
            "properties": {
                "schema": {"properties": {"fields": {"type": "array", "items": _FIELD}}},
                "version": {"required": ["datasetVersion"], "properties": {"datasetVersion": {"type": "string"}}},
            },
        },
        "inputFacets": _FACETS,
        "outputFacets": {
            **_FACETS,
            "properties": {
                "outputStatistics": {"properties": {"rowCount": {"type": "integer"}, "size": {"type": "integer"}}}
            },
        },
    },
}
EVENT = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "required": ["eventTime", "producer", "schemaURL", "run", "job"],
    "properties": {
        "eventType": {"enum": ["START", "RUNNING", "COMPLETE", "ABORT", "FAIL", "OTHER"]},
        "eventTime": {"type": "string", "format": "date-time"},
        "producer": {"type": "string", "format": "uri"},
        "schemaURL": {"type": "string", "format": "uri"},
        "run": {
            "type": "object",
            "required": ["runId"],
            "properties": {
                "runId": {"type": "string", "format": "uuid"},
                "facets": {
                    **_FACETS,
                    "properties": {
                        "errorMessage": {"required": ["message", "programmingLanguage"]},
                        "processing_engine": {"required": ["version"]},
                    },
                },
            },
        },
        "job": {
            "type": "object",
            "required": ["namespace", "name"],
            "properties": {
                "namespace": {"type": "string"},
                "name": {"type": "string"},
                "facets": {**_FACETS, "properties": {"jobType": {"required": ["processingType", "integration"]}}},
            },
        },
        "inputs": {"type": "array", "items": _DATASET},
        "outputs": {"type": "array", "items": _DATASET},
    },
}
"""The part of https://openlineage.io/spec/2-0-2/OpenLineage.json, and of the facets, that the events here can break."""


def validate(event: dict[str, Any]) -> None:
    jsonschema.validate(event, EVENT, format_checker=jsonschema.FormatChecker())
    uuid.UUID(event["run"]["runId"])
    assert datetime.fromisoformat(event["eventTime"]).tzinfo is not None  # formats that jsonschema checks with more packages
    assert urlsplit(event["producer"]).scheme == "urn"
    if folder := os.environ.get("OPENLINEAGE_SPEC"):
        _validate_by_spec(event, Path(folder))


def _validate_by_spec(event: dict[str, Any], spec: Path) -> None:
    """Against OpenLineage's own files: the event, and every standard facet by the file that its _schemaURL names."""
    documents = {
        path.name: json.loads(path.read_text()) for path in [spec / "OpenLineage.json", *spec.glob("facets/*.json")]
    }
    registry: Registry[Any] = Registry().with_resources(
        [(document["$id"], Resource.from_contents(document)) for document in documents.values()]
    )
    main = documents["OpenLineage.json"]
    checker = jsonschema.FormatChecker()
    jsonschema.Draft202012Validator(main, registry=registry, format_checker=checker).validate(event)
    checked = []
    for holder in (event["run"], event["job"], *event["inputs"], *event["outputs"]):
        for group in ("facets", "inputFacets", "outputFacets"):
            for name, facet in holder.get(group, {}).items():
                url, _, pointer = facet["_schemaURL"].partition("#")
                named = url.rpartition("/")[2]
                document = documents[named]
                schema = {"$ref": f"{document['$id']}#{pointer}"}
                jsonschema.Draft202012Validator(schema, registry=registry, format_checker=checker).validate(facet)
                checked.append((name, named))
    assert len(checked) >= 6


FACTS = RunFacts(
    run_id="20261120T100312Z-1a2b3c4d",
    driver=1,
    job="embed s3://bucket/embeddings",
    namespace="reembed",
    inputs=["s3://bucket/corpus/", "/data/more/*.jsonl"],
    output="s3://bucket/embeddings",
    columns_in=[Column("id", "int64"), Column("text", "string"), Column("lang", "string")],
    columns_out=[Column("id", "int64"), Column("embedding", "fixed_size_list<item: float not null>[384]")],
    model={"name": "bert-base-uncased", "dim": 384, "weights_digest": "ab12", "normalize": True},
    version="0.2.0",
)


def events_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def begin(endpoint: str | Path, facts: RunFacts = FACTS) -> Lineage:
    lineage = Lineage.begun(LineageConfig(endpoint=str(endpoint)), lambda: facts)
    assert lineage is not None
    return lineage


@pytest.mark.parametrize(
    ("uri", "named"),
    [
        ("s3://bucket/corpus/", ("s3://bucket", "corpus")),
        ("s3a://bucket/a/b.parquet", ("s3://bucket", "a/b.parquet")),
        ("gcs://bucket/x", ("gs://bucket", "x")),
        ("gs://bucket", ("gs://bucket", "/")),
        ("s3://bucket/2026-*/part-?.parquet", ("s3://bucket", "/")),
        ("s3://bucket/all/2026-*/part-?.parquet", ("s3://bucket", "all")),
        ("abfss://box@account.dfs.core.windows.net/a/b", ("abfss://box@account.dfs.core.windows.net", "a/b")),
        ("hdfs://name:8020/a/b", ("hdfs://name:8020", "/a/b")),
        ("https://example.org/a/b.jsonl", ("https://example.org", "/a/b.jsonl")),
        ("/data/corpus/", ("file", "/data/corpus")),
        ("file:///data/corpus/*.csv", ("file", "/data/corpus")),
        ("simplecache::s3://bucket/x", ("s3://bucket", "x")),
    ],
)
def test_data_sets_have_the_names_of_the_specification(uri: str, named: tuple[str, str]) -> None:
    assert dataset_name(uri) == named


def test_a_relative_path_is_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert dataset_name("corpus/") == ("file", f"{tmp_path}/corpus")


def test_a_run_in_a_file(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    begin(path).complete(1000, 1_500_000)
    resumed = replace(FACTS, driver=2)
    begin(path, resumed).fail("not published: max_row_change")
    begin(path, replace(FACTS, driver=3)).abort("stopped by SIGTERM")
    events = events_of(path)
    for event in events:
        validate(event)
    assert [event["eventType"] for event in events] == ["START", "COMPLETE", "START", "FAIL", "START", "ABORT"]
    ids = [event["run"]["runId"] for event in events]
    assert ids[::2] == ids[1::2] == [str(run_uuid("s3://bucket/embeddings/", FACTS.run_id, number)) for number in (1, 2, 3)]
    assert len(set(ids)) == 3, "each driver is a run with one START and one end"
    assert {(event["job"]["namespace"], event["job"]["name"]) for event in events} == {
        ("reembed", "embed s3://bucket/embeddings")
    }
    done = events[1]
    assert [(data["namespace"], data["name"]) for data in done["inputs"]] == [
        ("s3://bucket", "corpus"),
        ("file", "/data/more"),
    ]
    (output,) = done["outputs"]
    assert (output["namespace"], output["name"]) == ("s3://bucket", "embeddings")
    assert output["facets"]["version"]["datasetVersion"] == FACTS.run_id
    assert {key: output["facets"]["reembed_model"][key] for key in FACTS.model} == FACTS.model
    fields = output["facets"]["schema"]["fields"]
    assert [(each["name"], each["type"]) for each in fields] == [tuple(column) for column in FACTS.columns_out]
    statistics = output["outputFacets"]["outputStatistics"]
    assert (statistics["rowCount"], statistics["size"]) == (1000, 1_500_000)
    assert "outputFacets" not in events[0]["outputs"][0] or events[0]["outputs"][0]["outputFacets"] == {}
    assert events[3]["run"]["facets"]["errorMessage"]["message"] == "not published: max_row_change"


@pytest.mark.parametrize(
    "spoil",
    [
        lambda event: event.pop("producer"),
        lambda event: event.update(eventType="DONE"),
        lambda event: event.update(eventTime="yesterday"),
        lambda event: event["run"].update(runId=7),
        lambda event: event["outputs"][0]["facets"]["schema"].pop("_schemaURL"),
        lambda event: event["outputs"][0].update(facet={}),
    ],
)
def test_a_spoilt_event_is_noticed(tmp_path: Path, spoil: Any) -> None:
    begin(tmp_path / "e").complete(1, 1)
    event = events_of(tmp_path / "e")[0]
    spoil(event)
    with pytest.raises((jsonschema.ValidationError, ValueError)):
        validate(event)


class Endpoint(ThreadingHTTPServer):
    """An HTTP server on 127.0.0.1 that keeps what is posted. `status`: its answer; `seconds`: before it."""

    def __init__(self, status: int = 201, seconds: float = 0.0) -> None:
        posted: list[tuple[str, str | None, dict[str, Any]]] = []

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                time.sleep(seconds)
                posted.append((self.path, self.headers["Authorization"], json.loads(body)))
                self.send_response(status)
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                """Silent."""

        super().__init__(("127.0.0.1", 0), Handler)
        self.posted = posted
        self.url = f"http://127.0.0.1:{self.server_port}"
        threading.Thread(target=self.serve_forever, daemon=True).start()


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    with Endpoint() as server:
        yield server
        server.shutdown()


@pytest.mark.parametrize(
    ("path", "posted"), [("", "/api/v1/lineage"), ("/", "/api/v1/lineage"), ("/my/lineage", "/my/lineage")]
)
def test_a_run_over_http(endpoint: Endpoint, path: str, posted: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENLINEAGE_API_KEY", "a-key")
    begin(endpoint.url + path).complete(10, 1000)
    assert [(at, key, event["eventType"]) for at, key, event in endpoint.posted] == [
        (posted, "Bearer a-key", "START"), (posted, "Bearer a-key", "COMPLETE"),
    ]  # fmt: skip
    for _, _, event in endpoint.posted:
        validate(event)


def test_what_the_environment_names(endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENLINEAGE__TRANSPORT__TYPE", "http")
    monkeypatch.setenv("OPENLINEAGE__TRANSPORT__URL", endpoint.url)
    begin("environment").complete(10, 1000)
    assert [event["eventType"] for _, _, event in endpoint.posted] == ["START", "COMPLETE"]


def _warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.alone
@pytest.mark.slow
@pytest.mark.parametrize("dead", ["closed", "silent", "refuses", "no folder"])
def test_a_dead_endpoint_costs_next_to_nothing_and_one_warning(
    tmp_path: Path, dead: str, caplog: pytest.LogCaptureFixture
) -> None:
    begin(tmp_path / "warm").complete(1, 1)  # the client is imported
    caplog.clear()
    with socket.socket() as silent, Endpoint(status=503) as refusing:
        silent.bind(("127.0.0.1", 0))
        at = f"http://user:secret@127.0.0.1:{silent.getsockname()[1]}"
        if dead == "silent":
            silent.listen(8)  # takes the connection and never answers
        where = {"refuses": refusing.url, "no folder": str(tmp_path / "missing" / "events")}.get(dead, at)
        began = time.monotonic()
        lineage = begin(where)
        assert time.monotonic() - began < 0.5, "the run is not kept"
        lineage.complete(10, 1000)
        assert time.monotonic() - began < 2.0  # not the ANSWER_SECONDS of an endpoint that has taken an event
        refusing.shutdown()
    (warning,) = _warnings(caplog)
    assert warning.startswith("lineage events do not reach ")
    assert warning.endswith("; the run is not affected")
    assert "secret" not in warning


@pytest.mark.slow
def test_a_slow_endpoint_that_answers_gets_the_last_event(caplog: pytest.LogCaptureFixture) -> None:
    with Endpoint(seconds=0.7) as slow:
        lineage = begin(slow.url)
        deadline = time.monotonic() + 20
        while not slow.posted and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(0.1)
        lineage.complete(10, 1000)
        assert [event["eventType"] for _, _, event in slow.posted] == ["START", "COMPLETE"]
        slow.shutdown()
    assert _warnings(caplog) == []


def test_facts_that_cannot_be_read_are_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    def fail() -> RunFacts:
        raise TimeoutError("status.json does not answer")

    assert Lineage.begun(LineageConfig(endpoint="http://x.example"), fail) is None
    assert "TimeoutError: status.json does not answer; the run is not affected" in _warnings(caplog)[0]


def test_what_is_no_endpoint_is_refused_before_anything_is_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    require_lineage(LineageConfig())
    require_lineage(LineageConfig(endpoint="http://host:5000"))
    with pytest.raises(UsageError, match=r"lineage\.endpoint=s3://bucket/events: give an http\(s\) URL, the path of a file"):
        require_lineage(LineageConfig(endpoint="s3://bucket/events"))
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(UsageError, match=r"pip install 'reembed\[lineage\]'"):
        require_lineage(LineageConfig(endpoint="events.jsonl"))
