"""`reembed search` with an index and a condition: from the option, from the configuration, and refusals."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import yaml

from jobs.commands.search import Columns, search_snapshot
from jobs.config import parse_section
from jobs.index.config import IndexConfig
from jobs.index.job import IndexJob
from jobs.passes.job import run_job
from tests.jobs.index.index_samples import COUNT, config, mixture, publish_index
from tests.vector_snapshots import publish_vectors
from workers.errors import UsageError


class _Embedder:
    """Embeds any text as one vector of the snapshot."""

    def embed(self, texts: list[str]) -> list[np.ndarray]:
        return [mixture(COUNT)[int(text)][None] for text in texts]


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("search")
    lang = pa.array(["de" if row % 2 else "fr" for row in range(COUNT)])
    publish_vectors(folder / "out", mixture(COUNT), keep={"lang": lang}, shards=2)
    publish_index(folder / "out", folder / "index", config(folder / "out"))
    return folder / "out", folder / "index"


@pytest.fixture(autouse=True)
def _model(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("jobs.commands.search.load_embedder", lambda *_, **__: _Embedder())
    monkeypatch.setenv("REEMBED_CACHE", str(tmp_path / "cache"))


def test_an_index_finds_what_exact_search_finds(outputs: tuple[Path, Path]) -> None:
    output, index = map(str, outputs)
    for text in ("5", "77", "2500"):
        exact = search_snapshot(output, text, 10)
        found = search_snapshot(output, text, 10, index=index)
        assert exact["hits"][0]["id"] == text
        assert found == exact
        german = search_snapshot(output, text, 10, index=index, where="lang = 'de'")
        assert german["hits"] == search_snapshot(output, text, 10, where="lang = 'de'")["hits"]
        assert {hit["lang"] for hit in german["hits"]} == {"de"}
        assert german["where"] == "lang = 'de'"


def test_the_configuration_names_the_index(
    outputs: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output, index = map(str, outputs)
    file = tmp_path / "search.yaml"
    raw = {"corpus": {"uri": "x"}, "output": {"uri": output}, "search": {"index": index}}
    file.write_text(yaml.safe_dump(raw))
    asked: list[bool] = []
    real = search_snapshot.__globals__["find"]

    def watched(published: object, files: object, *rest: object) -> object:
        asked.append(files is not None)
        return real(published, files, *rest)

    monkeypatch.setattr("jobs.commands.search.find", watched)
    assert search_snapshot(str(file), "5", 3)["hits"] == search_snapshot(output, "5", 3)["hits"]
    assert asked == [True, False]


def test_refusals(outputs: tuple[Path, Path], tmp_path: Path) -> None:
    output = str(outputs[0])
    with pytest.raises(UsageError, match=r"--index=.*: nothing is published there; run `reembed index` first"):
        search_snapshot(output, "5", 3, index=str(tmp_path / "nowhere"))
    with pytest.raises(UsageError, match="no catalog of index files; give the output of `reembed index`"):
        search_snapshot(output, "5", 3, index=output)
    with pytest.raises(UsageError, match="the snapshot has no column language; it has id, num_tokens, truncated, lang"):
        search_snapshot(output, "5", 3, where="language = 'de'")


def test_the_command_takes_both(outputs: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    from jobs.cli import main

    output, index = map(str, outputs)
    with pytest.raises(SystemExit) as ended:
        main(["search", output, "5", "-k", "2", "--index", index, "--where", "lang='de'", "--json"])
    assert not ended.value.code
    assert [hit["lang"] for hit in json.loads(capsys.readouterr().out)["hits"]] == ["de", "de"]


def test_an_index_of_another_column(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It serves searches by that column, which cut the query likewise, and no others."""
    vectors = mixture(COUNT)
    publish_vectors(tmp_path / "out", vectors, shards=2, beside=[{"name": "cut", "dim": 16}])
    output, index = str(tmp_path / "out"), str(tmp_path / "index")
    raw = {"index": {"snapshot": output, "column": "cut"}, "output": {"uri": index}}
    assert run_job(IndexJob(parse_section(raw, "test", IndexConfig)))["published"]
    monkeypatch.setattr("jobs.commands.search.load_embedder", lambda *_, **__: _Embedder())
    by_cut = search_snapshot(output, "77", 10, columns=Columns("cut"))
    head = vectors[:, :16] / np.linalg.norm(vectors[:, :16], axis=1, keepdims=True)
    assert [hit["score"] for hit in by_cut["hits"]] == pytest.approx(np.sort(head @ head[77])[::-1][:10], abs=1e-5)
    exact, found = (
        {hit["id"]: hit["score"] for hit in hits["hits"]}
        for hits in (by_cut, search_snapshot(output, "77", 10, index=index, columns=Columns("cut")))
    )
    assert len(exact.keys() & found.keys()) >= 8, "approximate in which rows are found"
    assert found == {id_: pytest.approx(head[int(id_)] @ head[77], abs=1e-5) for id_ in found}, "exact in their scores"
    with pytest.raises(UsageError, match=r"was built of the column cut, and embedding is searched; give --column cut"):
        search_snapshot(output, "77", 10, index=index)
