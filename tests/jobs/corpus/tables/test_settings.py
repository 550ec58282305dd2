"""corpus.table and what goes with it: refused while the configuration is parsed; secrets are never stored."""

from __future__ import annotations

import json
from typing import Any

import pytest

from jobs.config import parse_config
from jobs.state.records import config_snapshot, settings_fingerprint
from workers.errors import UsageError
from workers.reading.tables.credentials import file_io_properties, object_store_options


def parsed(**corpus: Any) -> Any:
    return parse_config({"corpus": {"uri": "s3://b/t", **corpus}, "output": {"uri": "s3://b/out"}}, "test")


@pytest.mark.parametrize(
    ("corpus", "reason"),
    [
        ({"table": "hudi"}, "corpus.table: should be 'delta', 'iceberg', 'lance' or 'hf'"),
        ({"table": "delta", "uri": ["s3://b/t", "s3://b/u"]}, "table: delta needs one uri"),
        ({"table": "delta", "format": "parquet"}, "leave format out"),
        ({"table_version": 3}, "table_version is for a table; say which by table"),
        ({"table_options": {"type": "rest"}}, "table_options is for a table"),
    ],
)
def test_what_does_not_go_together_is_refused(corpus: dict[str, Any], reason: str) -> None:
    with pytest.raises(UsageError) as caught:
        parsed(**corpus)
    assert reason in str(caught.value)


def test_options_are_not_stored_and_make_no_other_run() -> None:
    plain = parsed(table="iceberg")
    secret = parsed(table="iceberg", table_options={"token": "s3cr3t"}, storage_options={"secret": "s3cr3t"})
    assert "s3cr3t" not in json.dumps(config_snapshot(secret))
    assert "s3cr3t" not in repr(secret)
    assert settings_fingerprint(plain, "w", "t") == settings_fingerprint(secret, "w", "t")
    assert settings_fingerprint(plain, "w", "t") != settings_fingerprint(parsed(table="delta"), "w", "t")
    assert parse_config(config_snapshot(secret), "stored").corpus.table == "iceberg"


def test_settings_that_came_later_are_not_in_what_is_stored_without_them() -> None:
    assert {"table", "table_version", "table_options", "where"}.isdisjoint(config_snapshot(parsed())["corpus"])


def test_storage_options_are_told_to_the_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    options = {"key": "k", "secret": "s", "endpoint_url": "http://127.0.0.1:9000", "client_kwargs": {"region_name": "r"}}
    corpus = parsed(table="delta", storage_options=options, table_options={"AWS_REGION": "own"}).corpus
    assert object_store_options(corpus) == {
        "AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s", "AWS_ENDPOINT_URL": "http://127.0.0.1:9000",
        "AWS_REGION": "own", "AWS_ALLOW_HTTP": "true",
    }  # fmt: skip
    corpus = parsed(table="iceberg", storage_options=options).corpus
    assert file_io_properties(corpus) == {
        "s3.access-key-id": "k", "s3.secret-access-key": "s", "s3.endpoint": "http://127.0.0.1:9000", "s3.region": "r",
    }  # fmt: skip
