"""`gate.evaluate` in real nights: a worse model is refused with the figures, a better one is published. No Ray."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from jobs.evaluate import classify
from tests.drivers import Ended, docstrings_corpus
from tests.local_replicas import local_run

DOCUMENTS = 240
GOOD = {"pooling": "mean", "precision": "float32", "normalize": True, "max_tokens": 48}
ALLOWED = "gate.allow_model_change=true"


@pytest.fixture(autouse=True)
def _few_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    """As tests/jobs/evaluate/labelled.py: exactness is the subject of test_classify.py."""
    monkeypatch.setattr(classify, "FOLD_PASSES", 6)
    monkeypatch.setattr(classify, "FINAL_PASSES", 12)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gate") / "corpus"
    docstrings_corpus(folder, DOCUMENTS)
    return folder


def _embed(folder: Path, corpus: Path, minilm: Path, model: dict[str, Any], gate: dict[str, Any], *more: str) -> Ended:
    config = folder / "night.yaml"
    raw = {
        "corpus": {"uri": f"{corpus}/", "id": "id", "keep": ["package", "kind"]},
        "model": {"name": str(minilm)} | GOOD | model,
        "output": {"uri": str(folder / "out")},
        "cluster": {"address": "local", "replicas": 1, "cpus_per_replica": 1, "gpus_per_replica": 0},
        "gate": {"evaluate": gate},
    }
    config.write_text(yaml.safe_dump(raw))
    return local_run("embed", config, *more, "--json")


def _check(ended: Ended) -> dict[str, Any]:
    (found,) = [check for check in ended.summary["gate"] if check["name"] == "evaluate"]
    return dict(found)


@pytest.mark.slow
def test_worse_vectors_are_refused_and_better_ones_published(corpus: Path, minilm: Path, tmp_path: Path) -> None:
    gate = {"task": "classify", "label": "package", "c": [10.0], "split": {"folds": 2}}
    cut = {"truncate_dim": 16}
    first = _embed(tmp_path, corpus, minilm, cut, gate)
    assert first.rc == 0, first.log
    assert (_check(first)["skipped"], _check(first)["measured"] > 0) == (True, True), _check(first)

    better = _embed(tmp_path, corpus, minilm, {}, gate, ALLOWED)
    assert better.rc == 0, better.log
    assert _check(better)["measured"] > _check(first)["measured"] + 0.05

    worse = _embed(tmp_path, corpus, minilm, cut | {"max_tokens": 40}, gate, ALLOWED)
    assert worse.rc == 3, worse.log
    check = _check(worse)
    assert check["measured"] < _check(better)["measured"] - 0.01
    assert "the last snapshot's" in worse.log
    assert "F1 " in check["note"], "the classes that got worse are named"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("gate", "told"),
    [
        ({"task": "classify", "label": "package", "snapshot": "x"}, "gate.evaluate.snapshot: leave it out"),
        ({"task": "classify", "labels": "package"}, "did you mean label"),
        ({"task": "classify", "label": "package", "min": {"f1": 0.5}}, "f1 is no figure of task=classify"),
    ],
)
def test_bad_settings_are_refused_before_anything_is_written(
    gate: dict[str, Any], told: str, corpus: Path, minilm: Path, tmp_path: Path
) -> None:
    ended = _embed(tmp_path, corpus, minilm, {}, gate)
    assert (ended.rc, told in ended.log) == (2, True), ended.log
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_label_that_is_not_kept_refuses_the_run(corpus: Path, minilm: Path, tmp_path: Path) -> None:
    ended = _embed(tmp_path, corpus, minilm, {}, {"task": "classify", "label": "lang"})
    assert ended.rc in (2, 3), ended.log
    assert "lang is not in the snapshot" in ended.log
