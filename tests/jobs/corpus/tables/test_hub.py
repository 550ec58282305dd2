"""corpus.table: hf with hf://, over a stand-in for the hub: its revision is pinned, unchanged files are known."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.corpus.discovery import discover
from jobs.corpus.listing import content_of
from tests.jobs.corpus.tables.fake_hub import FakeHub
from tests.jobs.corpus.tables.table_rows import read_rows, settings
from workers.config import CorpusConfig
from workers.errors import UsageError


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    found = FakeHub()
    yield found
    found.close()


def documents(begin: int, end: int) -> bytes:
    stream = io.BytesIO()
    pq.write_table(pa.table({"id": list(range(begin, end)), "text": [f"text {row}" for row in range(begin, end)]}), stream)
    return stream.getvalue()


def of(hub: FakeHub, **more: Any) -> CorpusConfig:
    return settings(more.pop("uri", hub.uri), "hf", storage_options={"endpoint": hub.endpoint}, **more)


SIDE = {"README.md": b"# pages", ".gitattributes": b"*", "dataset_infos.json": b"{}", "cover.png": b"\x89PNG"}


def test_the_revision_becomes_a_commit_and_every_file_is_read_of_that(hub: FakeHub) -> None:
    first = hub.commit({**SIDE, "data/lang=en/a.parquet": documents(0, 5), "data/lang=de/b.parquet": documents(5, 8)})
    ours, corpus = read_rows(of(hub, keep=["lang"]))
    assert ours.column("id").to_pylist() == list(range(8))
    assert ours.column("lang").to_pylist() == ["en"] * 5 + ["de"] * 3
    assert corpus.read_plan.table is not None
    assert corpus.read_plan.table.version == first
    assert [source.info.uri for source in corpus.objects] == [
        f"hf://datasets/owner/pages@{first}/data/lang={name}.parquet" for name in ("de/b", "en/a")
    ]
    assert not [asked for asked in hub.asked if "/resolve/main/" in asked]
    second = hub.commit({**SIDE, "data/lang=en/a.parquet": documents(0, 5), "data/lang=de/c.parquet": documents(8, 9)})
    later = discover(of(hub))
    assert later.read_plan.table is not None
    assert later.read_plan.table.version == second
    before = {content_of(source.info) for source in corpus.objects}
    assert None not in before
    assert [content_of(source.info) in before for source in later.objects] == [False, True]
    older, _ = read_rows(of(hub, table_version=first))
    assert older.column("id").to_pylist() == list(range(8))


def test_what_cannot_be_read_is_refused_in_one_line(hub: FakeHub) -> None:
    def refusal(**more: Any) -> str:
        with pytest.raises(UsageError) as caught:
            discover(of(hub, **more))
        assert "\n" not in str(caught.value)
        return str(caught.value)

    hub.commit({**SIDE, "a.parquet": documents(0, 5), "a.jsonl": b'{"id": 1, "text": "x"}\n'})
    assert "holds files in several formats (jsonl, parquet)" in refusal()
    assert "cannot be opened as a Hugging Face data set" in refusal(table_version="v9")
    assert "cannot be opened as a Hugging Face data set" in refusal(uri="hf://datasets/owner/other")
    hub.commit(SIDE)
    assert "has no data files" in refusal()
