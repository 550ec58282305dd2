"""What a run will take, foretold before it begins and kept with it; nothing is opened for it that the run would not open."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from jobs.planning import prediction
from jobs.planning.prediction import predict
from jobs.state.records import read_run, write_summary
from tests.jobs.report_samples import WORDS, planned_run
from workers.host.isolated_process import IsolatedProcess
from workers.inspection.text_sample import Drawn, draw


@pytest.mark.slow
def test_tokens_are_foretold_and_kept_with_the_run(tmp_path: Path, minilm: Path) -> None:
    run = planned_run(tmp_path, minilm)
    predicted = predict(run)
    assert predicted["tokens"] == pytest.approx(400 * (4 * 9 + 2), rel=0.05)
    assert (predicted["replica_hours"], predicted["cost_usd"]) == (None, None)
    run.begin("float32", None, 4096, predicted=predicted)
    record = read_run(run.store, run.run_id)
    assert record is not None
    assert record.extra["predicted"] == predicted


def test_hours_and_cost_by_the_rate_of_the_run_before(tmp_path: Path, minilm: Path) -> None:
    """`tokens` of a summary are those that replicas computed: copied parts add none."""
    before = planned_run(tmp_path, minilm)
    before.begin("float32", None, 4096)
    told = {"tokens": 1800, "replica_hours": 0.5, "rows": 10, "output_bytes": 10}
    write_summary(before.store, before.run_id, told)
    (tmp_path / "corpus" / "new.jsonl").write_text(json.dumps({"id": "n", "text": WORDS}) + "\n")
    told_again = predict(planned_run(tmp_path, minilm, price=2.0))
    assert told_again["tokens_per_second_per_replica"] == 1.0
    assert told_again["replica_hours"] == pytest.approx(told_again["tokens"] / 3600, rel=1e-3)
    assert told_again["cost_usd"] == pytest.approx(2 * told_again["replica_hours"], rel=1e-3)


@pytest.mark.slow
def test_what_is_carried_over_is_not_opened(tmp_path: Path, minilm: Path) -> None:
    run = planned_run(tmp_path, minilm)
    whole = predict(run)["tokens"]
    for piece in run.shards[0].slices:
        Path(piece.uri.removeprefix("file://")).unlink()
    run = replace(run, shards=[replace(run.shards[0], carried=0), *run.shards[1:]])
    share = 1 - run.shards[0].text_bytes / sum(shard.text_bytes for shard in run.shards)
    assert predict(run)["tokens"] == pytest.approx(whole * share, rel=0.05)
    carried = [replace(shard, carried=0) for shard in run.shards]
    assert predict(replace(run, shards=carried))["tokens"] == 0


@pytest.mark.slow
def test_sampling_ends_in_time(tmp_path: Path, minilm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = planned_run(tmp_path, minilm)
    every = predict(run)["sampled_documents"]
    monkeypatch.setattr(prediction, "PREDICTION_SECONDS", 0.0)
    assert 0 < predict(run)["sampled_documents"] < every


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "words"), [("kill", "ended the process by SIGKILL"), ("raise", "ArithmeticError: the poison works")]
)
def test_a_text_that_the_tokenizer_dies_of_costs_one_sample(
    how: str, words: str, tmp_path: Path, minilm: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    planned_run(tmp_path, minilm)
    (tmp_path / "corpus" / "zz.jsonl").write_text(json.dumps({"id": "n", "text": "Deadly to whoever tokenises it."}) + "\n")
    run = planned_run(tmp_path, minilm)
    pieces = {
        Path(piece.uri).name: replace(run.shards[0], slices=(piece,)) for shard in run.shards for piece in shard.slices
    }
    deadly, harmless = pieces.pop("zz.jsonl"), next(iter(pieces.values()))
    root = Path(__file__).resolve().parents[3]
    monkeypatch.setenv("PYTHONPATH", f"{root / 'tests' / 'faults' / 'poison'}:{root}")
    monkeypatch.setenv("REEMBED_POISON", "Deadly")
    monkeypatch.setenv("REEMBED_POISON_HOW", how)
    model, recipe = run.request.model.folder, run.request.recipe
    with IsolatedProcess() as isolated:
        assert draw(deadly, run.plan, 8, model, recipe, isolated) == Drawn()
        assert len(draw(harmless, run.plan, 8, model, recipe, isolated).hashes) == 8
    assert words in caplog.text
    assert "estimated without it" in caplog.text
