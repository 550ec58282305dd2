"""What a model refuses: before the run where its files tell; by one line and exit 2 where a replica finds it; and a row that
it refuses is quarantined alone.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.dataset as ds
import pytest
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

import jobs.planning.request
from tests.local_replicas import local_embed, local_run
from tests.workers.families import FAMILIES, save_family
from workers.errors import StoreRefused, UsageError
from workers.replica.replica import Replica

pytestmark = pytest.mark.slow

TEXTS = ["snow", "hello [NEW] world", "plain"]


@pytest.fixture
def model(minilm: Path, tmp_path: Path) -> Path:
    return save_family(minilm, tmp_path / "model", FAMILIES["Bert"])


@pytest.fixture
def config(model: Path, tmp_path: Path) -> Path:
    (tmp_path / "corpus").mkdir()
    rows = [{"id": str(number), "text": text} for number, text in enumerate(TEXTS)]
    (tmp_path / "corpus/texts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    path = tmp_path / "run.yaml"
    path.write_text(
        f"corpus: {{uri: {tmp_path}/corpus/, id: id, text: text}}\n"
        f"model: {{name: {model}, precision: float32}}\n"
        f"output: {{uri: {tmp_path}/out}}\n"
        "cluster: {address: local, replicas: 1, cpus_per_replica: 1}\n"
        "run: {max_quarantined_rows: -1}\n"
    )
    return path


def add_token(model: Path) -> None:
    """As somebody does who forgets to resize the model."""
    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.add_tokens(["[NEW]"])
    tokenizer.save_pretrained(model)


@pytest.mark.parametrize("command", ["plan", "embed"])
def test_a_token_that_the_model_lacks_is_refused_before_the_run(config: Path, model: Path, command: str) -> None:
    add_token(model)
    ended = local_run(command, config)
    assert ended.rc == 2, ended.log
    assert "its tokenizer gives ids up to 30522, the model knows 30522 (vocab_size in config.json)" in ended.log
    assert not (config.parent / "out").exists()


def test_a_row_with_an_id_that_the_model_does_not_know_is_quarantined(
    config: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Behind the check of the plan: a replica must not rely on it."""
    add_token(model)
    monkeypatch.setattr(jobs.planning.request, "check_inputs", lambda *_: None)
    ended = local_embed(config)
    assert ended.rc == 0, ended.log
    folder = config.parent / "out"
    bad = ds.dataset(folder / "runs" / ended.summary["run_id"] / "quarantine").to_table().to_pylist()
    assert [row["id"] for row in bad] == ["1"]
    assert bad[0]["reason"].startswith("the tokenizer gives id 30522, the model knows 30522 tokens")
    rows = ds.dataset(ended.summary["data"]).to_table().to_pylist()
    assert sorted(row["id"] for row in rows) == ["0", "2"]
    assert all(np.isfinite(row["embedding"]).all() for row in rows)


def test_a_replica_that_refuses_the_model_ends_the_run_at_once(config: Path, model: Path) -> None:
    state = load_file(model / "model.safetensors")
    state["encoder.layer.2.output.dense.weight"][1, 2] = float("nan")
    save_file(state, model / "model.safetensors", {"format": "pt"})
    ended = local_embed(config)
    assert ended.rc == 2, ended.log
    assert "1 weights hold NaN or Inf (encoder.layer.2.output.dense.weight)" in ended.log
    assert ended.log.count("lost while") <= 1, "another replica was tried"


@pytest.mark.parametrize(("error", "status"), [(UsageError("model.name=m: cannot be"), 2), (StoreRefused("expired"), 4)])
def test_a_refusal_within_a_shard(config: Path, monkeypatch: pytest.MonkeyPatch, error: UsageError, status: int) -> None:
    """The request's own ends the run at once; a store's may be mended meanwhile, so the shard is tried again."""
    asked = []

    def refuse(*_: object) -> None:
        asked.append(1)
        raise error

    monkeypatch.setattr(Replica, "_tokenize", refuse)
    ended = local_embed(config, "run.stall_seconds=2")
    assert ended.rc == status, ended.log
    assert str(error) in ended.log
    assert (len(asked) > 1) == (status == 4)
