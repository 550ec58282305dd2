"""Tables on object storage: each library is told endpoint and credentials, by the environment or by storage_options."""

from __future__ import annotations

import os
import uuid
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from tests.jobs.corpus.tables.table_rows import read_rows, settings
from workers.config import CorpusConfig
from workers.reading.tables.credentials import file_io_properties, object_store_options

pytestmark = [pytest.mark.s3, pytest.mark.slow]
ROWS = pa.table({"id": list(range(20)), "text": [f"text {row}" for row in range(20)]})


@pytest.fixture(params=["environment", "storage_options"])
def options(request: pytest.FixtureRequest, s3_bucket: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    if request.param == "environment":
        return {}
    names = {"key": "AWS_ACCESS_KEY_ID", "secret": "AWS_SECRET_ACCESS_KEY", "endpoint_url": "AWS_ENDPOINT_URL"}
    found = {option: os.environ[name] for option, name in names.items()}
    for name in names.values():
        monkeypatch.delenv(name)
    return found


@pytest.mark.parametrize("kind", ["delta", "iceberg", "lance"])
def test_a_table_is_read_from_s3(kind: str, options: dict[str, Any], s3_bucket: str, tmp_path: Path) -> None:
    uri = f"s3://{s3_bucket}/{uuid.uuid4().hex[:8]}/t"
    access = CorpusConfig(uri=[uri], table=kind, storage_options=options)
    if kind == "delta":
        deltalake = pytest.importorskip("deltalake")
        deltalake.write_deltalake(uri, ROWS, storage_options=object_store_options(access))
    elif kind == "lance":
        lance = pytest.importorskip("lance")
        lance.write_dataset(ROWS, uri, storage_options=object_store_options(access))
        lance.dataset(uri, storage_options=object_store_options(access)).delete("id < 3")
    else:
        pytest.importorskip("sqlalchemy")
        catalog = pytest.importorskip("pyiceberg.catalog").load_catalog(
            "test", type="sql", uri=f"sqlite:///{tmp_path}/catalog.db", warehouse=uri, **file_io_properties(access)
        )
        catalog.create_namespace("docs")
        table = catalog.create_table("docs.pages", ROWS.schema)
        table.append(ROWS)
        uri = table.metadata_location
    ours, _ = read_rows(settings(uri, kind, storage_options=options))
    assert ours.column("id").to_pylist() == list(range(3 if kind == "lance" else 0, 20))
