"""Candidates: each cell equals an embedding run of its own and its evaluation; the corpus is read again; refusals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from safetensors.numpy import load_file, save_file

from jobs.evaluate.candidates import grid
from jobs.evaluate.candidates.sample import sampled_documents
from jobs.evaluate.config import EvaluateConfig
from jobs.evaluate.job import EvaluateJob
from jobs.passes.kind import Outcome
from jobs.passes.source import SourceSnapshot
from tests.local_replicas import local_embed
from tests.vector_snapshots import MemoryJournal, passes_over
from workers.errors import UsageError
from workers.records.documents import text_hash

pytestmark = [pytest.mark.slow]

SUBJECTS = {
    "food": ["bread", "soup", "cheese", "apples"],
    "sea": ["waves", "ships", "sailors", "harbour"],
    "law": ["court", "judge", "crime", "trial"],
}
TEXTS = [
    (label, f"{words[at % 4]} and {words[(at + at // 4) % 4]}, number {at}")
    for at in range(60)
    for label, words in SUBJECTS.items()
]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("candidates")
    rows = {
        "id": [str(at) for at in range(len(TEXTS))],
        "text": [text for _, text in TEXTS],
        "label": [label for label, _ in TEXTS],
    }
    for part in range(3):
        (folder / "corpus").mkdir(exist_ok=True)
        pq.write_table(pa.table(rows).slice(60 * part, 60), folder / "corpus" / f"{part}.parquet")
    return folder


def _embed(corpus: Path, name: str, model: Path, **settings: Any) -> str:
    config = {
        "corpus": {"uri": str(corpus / "corpus"), "id": "id", "text": "text", "keep": ["label"]},
        "model": {"name": str(model), "precision": "float32", **settings},
        "output": {"uri": str(corpus / name)},
    }
    (corpus / f"{name}.yaml").write_text(yaml.safe_dump(config))
    ended = local_embed(corpus / f"{name}.yaml")
    assert ended.rc == 0, ended.log
    return str(corpus / name)


@pytest.fixture(scope="module")
def snapshot(corpus: Path, minilm: Path) -> str:
    return _embed(corpus, "own", minilm)


def _job(snapshot: str, **settings: Any) -> EvaluateJob:
    given = {"snapshot": snapshot, "task": "cluster", "label": "label", "sample": 0, **settings}
    return EvaluateJob(EvaluateConfig.model_validate({"evaluate": given, "output": {"uri": "unused"}}))


def _evaluate(snapshot: str, journal: MemoryJournal | None = None, **settings: Any) -> Outcome:
    job = _job(snapshot, **settings)
    columns = job.check(SourceSnapshot.open(snapshot, {}, "snapshot"))
    with passes_over(snapshot, columns, journal=journal) as passes:
        return job.program(passes, None)


def _cut(minilm: Path, target: Path, layers: int) -> Path:
    """The model without its upper layers."""
    import shutil

    shutil.copytree(minilm, target, ignore=shutil.ignore_patterns("*.safetensors", "*.onnx", "*.bin", "onnx", "openvino"))
    config = json.loads((target / "config.json").read_text()) | {"num_hidden_layers": layers}
    (target / "config.json").write_text(json.dumps(config))
    kept = {
        name: value
        for name, value in load_file(minilm / "model.safetensors").items()
        if ".layer." not in name or int(name.split(".layer.")[1].split(".")[0]) < layers
    }
    save_file(kept, target / "model.safetensors", metadata={"format": "pt"})
    return target


def test_a_cell_equals_its_own_embedding_and_evaluation(corpus: Path, snapshot: str, minilm: Path) -> None:
    candidates = [{}, {"layers": "all", "pooling": ["mean", "max", "last4_mean"]}]
    journal = MemoryJournal()
    outcome = _evaluate(snapshot, journal, candidates=candidates)
    table = outcome.tables["candidates"].to_pylist()
    cells = {(row["layer"], row["pooling"]): row for row in table}
    assert len(table) == 1 + (7 + 7 + 4)
    own = _evaluate(snapshot).facts
    lower = _evaluate(_embed(corpus, "lower", _cut(minilm, corpus / "model", 2), pooling="max")).facts
    for name in ("v_measure", "homogeneity", "completeness"):
        assert cells[None, "mean"][name] == pytest.approx(own[name], abs=1e-6)
        assert cells[6, "mean"][name] == cells[None, "mean"][name], "the same vectors"
        assert cells[2, "max"][name] == pytest.approx(lower[name], abs=1e-6)
    assert len({round(row["v_measure"], 6) for row in table}) > 3, "cells differ"
    best = max(table, key=lambda row: row["v_measure"])
    assert outcome.facts["best"] == {name: best[name] for name in ("model", "layer", "pooling")}
    assert outcome.facts["v_measure"] == best["v_measure"]
    assert f"best of {len(table)} candidates over 180 texts" in _job(snapshot, candidates=candidates).text(outcome.facts)[0]
    assert "<table>" in outcome.report[0][1]

    def fails(*_: object) -> None:
        raise AssertionError("computed again")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(grid, "_figures", fails)
        assert _evaluate(snapshot, journal, candidates=candidates).facts == outcome.facts


def test_the_sample_depends_on_texts_alone(snapshot: str) -> None:
    source = SourceSnapshot.open(snapshot, {}, "snapshot")
    everything = sampled_documents(source, ("id", "text_hash", "label"), 0)
    assert sorted(everything.texts) == sorted(text for _, text in TEXTS)
    for row, text in zip(everything.rows.to_pylist(), everything.texts, strict=True):
        assert TEXTS[int(row["id"])] == (row["label"], text)
        assert row["text_hash"] == text_hash(text)
    some = sampled_documents(source, ("id", "text_hash", "label"), 40)
    assert len(some.texts) == 40
    assert some.texts == sampled_documents(source, ("text_hash",), 40).texts
    hashes = [text_hash(text) for text in some.texts]
    assert hashes == sorted(hashes)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"task": "retrieve", "candidates": [{}]}, "compared by task=classify or cluster"),
        ({"candidates": [{"layers": [9]}]}, r"candidates\.layers: 9, and the model has layers 0"),
        ({"candidates": [{"model": "/nowhere"}]}, "/nowhere"),
        ({"candidates": [{"pooling": ["tokens"]}]}, "tokens is not a pooling of every layer"),
        ({"candidates": [{}], "label": "section"}, "section is not in the snapshot"),
    ],
)
def test_refusals(snapshot: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        _evaluate(snapshot, **settings)


def test_a_corpus_that_has_changed(corpus: Path, snapshot: str) -> None:
    part = corpus / "corpus" / "1.parquet"
    part.rename(corpus / "kept")
    try:
        with pytest.raises(UsageError, match=r"the corpus of the snapshot has changed since .*1\.parquet"):
            _evaluate(snapshot, candidates=[{}])
    finally:
        (corpus / "kept").rename(part)
