"""The job around a task: worse vectors are refused with the figure, better ones pass."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from jobs.evaluate import classify
from jobs.evaluate.classes import inputs
from jobs.evaluate.config import EvaluateConfig
from jobs.evaluate.job import EvaluateJob
from jobs.passes.kind import Kept, Outcome
from jobs.passes.source import SourceSnapshot
from tests.jobs.evaluate.labelled import Rows, drawn, publish
from tests.vector_snapshots import passes_over
from workers.errors import UsageError


def _run(output: Path, kept: Kept | None = None, **settings: object) -> Outcome:
    raw = {"evaluate": {"snapshot": str(output), "label": "lang", "c": [10.0], **settings}, "output": {"uri": "evaluation"}}
    job = EvaluateJob(EvaluateConfig.model_validate(raw))
    columns = job.check(SourceSnapshot.open(str(output), {}, "evaluate.snapshot"))
    with passes_over(output, columns) as passes:
        outcome = job.program(passes, kept)
        assert job.text(outcome.facts)
        return outcome


@pytest.mark.slow
def test_worse_vectors_are_refused_and_better_ones_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(classify, "sections", lambda *_: [])
    monkeypatch.setattr(classify, "FOLD_PASSES", 6)
    monkeypatch.setattr(classify, "FINAL_PASSES", 12)
    rows = drawn(1000, seed=13)
    publish(tmp_path / "good", rows)
    publish(tmp_path / "bad", Rows(rows.vectors[:, :4].copy(), rows.labels, rows.texts))
    good = _run(tmp_path / "good", min={"macro_f1": 0.3}, max_drop=0.01)
    assert [check.ok for check in good.checks] == [True]
    last = Kept("run", {}, good.facts)
    bad = _run(tmp_path / "bad", last, max_drop=0.01)
    assert [check.ok for check in bad.checks] == [False]
    assert f"from {good.facts['macro_f1']:.4f} to {bad.facts['macro_f1']:.4f}" in bad.checks[0].reason
    again = _run(tmp_path / "good", Kept("run", {}, bad.facts), max_drop=0.0)
    assert [check.ok for check in again.checks] == [True]


def test_settings_hold_no_credentials_but_the_runs_of_named_outputs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inputs, "open_published", lambda *_: SimpleNamespace(run_id="run 7", job="dedup"))
    split = {"by": "near", "groups": "s3://groups", "storage_options": {"secret": "hidden"}}
    section = {
        "snapshot": "s3://vectors",
        "label": "lang",
        "storage_options": {"secret": "hidden"},
        "split": split,
        "max_drop": 0.1,
    }
    kind = EvaluateJob(EvaluateConfig.model_validate({"evaluate": section, "output": {"uri": "evaluation"}}))
    kept = kind.settings()
    assert "hidden" not in str(kept)
    assert kept["max_drop"] == 0.1
    assert kept["outputs"] == {"groups": "run 7"}
    assert (kept["label"], kept["split"]["groups"]) == ("lang", "s3://groups")


def test_settings_that_cannot_be_are_refused_before_anything_is_read(tmp_path: Path) -> None:
    publish(tmp_path / "out", drawn(50))
    with pytest.raises(UsageError, match=r"evaluate\.min: ndcg is no figure of task=classify; there are macro_f1"):
        _run(tmp_path / "out", min={"ndcg": 0.3})
