"""OUTPUT/README.md: its front matter by YAML, when it is replaced, whose file it leaves alone, who reads by it."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds
import pytest
import yaml

from jobs.commands.rollback import roll_back
from jobs.embed.job import embed_corpus
from jobs.publish.card import MARK, card, feature
from jobs.state.current import Current
from tests.jobs.nights import NIGHT_1, by_hand, corpus_of, days_apart, rows, settings

CURRENT = Current("r1", "s3://b/out/data/r1", "data/r1", 1234, "2026-11-20T10:03:12+00:00", "0.2.0")
MODEL = {"name": "a|model", "revision": None, "pooling": "mean", "dim": 384, "vector": "float32", "prompt": "secret"}


def front_of(text: str) -> dict[str, Any]:
    _, front, body = text.split("---\n", 2)
    assert body.startswith(MARK)
    return dict(yaml.safe_load(front))


@pytest.mark.parametrize(
    ("kind", "written"),
    [
        (pa.string(), {"dtype": "string"}),
        (pa.int64(), {"dtype": "int64"}),
        (pa.float16(), {"dtype": "float16"}),
        (pa.float64(), {"dtype": "float64"}),
        (pa.bool_(), {"dtype": "bool"}),
        (pa.date32(), {"dtype": "date32"}),
        (pa.list_(pa.float32(), 384), {"sequence": "float32", "length": 384}),
        (pa.list_(pa.string()), {"sequence": "string"}),
        (pa.list_(pa.list_(pa.int8(), 4)), {"sequence": {"sequence": "int8", "length": 4}}),
        (pa.binary(16), None),
        (pa.struct({"a": pa.int64()}), None),
        (pa.list_(pa.map_(pa.string(), pa.int64())), None),
        (pa.timestamp("us"), None),
    ],
)
def test_types_as_datasets_writes_them(kind: pa.DataType, written: dict[str, Any] | None) -> None:
    assert feature(kind) == written


def test_the_front_matter_and_the_text() -> None:
    part = pa.schema([
        pa.field("id", pa.string()),
        pa.field("embedding", pa.list_(pa.float32(), 384)),
        pa.field("text_hash", pa.binary(16)),
        pa.field("a: |b`\n", pa.int64()),
    ])  # fmt: skip
    text = card(CURRENT, part, ["lang"], MODEL, 5678)
    front = front_of(text)
    assert front["configs"] == [
        {
            "config_name": "default",
            "data_files": [{"split": "train", "path": "data/r1/**/*.parquet"}],
            "columns": ["id", "embedding", "a: |b`\n"],
        }
    ]
    assert front["dataset_info"]["features"] == [
        {"name": "id", "dtype": "string"},
        {"name": "embedding", "sequence": "float32", "length": 384},
        {"name": "a: |b`\n", "dtype": "int64"},
    ]
    assert front["dataset_info"]["splits"] == [{"name": "train", "num_bytes": 5678, "num_examples": 1234}]
    assert "# Embeddings by a\\|model" in text
    assert "| text_hash | fixed_size_binary[16] | not read by `load_dataset` |" in text
    assert "| a: \\|b' | int64 |  |" in text
    assert "| lang | | in the folders' names: `lang=…` |" in text
    assert "secret" not in text


@pytest.fixture
def nights(monkeypatch: pytest.MonkeyPatch) -> None:
    """Embedded by hand, a day apart."""
    by_hand(monkeypatch)
    days_apart(monkeypatch)


@pytest.mark.slow
@pytest.mark.usefixtures("nights")
def test_it_follows_what_readers_have(tmp_path: Path, small_model: Path, caplog: pytest.LogCaptureFixture) -> None:
    config, readme = settings(tmp_path, small_model), tmp_path / "out" / "README.md"
    corpus_of(tmp_path / "corpus", NIGHT_1)
    first = embed_corpus(config)
    assert front_of(readme.read_text())["configs"][0]["data_files"][0]["path"] == f"data/{first['run_id']}/**/*.parquet"
    assert front_of(readme.read_text())["dataset_info"]["splits"][0]["num_examples"] == 80
    corpus_of(tmp_path / "corpus", {"e": rows("e", 10)})
    second = embed_corpus(config)
    assert f"data/{second['run_id']}" in readme.read_text()
    assert "90 rows" in readme.read_text()
    roll_back(str(tmp_path / "out"), first["run_id"])
    assert f"data/{first['run_id']}" in readme.read_text()

    readme.write_text("# ours\n")
    corpus_of(tmp_path / "corpus", {"f": rows("f", 10)})
    with caplog.at_level(logging.INFO):
        assert embed_corpus(config)["published"]
    assert readme.read_text() == "# ours\n"
    assert "README.md is not reembed's, so it is left as it is" in caplog.text
    readme.unlink()
    readme.mkdir()  # cannot be read
    corpus_of(tmp_path / "corpus", {"g": rows("g", 10)})
    assert embed_corpus(config)["published"]
    assert "the data set card was not written: " in caplog.text


@pytest.mark.slow
@pytest.mark.usefixtures("nights")
def test_datasets_reads_the_published_snapshot(tmp_path: Path, small_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a second snapshot beside it, partitions, and all the Parquet files of runs/."""
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    sections = {"corpus": {"keep": ["lang"]}, "output": {"partition_by": ["lang"]}}
    config = settings(tmp_path, small_model, **sections)
    corpus_of(tmp_path / "corpus", {f"lang={lang}/a": rows(lang, 20) for lang in ("de", "fr")})
    embed_corpus(config)
    corpus_of(tmp_path / "corpus", {"lang=de/b": rows("deb", 5)})
    second = embed_corpus(config)
    found = datasets.load_dataset(str(tmp_path / "out"), split="train", cache_dir=str(tmp_path / "cache"))
    table = ds.dataset(second["data"], partitioning="hive").to_table().sort_by("id")
    assert found.column_names == [name for name in table.column_names if name not in ("text_hash", "lang")]
    assert sorted(found["id"]) == table["id"].to_pylist()
    by_id = dict(zip(found["id"], found["embedding"], strict=True))
    assert [by_id[id_] for id_ in table["id"].to_pylist()] == table["embedding"].to_pylist()
    block = (tmp_path / "out" / "README.md").read_text().partition("```python\n")[2].partition("```")[0]
    names: dict[str, Any] = {}
    exec(block.replace("OUTPUT", str(tmp_path / "out")), names)
    given = dict(zip(names["dataset"]["id"], names["dataset"]["lang"], strict=True))
    assert given == dict(zip(table["id"].to_pylist(), table["lang"].to_pylist(), strict=True)), "the card's own example"
