"""What a run learned of its objects is what the next one knows of those that are as they were."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from jobs.corpus import metadata_cache
from jobs.corpus.discovery import Corpus, discover
from jobs.corpus.metadata_cache import MetadataCache, load_metadata, save_metadata
from tests.jobs.source_files import config, jsonl, parquet
from workers.storage.store import Store

SETTINGS: dict[str, Any] = {"id": "id", "keep": ["n"]}


def remember(corpus: Corpus, folder: Path) -> MetadataCache:
    store = Store(str(folder / "out"), {})
    save_metadata(store, "objects.parquet", corpus.objects, corpus.columns)
    cache = load_metadata(store, "objects.parquet")
    assert cache is not None
    return cache


@pytest.fixture
def nothing_opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """URIs that a footer or a sample is read of."""
    import jobs.corpus.footers
    import jobs.corpus.sampling

    opened: list[str] = []
    read = jobs.corpus.footers.read_range

    def noting(uri: str, *arguments: Any) -> bytes:
        opened.append(uri.rpartition("/")[2])
        return read(uri, *arguments)

    monkeypatch.setattr(jobs.corpus.footers, "read_range", noting)
    monkeypatch.setattr(jobs.corpus.sampling, "read_range", noting)
    return opened


def test_parquet_is_known_by_its_footer(tmp_path: Path, nothing_opened: list[str]) -> None:
    columns = {"id": [1, 2, 3], "text": ["x", "y", "z"], "n": pa.array([[1], None, [2]])}
    for name in ("a", "b"):
        parquet(tmp_path / f"in/lang={name}/{name}.parquet", columns, row_group_size=2)
    (tmp_path / "in/broken.parquet").write_bytes(b"no Parquet at all")
    before = discover(config(tmp_path / "in", **SETTINGS), ["lang"])
    cache = remember(before, tmp_path)
    nothing_opened.clear()
    assert discover(config(tmp_path / "in", **SETTINGS), ["lang"], cache) == before
    assert set(nothing_opened) == {"broken.parquet"}, "what could not be read is looked at again"
    parquet(tmp_path / "in/lang=a/a.parquet", columns | {"id": [1, 2, 4]}, row_group_size=1)
    nothing_opened.clear()
    after = discover(config(tmp_path / "in", **SETTINGS), ["lang"], cache)
    assert set(nothing_opened) == {"a.parquet", "broken.parquet"}
    assert after.read_plan == before.read_plan
    assert [len(source.row_groups or ()) for source in after.objects] == [0, 3, 2]


def test_samples_of_lines_speak_for_the_others_as_before(tmp_path: Path, nothing_opened: list[str]) -> None:
    for number in range(40):
        jsonl(tmp_path / f"in/{number:02d}.jsonl", [{"id": "x", "text": "y", "n": number}])
    settings = config(tmp_path / "in", **SETTINGS)
    before = discover(settings)
    cache = remember(before, tmp_path)
    sampled = set(nothing_opened)
    assert len(sampled) == 16
    nothing_opened.clear()
    for name in sampled:
        (tmp_path / "in" / name).unlink()
    after = discover(settings, (), cache)
    assert nothing_opened == []
    assert after.read_plan == before.read_plan
    assert sum(found is not None for found in after.columns) == 16
    jsonl(tmp_path / "in/new.jsonl", [{"id": "x", "text": "y", "n": 7}])
    assert discover(settings, (), cache).read_plan == before.read_plan
    assert nothing_opened == ["new.jsonl"]


def test_content_is_known_under_another_name_and_not_in_another_format(tmp_path: Path) -> None:
    parquet(tmp_path / "in/a.parquet", {"id": [1], "text": ["x"], "n": [1]})
    corpus = discover(config(tmp_path / "in", **SETTINGS))
    (source,) = corpus.objects
    on_s3 = replace(source, info=replace(source.info, uri="s3://b/a.parquet", etag="0" * 32))
    cache = remember(replace(corpus, objects=(on_s3,)), tmp_path)
    renamed = replace(on_s3, info=replace(on_s3.info, uri="s3://b/z.parquet"), row_groups=None)
    known = cache.get(renamed)
    assert known is not None
    assert (known[0].row_groups, known[0].info) == (source.row_groups, renamed.info)
    assert cache.get(replace(renamed, info=replace(renamed.info, etag="1" * 32))) is None
    assert cache.get(replace(renamed, format=type(source.format).JSONL)) is None


@pytest.mark.parametrize("data", [None, b"", b"damaged", b"PAR1" * 10])
def test_no_memory_is_no_harm(tmp_path: Path, data: bytes | None) -> None:
    store = Store(str(tmp_path), {})
    if data is not None:
        store.put("objects.parquet", data)
    assert load_metadata(store, "objects.parquet") is None
    save_metadata(store, "objects.parquet", (), ())
    assert load_metadata(store, "objects.parquet") is not None


def test_types_learned_by_other_rules_are_learned_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An earlier version took INT96 timestamps for nanoseconds."""
    parquet(tmp_path / "in/a.parquet", {"id": [1], "text": ["x"], "n": [1]})
    corpus = discover(config(tmp_path / "in", **SETTINGS))
    store = Store(str(tmp_path / "out"), {})
    with monkeypatch.context() as earlier:
        earlier.setattr(metadata_cache, "RULES", b"1")
        save_metadata(store, "objects.parquet", corpus.objects, corpus.columns)
    assert load_metadata(store, "objects.parquet") is None
